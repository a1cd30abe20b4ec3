//! How a process ended, as a person reads it.

use std::fmt;

/// How a process ended, with what it used at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) status: ExitStatus,
    /// The most memory it ever had resident, in bytes; 0 if unknown.
    pub(crate) max_rss: u64,
}

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    Code(i32),
    Signal(i32),
    /// Its parent was gone before it could say.
    Unknown,
}

impl Exit {
    /// The exit of a process whose status nobody is left to tell.
    pub(crate) const UNKNOWN: Self = Self { status: ExitStatus::Unknown, max_rss: 0 };

    /// Whether a kill by its host may have ended it.
    pub(crate) fn may_be_a_kill(&self) -> bool {
        match self.status {
            ExitStatus::Signal(signal) => signal == rustix::process::Signal::KILL.as_raw(),
            ExitStatus::Unknown => true,
            ExitStatus::Code(_) => false,
        }
    }
}

impl ExitStatus {
    /// Reads what `waitpid` reports.
    pub(crate) fn from_wait(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Code(status >> 8 & 0xff),
            0x7f => Self::Unknown,
            signal => Self::Signal(signal),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.status.fmt(f)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => match signal_name(signal) {
                Some(name) => write!(f, "signal {signal} ({name})"),
                None => write!(f, "signal {signal}"),
            },
            Self::Unknown => f.write_str("exit status unknown"),
        }
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    use rustix::process::Signal;
    Some(match Signal::from_named_raw(signal)? {
        Signal::HUP => "SIGHUP",
        Signal::INT => "SIGINT",
        Signal::QUIT => "SIGQUIT",
        Signal::ILL => "SIGILL",
        Signal::TRAP => "SIGTRAP",
        Signal::ABORT => "SIGABRT",
        Signal::BUS => "SIGBUS",
        Signal::FPE => "SIGFPE",
        Signal::KILL => "SIGKILL",
        Signal::USR1 => "SIGUSR1",
        Signal::SEGV => "SIGSEGV",
        Signal::USR2 => "SIGUSR2",
        Signal::PIPE => "SIGPIPE",
        Signal::ALARM => "SIGALRM",
        Signal::TERM => "SIGTERM",
        Signal::IO => "SIGIO",
        Signal::XCPU => "SIGXCPU",
        Signal::XFSZ => "SIGXFSZ",
        Signal::SYS => "SIGSYS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_reads_as_a_person_says_it() {
        assert_eq!(ExitStatus::from_wait(3 << 8).to_string(), "exit status 3");
        assert_eq!(ExitStatus::from_wait(0).to_string(), "exit status 0");
        assert_eq!(ExitStatus::from_wait(9).to_string(), "signal 9 (SIGKILL)");
        assert_eq!(ExitStatus::from_wait(11 | 0x80).to_string(), "signal 11 (SIGSEGV)", "a core dump changes nothing");
        assert_eq!(ExitStatus::from_wait(40).to_string(), "signal 40");
        assert_eq!(Exit::UNKNOWN.to_string(), "exit status unknown");
    }
}
