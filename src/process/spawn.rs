#![expect(unsafe_code, reason = "the zygote's guards are set between fork and exec")]
//! Starting a zygote process and reaping it, on a thread of its own.
//!
//! The kernel ties a parent-death signal to the *thread* that forked, so this thread lives as long
//! as the zygote does: until the zygote watches the host by itself, only the host's death ends it.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use tokio::sync::oneshot;

use super::exit::{Exit, ExitStatus as Ended};
use super::fds;
use super::lifeline::Lifeline;

/// What to execute; its standard input is empty.
pub(super) struct Program {
    pub(super) executable: PathBuf,
    pub(super) bootstrap: &'static str,
    pub(super) env: Vec<(String, String)>,
    /// The zygote's end of its lifeline; armed before the exec.
    pub(super) lifeline: OwnedFd,
    pub(super) fds: ZygoteFds,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// What a zygote inherits beside its lifeline, under the same numbers, which are its arguments.
pub(super) struct ZygoteFds {
    pub(super) bundle: OwnedFd,
    pub(super) control: OwnedFd,
    pub(super) host: OwnedFd,
}

/// The C library's bindings lack it on some targets; the kernel's number is the same on all that have Rust.
const F_SETSIG: i32 = 10;

/// How long a process that was let go may take to end.
const LEAVE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Resolves when the process has been reaped.
pub(super) type Reaped = oneshot::Receiver<Exit>;

/// Starts the process. `leash` is the far end of its lifeline too, which tells when it was let go.
/// The first answer is whether it could be executed; it is killed if nobody waits for that.
///
/// Once let go it has a second to end by itself, which it needs to find all that its workers left
/// behind; one that is stopped or stuck is then killed. `alive` is dropped when the thread has nothing left to do.
pub(super) fn spawn(
    program: Program,
    leash: OwnedFd,
    alive: impl Send + 'static,
) -> io::Result<oneshot::Receiver<io::Result<Reaped>>> {
    let (started, starting) = oneshot::channel();
    std::thread::Builder::new().name("snakebridge-zygote".into()).stack_size(256 * 1024).spawn(move || {
        // Last of all.
        let _alive = alive;
        let mut child = match command(program).spawn() {
            Ok(child) => child,
            Err(error) => return drop(started.send(Err(error))),
        };
        let (ended, reaped) = oneshot::channel();
        if started.send(Ok(reaped)).is_err() {
            // It is ours and not yet reaped, so that the signal cannot hit another.
            let _ = child.kill();
        }
        let pid = Pid::from_child(&child);
        if outlives(pid, leash) {
            let _ = child.kill();
        }
        let zombie = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        if zombie.is_ok() {
            // What preloaded modules started is in its group. Not reaped yet, it keeps the number its own.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        let status = child.wait().map_or(Ended::Unknown, ended_as);
        let _ = ended.send(Exit { status, max_rss: 0 });
    })?;
    Ok(starting)
}

/// Waits until the process has ended, or was let go and has not ended in time.
fn outlives(pid: Pid, leash: OwnedFd) -> bool {
    // Without a descriptor to watch it by, it is trusted to end.
    let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let has_ended = |polled: &[PollFd<'_>]| polled[0].revents().contains(PollFlags::IN);
    let mut both = [PollFd::new(&process, PollFlags::IN), PollFd::new(&leash, PollFlags::empty())];
    while let Err(Errno::INTR) = poll(&mut both, None) {}
    if has_ended(&both) {
        return false;
    }
    let mut one = [PollFd::new(&process, PollFlags::IN)];
    while let Err(Errno::INTR) = poll(&mut one, Some(&LEAVE)) {}
    !has_ended(&one)
}

fn ended_as(status: ExitStatus) -> Ended {
    Ended::from_wait(status.into_raw())
}

fn command(program: Program) -> Command {
    let Program { executable, bootstrap, env, lifeline, fds, stdout, stderr } = program;
    let mut command = Command::new(executable);
    command.args(["-S", "-c", bootstrap]).envs(env);
    let inherited = [&fds.bundle, &fds.control, &lifeline, &fds.host];
    command.args(inherited.map(|fd| OsString::from(fd.as_raw_fd().to_string())));
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    tie(&mut command, lifeline);
    let inherit = move || {
        for fd in [&fds.bundle, &fds.control, &fds.host] {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made, on what was allocated before.
    unsafe { command.pre_exec(inherit) };
    command
}

/// Ties what a command will start to this process: it is killed with its process group, which is
/// its own, when the returned lifeline closes; and it alone when the thread that starts it ends.
pub(crate) fn tied(command: &mut Command) -> io::Result<Lifeline> {
    let (here, far) = fds::lifeline_pair()?;
    tie(command, far);
    Ok(Lifeline::new(here))
}

fn tie(command: &mut Command, far: OwnedFd) {
    command.process_group(0);
    let host = rustix::process::getpid();
    let guard = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != Some(host) {
            // The host died before the signal was set, and nobody will send it.
            return Err(io::ErrorKind::NotConnected.into());
        }
        let group = rustix::process::getpid().as_raw_pid();
        // The owner and the signal belong to the open file: they survive the exec.
        for (operation, argument) in [
            (libc::F_SETOWN, -group),
            (F_SETSIG, libc::SIGKILL),
            (libc::F_SETFL, libc::O_RDWR | libc::O_ASYNC),
            (libc::F_SETFD, 0),
        ] {
            // SAFETY: the descriptor is open, owned by this closure; these operations take an int.
            if unsafe { libc::fcntl(far.as_raw_fd(), operation, argument) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made, on what was allocated before.
    unsafe { command.pre_exec(guard) };
}
