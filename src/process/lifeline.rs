//! What ties a worker's life to this side, and what tells of its death.

use super::fds;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::Shutdown;
use rustix::process::Signal;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The host's end of a lifeline: when it closes, for whatever reason, the kernel kills the worker's
/// whole process group, and a zygote ends with all its workers.
#[derive(Debug)]
#[must_use = "dropping it kills the worker"]
pub(crate) struct Lifeline {
    end: OwnedFd,
}

impl Lifeline {
    pub(super) fn new(end: OwnedFd) -> Self {
        Self { end }
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // Closing alone is not enough while a fork of this process, on its way to an exec or not,
        // holds the descriptor too. That it fails for a worker which is dead already does not matter.
        let _ = rustix::net::shutdown(&self.end, Shutdown::Both);
    }
}

/// Resolves when the process has exited, whoever is its parent.
#[derive(Debug)]
pub(crate) struct DeathWatch {
    pidfd: AsyncFd<OwnedFd>,
}

impl DeathWatch {
    /// Needs a runtime with I/O.
    pub(crate) fn new(pidfd: OwnedFd) -> io::Result<Self> {
        Ok(Self { pidfd: fds::watch(pidfd, Interest::READABLE)? })
    }

    pub(crate) fn poll_dead(&self, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(self.pidfd.poll_read_ready(cx)) {
            Ok(mut guard) => guard.retain_ready(),
            // The runtime is going away and will never tell; its owner is going with it.
            Err(_) => return Poll::Pending,
        }
        Poll::Ready(())
    }

    /// Whether it has not exited.
    pub(crate) fn lives(&self) -> bool {
        let mut polled = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(0)
    }

    /// Whether it is certain that it runs: one whose sockets the kernel closes because it ends is marked before
    /// that, and its exit is told a moment later.
    pub(crate) fn runs_on(&self) -> bool {
        /// `PF_EXITING` of the kernel.
        const ENDS: u64 = 0x4;
        let flags = || {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.pidfd.as_raw_fd())).ok()?;
            let pid: u32 = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name, in parentheses, may hold anything.
            stat.rsplit_once(')')?.1.split_whitespace().nth(6)?.parse::<u64>().ok()
        };
        // Asked last, so that what was read was not of another process with its number.
        flags().is_some_and(|flags| flags & ENDS == 0) && self.lives()
    }

    /// Signals this very process, whatever group it is in.
    ///
    /// # Errors
    /// `ESRCH` when it is gone.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(self.pidfd.get_ref(), signal)?)
    }
}

impl Future for DeathWatch {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_dead(cx)
    }
}
