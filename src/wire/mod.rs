//! Messages between host and worker: one datagram each, a bincode header and then the inline body.
//!
//! `docs/wire-protocol.md` is the specification and `tests/golden/wire` holds its examples; Python
//! reads the same bytes with `struct`, so a change here changes all four together. Whatever a worker
//! sends is refused unless it is exactly one of these messages.

#[cfg(test)]
mod callbacks;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod interrupts;
mod plan;

#[cfg(test)]
pub(crate) use plan::decode as decode_plan;
pub(crate) use plan::{Plan, Step};

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};
use std::borrow::Cow;

/// Both sides say it in their first message; they are built together, so it differs only by mistake.
pub(crate) const PROTOCOL: u32 = 1;

/// What a header may claim at most, in bytes; a datagram is smaller anyway.
const HEADER_LIMIT: usize = 256 * 1024;

type Layout = Configuration<LittleEndian, Fixint, Limit<HEADER_LIMIT>>;

fn layout() -> Layout {
    bincode::config::legacy().with_limit::<HEADER_LIMIT>()
}

/// Where the body of a message lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Body {
    place: u32,
    block: u32,
    len: u64,
}

impl Body {
    const INLINE: u32 = 0;
    const BLOCK: u32 = 1;

    /// The `len` bytes behind the header.
    pub(crate) fn inline(len: usize) -> Self {
        Self { place: Self::INLINE, block: 0, len: len as u64 }
    }

    /// The first `len` bytes of the sender's shared block `index`.
    pub(crate) fn block(index: u32, len: usize) -> Self {
        Self { place: Self::BLOCK, block: index, len: len as u64 }
    }

    /// The block, if it lies in one, and its length.
    pub(crate) fn place(self) -> Result<Place, Malformed> {
        let len = usize::try_from(self.len).map_err(|_| Malformed("a body of impossible length"))?;
        match self.place {
            Self::INLINE => Ok(Place::Inline { len }),
            Self::BLOCK => Ok(Place::Block { index: self.block, len }),
            _ => Err(Malformed("a body in no known place")),
        }
    }
}

/// [`Body`], checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Inline { len: usize },
    Block { index: u32, len: usize },
}

/// What the host tells a worker.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum ToWorker<'a> {
    /// Run this; the inline body follows.
    Call(Order<'a>),
    /// Let go of these refs.
    Free { refs: Vec<u64>, released: Vec<u32> },
    /// Exit once everything sent before is done.
    Stop,
    /// Run this on top of a call that waits for the host; the inline body follows.
    Nested(Order<'a>),
    /// What a call waits for; the inline body follows.
    HostReply {
        /// The call that waits. It waits for one answer at a time, so its number names it.
        seq: u64,
        /// The entry that runs it.
        entry: u32,
        ended: HostEnded,
        body: Body,
        /// Blocks of the worker that the host has read.
        released: Vec<u32>,
    },
    /// Say that you take messages.
    Ping,
}

/// A call, plain or nested.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Order<'a> {
    /// Rises by one for each call that this worker is sent.
    pub(crate) seq: u64,
    /// The call's id in the bridge, for what Python logs of it.
    pub(crate) call: u64,
    /// When it is to be over, in nanoseconds of the monotonic clock; 0: at no particular time.
    pub(crate) deadline: u64,
    /// Which of the concurrent entries runs it.
    pub(crate) entry: u32,
    pub(crate) body: Body,
    /// Blocks of the worker that the host has read.
    pub(crate) released: Vec<u32>,
    /// An encoded [`Plan`]; the worker keeps what it made of it by these bytes.
    pub(crate) plan: Cow<'a, [u8]>,
}

/// How a call of the host's functions ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum HostEnded {
    /// The body is the value.
    Value,
    /// The body describes the error.
    Failed,
    /// There is no function of that id; no body.
    NoSuchFunction,
    /// The call that waits has been cancelled; no body.
    Cancelled,
}

/// How a call ended in the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Ended {
    /// The body is the value.
    Value,
    /// The body describes the exception.
    Raised,
    /// An argument names a ref that the worker does not have; the body is its id, pickled.
    NoSuchRef,
    /// The value cannot be sent; the body says why, as a pickled str.
    Unsendable,
    /// It goes on: the body is a batch of a stream whose next item is slow.
    Part,
}

/// What a worker tells the host.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum FromWorker {
    /// It takes calls; said once, first.
    Hello { protocol: u32, pid: u32 },
    /// It cannot take calls, and exits; the inline body describes the exception.
    StartFailed { body: Body },
    /// A call has ended; the inline body follows.
    Reply {
        seq: u64,
        ended: Ended,
        body: Body,
        /// Blocks of the host that the worker has read.
        released: Vec<u32>,
        /// The refs that the body holds.
        refs: Vec<u64>,
    },
    /// A call that was taken back has been passed over: it never began.
    Passed {
        seq: u64,
        /// The block of the host that its body lies in, unread.
        released: Vec<u32>,
    },
    /// A call waits for what a function of the host makes of the body, which follows if it is inline.
    HostCall {
        /// The call that waits.
        seq: u64,
        /// The function; 0 asks for the one that the body names.
        function: u64,
        body: Body,
        /// Blocks of the host that the worker has read.
        released: Vec<u32>,
        /// The refs that the body holds.
        refs: Vec<u64>,
    },
    /// It takes messages: the answer to one `Ping`.
    Pong,
}

