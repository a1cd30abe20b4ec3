//! What a zygote tells, in the order in which it happened.

use super::exit::{Exit, ExitStatus};
use super::fds::{self, Message};
use super::spawn::Reaped;
use super::{Output, link::FarEnds};
use crate::id::WorkerId;
use futures::Stream;
use serde::Deserialize;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A fact about a zygote or one of its workers.
#[derive(Debug)]
pub(crate) enum ZygoteEvent {
    /// The worker's process is there; it is not ready yet. Without a pidfd this process had no room for it.
    Forked { worker: WorkerId, pid: u32, pidfd: Option<OwnedFd> },
    /// It never was.
    ForkFailed { worker: WorkerId, why: String },
    /// The worker's process is gone and was reaped.
    Exited { worker: WorkerId, exit: Exit },
    /// The zygote is gone: the last event. Its workers live on, and nobody will tell how they end.
    Gone { why: String },
}

/// What the zygote writes, as JSON; a `forked` report carries the worker's pidfd.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    Ready { lifeline: bool, exec_because: Option<String>, pid_namespace: bool },
    Failed { permanent: bool, what: String },
    Forked { id: u64, pid: u32 },
    ForkFailed { id: u64, why: String },
    Exited { id: u64, status: i32, max_rss: u64 },
}

/// A report with the descriptor that came along.
pub(super) type Received = (Report, Option<OwnedFd>);

/// The control socket, with what waits to be sent on it and who is known behind it.
#[derive(Debug)]
pub(super) struct Control {
    socket: AsyncFd<OwnedFd>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    workers: BTreeMap<u64, WorkerId>,
    next: u64,
    /// Requests that the full socket did not take; at most one for each slot of the pool.
    waiting: VecDeque<(Vec<u8>, FarEnds)>,
    reader: Option<Waker>,
}

/// A report is a line of JSON; only a traceback makes it long, and the zygote cuts it.
const REPORT_LIMIT: usize = 64 * 1024;

