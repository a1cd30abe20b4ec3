//! What goes to one worker, in order, through a socket that may be full and blocks that may be lent.

use super::request::Request;
use crate::error::{Error, Ran};
use crate::id::CallId;
use crate::pickle;
use crate::process::{BadBlock, BlockPool, Channel, First, INLINE_LIMIT, Page, monotonic_nanos};
use crate::rules::lane::Sent;
use crate::wire::{Body, HostEnded, Order, ToWorker};
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::task::{Context, Poll};
use std::time::Instant;

/// An inline body of at most this many bytes is copied behind its header: cheaper than a second part.
const JOINED: usize = 4096;

pub(crate) struct Outbox {
    channel: Channel,
    blocks: BlockPool,
    waiting: VecDeque<Waiting>,
    /// Blocks of the worker that were read: the next message names them.
    released: Vec<u32>,
    head: Vec<u8>,
    is_broken: bool,
}

enum Waiting {
    /// The socket was full. The call that it answers, if it is an answer.
    Message(Vec<u8>, Option<u64>),
    /// Every block was lent. Its body is still with its request.
    Call { call: CallId, sent: Sent, plan: Vec<u8> },
    /// The same of the answer to a call that waits for its callback.
    Answer { seq: u64, entry: u32, ended: HostEnded, body: Vec<u8> },
}

impl Outbox {
    pub(crate) fn new(channel: Channel, blocks: BlockPool) -> Self {
        Self {
            channel,
            blocks,
            waiting: VecDeque::new(),
            released: Vec::new(),
            head: Vec::with_capacity(512),
            is_broken: false,
        }
    }

    /// The worker's block has been read.
    pub(crate) fn release(&mut self, block: u32) {
        self.released.push(block);
    }

    /// The worker has read a block of the host.
    ///
    /// # Errors
    /// It never had it.
    pub(crate) fn on_released(&mut self, block: u32) -> Result<(), BadBlock> {
        self.blocks.released(block)
    }

    pub(crate) fn send(&mut self, message: impl FnOnce(Vec<u32>) -> ToWorker<'static>, page: &Page) {
        message(std::mem::take(&mut self.released)).encode(cleared(&mut self.head));
        self.transmit(&[], None, page);
    }

    /// Asks whether the worker takes messages. It names no blocks.
    pub(crate) fn ping(&mut self, page: &Page) {
        ToWorker::Ping.encode(cleared(&mut self.head));
        self.transmit(&[], None, page);
    }

    /// Sends a call, or keeps it until there is room.
    ///
    /// # Errors
    /// There is no memory for its body. It waits, to be revoked: with its request gone it is sent as an
    /// empty shell, for the worker to pass.
    pub(crate) fn send_call(&mut self, request: &Request, sent: Sent, page: &Page) -> io::Result<()> {
        // Behind another that waits for a block it waits as well: calls are numbered in this order.
        let blocked = self.waits_for_block();
        let outcome = match blocked {
            true => Ok(false),
            false => self.try_call(request.call, request.deadline, sent, &request.plan, &request.body, page),
        };
        if !matches!(outcome, Ok(true)) {
            self.waiting.push_back(Waiting::Call { call: request.call, sent, plan: request.plan.clone() });
        }
        outcome.map(drop)
    }

    fn waits_for_block(&self) -> bool {
        self.waiting.iter().any(|waiting| matches!(waiting, Waiting::Call { .. } | Waiting::Answer { .. }))
    }

    /// Sends what a call waits for, or keeps it until there is room. One that there is no memory for becomes
    /// a failure.
    pub(crate) fn send_answer(&mut self, seq: u64, entry: u32, ended: HostEnded, body: Vec<u8>, page: &Page) {
        if self.waits_for_block() || !self.try_answer(seq, entry, ended, &body, page) {
            self.waiting.push_back(Waiting::Answer { seq, entry, ended, body });
        }
    }

    /// `false`: every block is lent.
    fn try_answer(&mut self, seq: u64, entry: u32, ended: HostEnded, body: &[u8], page: &Page) -> bool {
        let (ended, place, inline) = if body.len() <= INLINE_LIMIT {
            (ended, Body::inline(body.len()), Cow::Borrowed(body))
        } else {
            match self.blocks.put(&[body]) {
                Ok(block) => (ended, Body::block(block.index, body.len()), Cow::Borrowed(&[][..])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    let what = format!("the host has no memory for the answer: {error}");
                    let failed = pickle::describe(&Error::internal(what, Ran::Yes)).bytes;
                    (HostEnded::Failed, Body::inline(failed.len()), Cow::Owned(failed))
                }
            }
        };
        let released = std::mem::take(&mut self.released);
        ToWorker::HostReply { seq, entry, ended, body: place, released }.encode(cleared(&mut self.head));
        self.transmit(&inline, Some(seq), page);
        true
    }

