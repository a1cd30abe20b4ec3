#![expect(unsafe_code, reason = "the zygote's guards are set between fork and exec")]
//! Starting a zygote process and reaping it, on a thread of its own.
//!
//! The kernel ties a parent-death signal to the *thread* that forked, so this thread lives as long
//! as the zygote does: until the zygote watches the host by itself, only the host's death ends it.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use tokio::sync::oneshot;

use super::exit::{Exit, ExitStatus as Ended};

/// What to execute; its standard input is empty.
pub(super) struct Program {
    pub(super) executable: PathBuf,
    pub(super) bootstrap: &'static str,
    pub(super) env: Vec<(String, String)>,
    /// Inherited under the same numbers, which are its arguments.
    pub(super) fds: Vec<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Resolves when the process has been reaped.
pub(super) type Reaped = oneshot::Receiver<Exit>;

/// Starts the process. The first answer is whether it could be executed; it is killed if nobody waits for that.
pub(super) fn spawn(program: Program) -> io::Result<oneshot::Receiver<io::Result<Reaped>>> {
    let (started, starting) = oneshot::channel();
    std::thread::Builder::new().name("snakebridge-zygote".into()).stack_size(256 * 1024).spawn(move || {
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

fn ended_as(status: ExitStatus) -> Ended {
    Ended::from_wait(status.into_raw())
}

fn command(program: Program) -> Command {
    let Program { executable, bootstrap, env, fds, stdout, stderr } = program;
    let mut command = Command::new(executable);
    command.args(["-S", "-c", bootstrap]).envs(env);
    command.args(fds.iter().map(|fd| OsString::from(fd.as_raw_fd().to_string())));
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
    let host = rustix::process::getpid();
    let guard = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != Some(host) {
            // The host died before the signal was set, and nobody will send it.
            return Err(io::ErrorKind::NotConnected.into());
        }
        for fd in &fds {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made, on what was allocated before.
    unsafe { command.pre_exec(guard) };
    command
}
