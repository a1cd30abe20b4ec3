//! Test only: the far ends of zygotes and workers that have no process. Whoever plays them does what the kernel and
//! Python would do there; on this side nothing knows of it.

use super::reports::{Control, ZygoteEvents};
use super::{BlockPool, BlockTable, Channel, Exit, Lifeline, Output, Page, StartError, Zygote, fds};
use crate::config::PoolConfig;
use crate::id::PoolName;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

type Started = Result<(Zygote, ZygoteEvents), StartError>;

thread_local! {
    static STAGE: RefCell<Option<mpsc::UnboundedSender<Wanted>>> = const { RefCell::new(None) };
}

/// The pools of this thread start no zygote from now on, but ask for it here, until the receiver is dropped.
pub(crate) fn stage() -> mpsc::UnboundedReceiver<Wanted> {
    let (stage, wanted) = mpsc::unbounded_channel();
    STAGE.set(Some(stage));
    wanted
}

/// `None`: no such zygote is played on this thread.
pub(crate) async fn start(config: &PoolConfig) -> Option<Started> {
    let stage = STAGE.with_borrow(Clone::clone)?;
    let (answer, answered) = oneshot::channel();
    stage.send(Wanted { pool: config.name.clone(), concurrency: config.concurrency, answer }).ok()?;
    answered.await.ok()
}

/// A pool wants a zygote.
pub(crate) struct Wanted {
    pool: PoolName,
    concurrency: usize,
    answer: oneshot::Sender<Started>,
}

impl Wanted {
    pub(crate) fn fail(self, permanent: bool, what: &str) {
        // The pool may have stopped meanwhile.
        let _gone = self.answer.send(Err(StartError { permanent, what: what.to_owned() }));
    }

    /// It stands ready.
    pub(crate) fn start(self) -> io::Result<FarZygote> {
        let (control, far_control) = fds::message_pair()?;
        let (lifeline, far_lifeline) = fds::lifeline_pair()?;
        let (stdout, far_stdout) = fds::output_pipe()?;
        let (stderr, far_stderr) = fds::output_pipe()?;
        let (reaped, is_reaped) = oneshot::channel();
        let output = Output::capture(&self.pool, &format!("{}/zygote", self.pool), stdout, stderr)?;
        let control = Arc::new(Control::new(control)?);
        let zygote = Zygote::played(Arc::clone(&control), self.concurrency, Lifeline::new(lifeline));
        let _gone = self.answer.send(Ok((zygote, ZygoteEvents::new(control, is_reaped, output))));
        rustix::io::ioctl_fionbio(&far_control, true)?;
        Ok(FarZygote {
            control: fds::watch(far_control, Interest::READABLE)?,
            lifeline: Leash::new(far_lifeline)?,
            reaped: Cell::new(Some(reaped)),
            has_ended: Cell::new(false),
            outputs: [far_stdout, far_stderr],
        })
    }
}

/// The far end of a lifeline.
pub(crate) struct Leash(AsyncFd<OwnedFd>);

impl Leash {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(fds::watch(fd, Interest::READABLE)?))
    }

    /// Resolves when this side lets go of it: the kernel kills what it holds.
    pub(crate) async fn let_go(&self) {
        let _gone = self.0.readable().await.map(|mut guard| guard.retain_ready());
    }
}

/// What a zygote has of its host.
pub(crate) struct FarZygote {
    control: AsyncFd<OwnedFd>,
    pub(crate) lifeline: Leash,
    reaped: Cell<Option<oneshot::Sender<Exit>>>,
    has_ended: Cell<bool>,
    outputs: [OwnedFd; 2],
}