/// A message that is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

impl ToWorker<'_> {
    /// Appends the header to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        bincode::encode_into_std_write(self, out, layout()).expect("a vector takes any header");
    }
}

impl FromWorker {
    /// The header at the front of `datagram`, and the bytes behind it.
    ///
    /// # Errors
    /// [`Malformed`] unless the datagram is one message and its inline body, to the last byte.
    pub(crate) fn decode(datagram: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (message, read) =
            bincode::decode_from_slice::<Self, _>(datagram, layout()).map_err(|_| Malformed("an unreadable header"))?;
        let rest = &datagram[read..];
        let inline = match &message {
            Self::Reply { body, .. } | Self::HostCall { body, .. } | Self::StartFailed { body } => {
                match body.place()? {
                    Place::Inline { len } => len,
                    Place::Block { .. } => 0,
                }
            }
            Self::Hello { .. } | Self::Passed { .. } | Self::Pong => 0,
        };
        if rest.len() == inline { Ok((message, rest)) } else { Err(Malformed("a body of another length than said")) }
    }
}

#[cfg(test)]
impl ToWorker<'static> {
    /// As a worker reads it, and the inline body behind it.
    pub(crate) fn decode(datagram: &[u8]) -> (Self, &[u8]) {
        let (message, read) =
            bincode::decode_from_slice::<Self, _>(datagram, layout()).expect("the host says nothing else");
        (message, &datagram[read..])
    }
}

#[cfg(test)]
impl FromWorker {
    /// As a worker writes it.
    pub(crate) fn encoded(&self, body: &[u8]) -> Vec<u8> {
        let mut out = bincode::encode_to_vec(self, layout()).expect("a header");
        out.extend_from_slice(body);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> FromWorker {
        FromWorker::Reply { seq: 7, ended: Ended::Value, body: Body::inline(3), released: vec![2], refs: vec![1, 9] }
    }

    fn host_call() -> FromWorker {
        FromWorker::HostCall { seq: 7, function: 5, body: Body::inline(3), released: vec![2], refs: vec![1, 9] }
    }

    #[test]
    fn a_message_cut_at_any_byte_or_with_a_byte_more_is_refused() {
        for message in [reply(), host_call()] {
            let mut bytes = message.encoded(b"abc");
            assert_eq!(FromWorker::decode(&bytes), Ok((message, &b"abc"[..])));
            for cut in 0..bytes.len() {
                assert!(FromWorker::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
            bytes.push(0);
            assert!(FromWorker::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_count_that_no_datagram_could_hold_is_refused_before_it_is_allocated() {
        let mut bytes = reply().encoded(b"abc");
        let released = 4 + 8 + 4 + 16;
        bytes[released..released + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(FromWorker::decode(&bytes).is_err());
    }

    #[test]
    fn the_fixed_part_of_a_call_has_the_layout_that_python_unpacks() {
        let order = Order {
            seq: 1,
            call: 2,
            deadline: 7,
            entry: 3,
            body: Body::block(4, 5),
            released: vec![],
            plan: Cow::Borrowed(&[6]),
        };
        for (number, message) in [(0u32, ToWorker::Call(order.clone())), (3, ToWorker::Nested(order))] {
            let mut out = Vec::new();
            message.encode(&mut out);
            let mut expected = number.to_le_bytes().to_vec();
            expected.extend(1u64.to_le_bytes());
            expected.extend(2u64.to_le_bytes());
            expected.extend(7u64.to_le_bytes());
            expected.extend(3u32.to_le_bytes());
            expected.extend(1u32.to_le_bytes());
            expected.extend(4u32.to_le_bytes());
            expected.extend(5u64.to_le_bytes());
            expected.extend(0u64.to_le_bytes());
            expected.extend(1u64.to_le_bytes());
            expected.push(6);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn the_fixed_part_of_an_answer_has_the_layout_that_python_unpacks() {
        let mut out = Vec::new();
        let ended = HostEnded::Cancelled;
        ToWorker::HostReply { seq: 1, entry: 2, ended, body: Body::block(4, 5), released: vec![6] }.encode(&mut out);
        let mut expected = 4u32.to_le_bytes().to_vec();
        expected.extend(1u64.to_le_bytes());
        expected.extend(2u32.to_le_bytes());
        expected.extend(3u32.to_le_bytes());
        expected.extend(1u32.to_le_bytes());
        expected.extend(4u32.to_le_bytes());
        expected.extend(5u64.to_le_bytes());
        expected.extend(1u64.to_le_bytes());
        expected.extend(6u32.to_le_bytes());
        assert_eq!(out, expected);
    }
}
