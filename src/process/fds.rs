#![expect(unsafe_code, reason = "tokio asks that a registered descriptor stays what it is")]
//! Descriptors: how they are made, and how they travel.

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How many descriptors one message carries at most.
pub(super) const MAX_FDS: usize = 8;

/// Watches a descriptor; needs a runtime with I/O.
pub(super) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays open, and the same, for as long as the `AsyncFd` owns it;
    // it is only ever lent out from there.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// A pair of message sockets, as (here, far).
pub(super) fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(SocketType::SEQPACKET)
}

/// A pair that carries nothing: only its closing is of interest.
pub(super) fn lifeline_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(SocketType::STREAM)
}

fn pair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    let (here, far) = rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&here, true)?;
    Ok((here, far))
}

/// A pipe whose read end does not block, as (read, write).
pub(super) fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((read, write))
}

/// Shared memory of a fixed size: neither side can shrink it, so no access to it can fault.
pub(super) fn sealed_memory(name: &str, size: u64) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memory, size)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory)
}

/// Sends one message with descriptors.
///
/// # Errors
/// `WouldBlock` when the socket is full.
pub(super) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || rights.push(SendAncillaryMessage::ScmRights(fds)), "at most {MAX_FDS} descriptors");
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut rights, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            // Too many descriptors are on their way, in all sockets of this user: as good as full.
            Err(Errno::TOOMANYREFS) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A message that was received.
#[derive(Debug)]
pub(super) struct Message {
    /// 0 is the end.
    pub(super) length: usize,
    pub(super) fds: Vec<OwnedFd>,
    /// The kernel has closed descriptors that came along: those beyond [`MAX_FDS`], or this process has no room.
    pub(super) is_short: bool,
}

/// Receives one message with its descriptors.
///
/// # Errors
/// `WouldBlock` when there is none.
pub(super) fn recv(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<Message> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    loop {
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(bytes)], &mut rights, flags) {
            Ok(message) => {
                let mut fds = Vec::new();
                for part in rights.drain() {
                    if let RecvAncillaryMessage::ScmRights(received) = part {
                        fds.extend(received);
                    }
                }
                let is_short = message.flags.contains(ReturnFlags::CTRUNC);
                return Ok(Message { length: message.bytes, fds, is_short });
            }
            // ECONNRESET is told once, when the peer died with unread messages; what it sent comes after.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_arrive_with_their_message_and_the_end_is_zero() {
        let (here, there) = message_pair().expect("socketpair");
        let memory = sealed_memory("test", 4096).expect("memfd");
        send(&here, b"take", &[memory.as_fd(), memory.as_fd()]).expect("send");
        drop(here);
        let mut bytes = [0; 16];
        let Message { length, fds, is_short } = recv(&there, &mut bytes).expect("recv");
        assert_eq!((&bytes[..length], fds.len(), is_short), (&b"take"[..], 2, false));
        assert_eq!(recv(&there, &mut bytes).expect("the end").length, 0);
    }

    #[test]
    fn sealed_memory_cannot_be_shrunk() {
        let memory = sealed_memory("test", 4096).expect("memfd");
        assert_eq!(rustix::fs::ftruncate(&memory, 0), Err(Errno::PERM));
    }
}
