//! The host's end of the message channel: one message, one datagram, never half of one.

use super::fds;
use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Sleep;

/// Bodies above this travel in blocks: below it two copies through the socket are cheaper than naming a block.
pub(crate) const INLINE_LIMIT: usize = 32 * 1024;

/// No message is longer; a receive buffer of this size takes each. The kernel's own limit is a
/// little above (`EMSGSIZE` from about 208 KiB).
pub(crate) const MESSAGE_LIMIT: usize = 200 * 1024;

/// The host's end of a worker's `SOCK_SEQPACKET` pair.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: AsyncFd<OwnedFd>,
    /// Registered only while the socket is full: a registration for writing wakes this side for
    /// each message that the worker takes.
    full: Option<Full>,
}

/// How to begin with a receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// When the runtime has heard that there is something.
    WhenReady,
    /// One has come, of which the runtime need not have heard yet.
    AtOnce,
    /// Hold up this thread for one that is about to come, at most [`LONGEST_WAIT`].
    Waiting,
}

/// The kernel makes a tick of it, some milliseconds.
const LONGEST_WAIT: Duration = Duration::from_micros(100);

/// How a full socket is waited for.
#[derive(Debug)]
enum Full {
    Watched(AsyncFd<OwnedFd>),
    /// There was no descriptor to watch it by.
    Tried(Pin<Box<Sleep>>),
}

/// How soon a full socket that cannot be watched is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(10);

impl Channel {
    /// Needs a runtime with I/O.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, false)?;
        rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(LONGEST_WAIT))?;
        Ok(Self { socket: fds::watch(socket, Interest::READABLE)?, full: None })
    }

    /// Sends one message, never an empty one (it would read like the end). `false`: the socket is
    /// full, wait with [`poll_send_ready`](Self::poll_send_ready).
    ///
    /// # Errors
    /// `BrokenPipe` or `ConnectionReset` when the worker is gone: what it wrote before is still to
    /// be read. `InvalidInput` for a message that is empty or too long.
    pub(crate) fn try_send(&self, parts: &[IoSlice<'_>]) -> io::Result<bool> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if total == 0 || total > MESSAGE_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a message of {total} bytes")));
        }
        let mut nothing = SendAncillaryBuffer::default();
        loop {
            // One part costs the kernel less than a list of them.
            let sent = match parts {
                [only] => rustix::net::send(self.socket.get_ref(), only, SendFlags::NOSIGNAL | SendFlags::DONTWAIT),
                _ => rustix::net::sendmsg(
                    self.socket.get_ref(),
                    parts,
                    &mut nothing,
                    SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
                ),
            };
            match sent {
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                // ENOBUFS: the same, for want of kernel memory.
                Err(Errno::AGAIN | Errno::NOBUFS) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }

    #[cfg(test)]
    pub(super) fn close(&self) {
        let _gone = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both);
    }

    /// Waits until a message may fit again, or the worker is gone.
    ///
    /// # Errors
    /// The runtime is going away.
    pub(crate) fn poll_send_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.socket.get_ref();
        let full = self.full.get_or_insert_with(|| {
            match socket.try_clone().and_then(|socket| fds::watch(socket, Interest::WRITABLE)) {
                Ok(watched) => Full::Watched(watched),
                Err(_) => Full::Tried(Box::pin(tokio::time::sleep(TRY_AGAIN))),
            }
        });
        match full {
            Full::Watched(watched) => ready!(watched.poll_write_ready(cx))?.retain_ready(),
            Full::Tried(sleep) => ready!(sleep.as_mut().poll(cx)),
        }
        self.full = None;
        Poll::Ready(Ok(()))
    }

    /// Receives one message into `buffer` and says how long it is; 0 is the end.
    ///
    /// With `last` the caller knows that this is the only message that is due: that saves the receive that
    /// would find nothing. One that came unasked is then found with the next.
    ///
    /// A worker that dies with unread messages makes one receive fail with `ECONNRESET`, and its
    /// finished replies come after: that error is not the end and is read past here, without waiting for the
    /// runtime to hear of anything.
    ///
    /// # Errors
    /// `InvalidData` for a message longer than `buffer`; it is lost.
    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        mut first: First,
        last: bool,
    ) -> Poll<io::Result<usize>> {
        loop {
            let (mut guard, mut flags) = (None, RecvFlags::TRUNC | RecvFlags::DONTWAIT);
            match first {
                First::WhenReady => guard = Some(ready!(self.socket.poll_read_ready(cx))?),
                First::AtOnce => {}
                First::Waiting => flags = RecvFlags::TRUNC,
            }
            match rustix::net::recv(self.socket.get_ref(), &mut *buffer, flags) {
                Ok((_, length)) if length > buffer.len() => {
                    let what = format!("a message of {length} bytes, above the limit of {}", buffer.len());
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
                }
                Ok((_, length)) => {
                    // The end is to be found again.
                    if last
                        && length > 0
                        && let Some(mut guard) = guard
                    {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(length));
                }
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => {
                    first = First::WhenReady;
                    if let Some(mut guard) = guard {
                        guard.clear_ready();
                    }
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// What there is at once, and whether the end was seen.
    fn read(channel: &mut Channel, first: First) -> (Vec<Vec<u8>>, bool) {
        let mut task = Context::from_waker(Waker::noop());
        let (mut buffer, mut messages) = ([0; 64], Vec::new());
        loop {
            match channel.poll_recv(&mut task, &mut buffer, first, false) {
                Poll::Ready(Ok(0)) => return (messages, true),
                Poll::Ready(Ok(length)) => messages.push(buffer[..length].to_vec()),
                Poll::Ready(Err(error)) => panic!("{error}"),
                Poll::Pending => return (messages, false),
            }
        }
    }

    #[tokio::test]
    async fn what_an_ended_worker_wrote_is_read_though_the_runtime_has_not_heard_of_it() {
        let (near, far) = fds::message_pair().expect("a pair");
        let mut channel = Channel::new(near).expect("a channel");
        // It dies with a message unread: a receive fails for that, and the replies come after.
        assert!(channel.try_send(&[IoSlice::new(b"unread")]).expect("sent"));
        for reply in [b"one".as_slice(), b"two"] {
            fds::send(&far, reply, &[]).expect("written");
        }
        drop(far);
        // Nothing has been awaited, so the runtime has looked at no descriptor.
        assert_eq!(read(&mut channel, First::WhenReady), (Vec::new(), false));
        assert_eq!(read(&mut channel, First::AtOnce), (vec![b"one".to_vec(), b"two".to_vec()], true));
    }
}