    /// `false`: every block is lent. Where it is lost, the exit of the worker decides about it, as of all that was sent.
    fn try_call(
        &mut self,
        call: CallId,
        deadline: Option<Instant>,
        sent: Sent,
        plan: &[u8],
        body: &[u8],
        page: &Page,
    ) -> io::Result<bool> {
        let (place, inline) = if body.len() <= INLINE_LIMIT {
            (Body::inline(body.len()), body)
        } else {
            match self.blocks.put(&[body]) {
                Ok(block) => (Body::block(block.index, body.len()), &[][..]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                // The other end of the side socket is closed, most likely by a death: as a message that is lost.
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    self.is_broken = true;
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
        };
        let order = Order {
            seq: sent.seq,
            call: call.0,
            deadline: deadline.map_or(0, monotonic_nanos),
            entry: sent.entry,
            body: place,
            released: std::mem::take(&mut self.released),
            plan: Cow::Borrowed(plan),
        };
        let message = if sent.nested { ToWorker::Nested(order) } else { ToWorker::Call(order) };
        message.encode(cleared(&mut self.head));
        if inline.len() <= JOINED {
            self.head.extend_from_slice(inline);
            self.transmit(&[], None, page);
        } else {
            self.transmit(inline, None, page);
        }
        Ok(true)
    }

    /// Sends what stands in `head` and `body` behind it, or keeps both.
    fn transmit(&mut self, body: &[u8], answers: Option<u64>, page: &Page) {
        if !self.waiting.is_empty() || !self.try_send(body, page) {
            let mut message = std::mem::take(&mut self.head);
            message.extend_from_slice(body);
            self.waiting.push_back(Waiting::Message(message, answers));
        }
    }

    /// Whether anything waits for room in the socket or for a block.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the answer to something that the call has asked has yet to be sent.
    pub(crate) fn owes_answer(&self, call: u64) -> bool {
        self.waiting.iter().any(|waiting| match waiting {
            Waiting::Message(_, answers) => *answers == Some(call),
            Waiting::Answer { seq, .. } => *seq == call,
            Waiting::Call { .. } => false,
        })
    }

    /// Whether blocks were read of which the worker has yet to hear.
    pub(crate) fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    /// Whether a message was lost: its worker takes none any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    fn try_send(&mut self, body: &[u8], page: &Page) -> bool {
        let parts = [IoSlice::new(&self.head), IoSlice::new(body)];
        match self.channel.try_send(if body.is_empty() { &parts[..1] } else { &parts }) {
            Ok(true) => {
                page.count_sent();
                true
            }
            Ok(false) => false,
            // It is gone or has to go: its exit decides about everything that was ever sent.
            Err(_) => {
                self.is_broken = true;
                true
            }
        }
    }

    /// Sends what waits, as far as there is room, and registers for more.
    ///
    /// # Errors
    /// As [`send_call`](Self::send_call), of which call.
    pub(crate) fn poll_flush(
        &mut self,
        task: &mut Context<'_>,
        requests: &BTreeMap<CallId, Box<Request>>,
        page: &Page,
    ) -> Result<(), (CallId, io::Error)> {
        while let Some(waiting) = self.waiting.pop_front() {
            match waiting {
                Waiting::Message(message, answers) => {
                    self.head = message;
                    if !self.try_send(&[], page) {
                        self.waiting.push_front(Waiting::Message(std::mem::take(&mut self.head), answers));
                        match self.channel.poll_send_ready(task) {
                            Poll::Ready(Ok(())) => {}
                            Poll::Ready(Err(_)) | Poll::Pending => return Ok(()),
                        }
                    }
                }
                Waiting::Answer { seq, entry, ended, body } => {
                    let later = std::mem::take(&mut self.waiting);
                    let placed = self.try_answer(seq, entry, ended, &body, page);
                    self.waiting.extend(later);
                    if !placed {
                        self.waiting.push_front(Waiting::Answer { seq, entry, ended, body });
                        return Ok(());
                    }
                }
                Waiting::Call { call, sent, plan } => {
                    // One that was taken back meanwhile is sent as an empty shell, for the worker to pass.
                    let request = requests.get(&call);
                    let body = request.map_or(&[][..], |request| &request.body);
                    let deadline = request.and_then(|request| request.deadline);
                    let later = std::mem::take(&mut self.waiting);
                    let placed = self.try_call(call, deadline, sent, &plan, body, page);
                    self.waiting.extend(later);
                    if !matches!(placed, Ok(true)) {
                        self.waiting.push_front(Waiting::Call { call, sent, plan });
                        return placed.map(drop).map_err(|error| (call, error));
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) fn poll_recv(
        &mut self,
        task: &mut Context<'_>,
        buffer: &mut [u8],
        first: First,
        last: bool,
    ) -> Poll<io::Result<usize>> {
        self.channel.poll_recv(task, buffer, first, last)
    }
}

fn cleared(head: &mut Vec<u8>) -> &mut Vec<u8> {
    head.clear();
    head
}