impl Control {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = fds::watch(socket, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { socket, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a fork request, or keeps it until the socket takes it.
    pub(super) fn request(&self, worker: &WorkerId, ref_base: u64, ends: FarEnds) -> io::Result<()> {
        let mut state = self.state();
        state.next += 1;
        let id = state.next;
        let request = serde_json::json!({"id": id, "worker": worker.to_string(), "ref_base": ref_base});
        state.workers.insert(id, worker.clone());
        state.waiting.push_back((request.to_string().into_bytes(), ends));
        let sent = self.flush(&mut state);
        if sent.is_err() {
            state.workers.remove(&id);
            state.waiting.pop_back();
        }
        if !state.waiting.is_empty()
            && let Some(reader) = state.reader.take()
        {
            reader.wake();
        }
        sent
    }

    fn flush(&self, state: &mut State) -> io::Result<()> {
        while let Some((request, ends)) = state.waiting.front() {
            match fds::send(self.socket.get_ref(), request, &ends.borrowed()) {
                Ok(()) => drop(state.waiting.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends what waits, once there is room; ready when nothing waits, or nobody will take it.
    fn poll_flushed(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut state = self.state();
            if state.waiting.is_empty() {
                state.reader = Some(cx.waker().clone());
                return Poll::Ready(());
            }
            let Ok(mut guard) = ready!(self.socket.poll_write_ready(cx)) else { return Poll::Ready(()) };
            if self.flush(&mut state).is_err() {
                return Poll::Ready(());
            }
            if !state.waiting.is_empty() {
                guard.clear_ready();
            }
        }
    }

    /// The next report; `None` at the end.
    pub(super) fn poll_report(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Received>>> {
        loop {
            let mut guard = ready!(self.socket.poll_read_ready(cx))?;
            match self.report() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                read => return Poll::Ready(read),
            }
        }
    }

    /// Of a zygote that is gone: what it has sent is there, though the runtime need not have heard of it.
    fn last_report(&self) -> io::Result<Option<Received>> {
        match self.report() {
            // A process that it left behind may hold the other end open.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            read => read,
        }
    }

    fn report(&self) -> io::Result<Option<Received>> {
        let mut bytes = vec![0; REPORT_LIMIT];
        let Message { length, mut fds, .. } = fds::recv(self.socket.get_ref(), &mut bytes)?;
        match length {
            0 => Ok(None),
            _ => Ok(Some((serde_json::from_slice(&bytes[..length])?, fds.pop()))),
        }
    }
}

/// The events of one zygote; ends after [`ZygoteEvent::Gone`]. It must be polled for forks to go on.
#[derive(Debug)]
#[must_use = "a stream does nothing unless it is polled"]
pub(crate) struct ZygoteEvents {
    control: Arc<Control>,
    reaped: Reaped,
    output: Output,
    exit: Option<Exit>,
    open: bool,
    over: bool,
    broken: Option<String>,
}

impl ZygoteEvents {
    pub(super) fn new(control: Arc<Control>, reaped: Reaped, output: Output) -> Self {
        Self { control, reaped, output, exit: None, open: true, over: false, broken: None }
    }

    fn event(&self, report: Report, pidfd: Option<OwnedFd>) -> Result<ZygoteEvent, String> {
        let mut state = self.control.state();
        let unknown = |id: u64| format!("it told of worker {id}, which it was never asked for");
        match report {
            Report::Forked { id, pid } => {
                let worker = state.workers.get(&id).cloned().ok_or_else(|| unknown(id))?;
                Ok(ZygoteEvent::Forked { worker, pid, pidfd })
            }
            Report::ForkFailed { id, why } => {
                let worker = state.workers.remove(&id).ok_or_else(|| unknown(id))?;
                Ok(ZygoteEvent::ForkFailed { worker, why })
            }
            Report::Exited { id, status, max_rss } => {
                let worker = state.workers.remove(&id).ok_or_else(|| unknown(id))?;
                let status = ExitStatus::from_wait(status);
                Ok(ZygoteEvent::Exited { worker, exit: Exit { status, max_rss } })
            }
            Report::Ready { .. } | Report::Failed { .. } => Err("it reported its start twice".to_owned()),
        }
    }

    fn gone(&mut self, exit: Exit) -> ZygoteEvent {
        self.over = true;
        let mut why = format!("the zygote ended: {exit}");
        if let Some(broken) = &self.broken {
            why = format!("the zygote broke the protocol: {broken}");
        }
        let tail = self.output.stderr_tail();
        if !tail.is_empty() {
            why = format!("{why}\n{tail}");
        }
        ZygoteEvent::Gone { why }
    }
}

impl Stream for ZygoteEvents {
    type Item = ZygoteEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ZygoteEvent>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.exit.is_none()
            && let Poll::Ready(exit) = Pin::new(&mut self.reaped).poll(cx)
        {
            self.exit = Some(exit.unwrap_or(Exit::UNKNOWN));
        }
        if self.open {
            let _ = self.control.poll_flushed(cx);
            let told = match self.exit {
                Some(_) => Poll::Ready(self.control.last_report()),
                None => self.control.poll_report(cx),
            };
            match told {
                Poll::Ready(Ok(Some((report, pidfd)))) => match self.event(report, pidfd) {
                    Ok(event) => return Poll::Ready(Some(event)),
                    Err(broken) => self.broken = Some(broken),
                },
                Poll::Ready(Ok(None)) => self.open = false,
                Poll::Ready(Err(error)) => self.broken = Some(error.to_string()),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.broken.is_some() {
            // Nothing that it says can be relied on any more: the owner drops the zygote, which ends it.
            let event = self.gone(Exit::UNKNOWN);
            return Poll::Ready(Some(event));
        }
        match self.exit {
            Some(exit) => {
                let event = self.gone(exit);
                Poll::Ready(Some(event))
            }
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Link;
    use super::*;
    use futures::StreamExt;
    use std::os::fd::AsFd;

    #[tokio::test]
    async fn what_a_zygote_told_before_its_end_is_heard_before_that() {
        let pipe = || fds::output_pipe().expect("a pipe");
        let ((here, far), (stdout, _), (stderr, _)) = (fds::message_pair().expect("a pair"), pipe(), pipe());
        let control = Arc::new(Control::new(here).expect("a runtime"));
        let (_, ends) = Link::new(&WorkerId::new("test".into(), 0, 1), 1).expect("a link");
        control.request(&WorkerId::new("test".into(), 0, 1), 0, ends).expect("there is room");
        let output = Output::capture(&"test".into(), "test", stdout, stderr).expect("a runtime");
        let (reaped, is_reaped) = tokio::sync::oneshot::channel();
        let mut events = ZygoteEvents::new(control, is_reaped, output);

        // Nothing runs in between, so that the runtime has heard of the exit and not of the report.
        let (pidfd, _alive) = pipe();
        fds::send(&far, br#"{"forked": {"id": 1, "pid": 7}}"#, &[pidfd.as_fd()]).expect("there is room");
        reaped.send(Exit::UNKNOWN).expect("somebody waits");
        assert!(matches!(events.next().await, Some(ZygoteEvent::Forked { pid: 7, .. })));
        assert!(matches!(events.next().await, Some(ZygoteEvent::Gone { .. })), "a fork of it holds the socket");
        assert!(events.next().await.is_none());
    }

    #[tokio::test]
    async fn requests_that_a_full_socket_does_not_take_wait_in_order() {
        let (here, far) = fds::message_pair().expect("a pair");
        let control = Control::new(here).expect("a runtime");
        let mut sent = 0;
        while control.state().waiting.len() < 3 {
            let (_, ends) = Link::new(&WorkerId::new("test".into(), sent, 1), 1).expect("a link");
            control.request(&WorkerId::new("test".into(), sent, 1), 0, ends).expect("it is taken or waits");
            sent += 1;
            assert!(sent < 5_000, "a bounded socket");
        }
        let mut bytes = [0; 1024];
        for expected in 0..sent {
            let Message { length, fds, .. } = fds::recv(&far, &mut bytes).expect("a request");
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            assert!(text.contains(&format!("\"test/{expected}#1\"")) && fds.len() == 6, "{text}");
            let flushed = tokio::time::timeout(
                std::time::Duration::from_millis(if expected == 0 { 100 } else { 0 }),
                std::future::poll_fn(|cx| control.poll_flushed(cx)),
            );
            let _ = flushed.await;
        }
        assert!(control.state().waiting.is_empty());
    }
}