impl FarZygote {
    /// The next worker that is asked for; never, once nobody is left to ask.
    pub(crate) async fn asked(&self) -> Asked {
        let mut bytes = [0; 1024];
        loop {
            let Ok(mut guard) = self.control.readable().await else { return std::future::pending().await };
            match fds::recv(self.control.get_ref(), &mut bytes) {
                Ok(message) if message.length == 0 => return std::future::pending().await,
                Ok(message) => {
                    let request: serde_json::Value =
                        serde_json::from_slice(&bytes[..message.length]).expect("a request");
                    let number = |key: &str| request[key].as_u64().expect("a number");
                    let worker = request["worker"].as_str().expect("a name").into();
                    let fds = message.fds.try_into().expect("the ends of one worker");
                    return Asked { id: number("id"), worker, ref_base: number("ref_base"), fds };
                }
                Err(_) => guard.clear_ready(),
            }
        }
    }

    /// Whether it lives to tell.
    pub(crate) fn forked(&self, id: u64, pid: u32, pidfd: &OwnedFd) -> bool {
        self.report(&serde_json::json!({"forked": {"id": id, "pid": pid}}), &[pidfd.as_fd()]);
        !self.has_ended.get()
    }

    pub(crate) fn fork_failed(&self, id: u64, why: &str) {
        self.report(&serde_json::json!({"fork_failed": {"id": id, "why": why}}), &[]);
    }

    pub(crate) fn exited(&self, id: u64, status: i32) {
        self.report(&serde_json::json!({"exited": {"id": id, "status": status, "max_rss": 1}}), &[]);
    }

    fn report(&self, report: &serde_json::Value, fds: &[BorrowedFd<'_>]) {
        if self.has_ended.get() {
            return;
        }
        match fds::send(self.control.get_ref(), report.to_string().as_bytes(), fds) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("nobody reads the reports"),
            // The host may have gone.
            _ => {}
        }
    }

    /// It has ended, and says nothing more. To be used when it is reaped.
    pub(crate) fn end(&self) -> Option<oneshot::Sender<Exit>> {
        self.has_ended.set(true);
        self.reaped.take()
    }

    pub(crate) fn leftovers(&self) -> io::Result<Leftovers> {
        Leftovers::of(&self.outputs)
    }
}

/// A worker that is asked for.
pub(crate) struct Asked {
    pub(crate) id: u64,
    pub(crate) worker: String,
    pub(crate) ref_base: u64,
    fds: [OwnedFd; 6],
}

/// What a worker has of its host.
pub(crate) struct FarLink {
    pub(crate) channel: Channel,
    pub(crate) outgoing: BlockPool,
    pub(crate) incoming: BlockTable,
    pub(crate) page: Page,
    outputs: [OwnedFd; 2],
}

impl Asked {
    pub(crate) fn link(self) -> io::Result<(FarLink, Leash)> {
        let [channel, side, lifeline, page, stdout, stderr] = self.fds;
        rustix::io::ioctl_fionbio(&side, true)?;
        let side = Arc::new(side);
        let link = FarLink {
            channel: Channel::new(channel)?,
            outgoing: BlockPool::new(Arc::clone(&side)),
            incoming: BlockTable::new(side),
            page: Page::far(&page)?,
            outputs: [stdout, stderr],
        };
        Ok((link, Leash::new(lifeline)?))
    }
}

impl FarLink {
    /// Its process lives on.
    pub(crate) fn close_channel(&self) {
        self.channel.close();
    }

    pub(crate) fn say(&self, line: &str) {
        let _full = rustix::io::write(&self.outputs[1], line.as_bytes());
    }

    pub(crate) fn leftovers(&self) -> io::Result<Leftovers> {
        Leftovers::of(&self.outputs)
    }
}

/// What stands for a process that lives: the one end of it is its pidfd, and the other is dropped when it ends.
pub(crate) fn life() -> io::Result<(OwnedFd, OwnedFd)> {
    fds::output_pipe()
}

/// Far ends that tell whether this side has let go of the near ones.
pub(crate) struct Leftovers(Vec<OwnedFd>);

impl Leftovers {
    fn of(outputs: &[OwnedFd]) -> io::Result<Self> {
        Ok(Self(outputs.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?))
    }

    pub(crate) fn are_left(&self) -> bool {
        self.0.iter().any(|end| {
            let mut polled = [PollFd::new(end, PollFlags::empty())];
            let _ready = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
            polled[0].revents().is_empty()
        })
    }
}
