//! Everything that ties the host to one worker, and the far ends that the worker gets.

use super::blocks::{BlockPool, BlockTable};
use super::fds;
use super::{Channel, Lifeline, Output, Page};
use crate::id::WorkerId;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The host's side of one worker. Dropping it closes the lifeline, which kills the worker.
#[derive(Debug)]
pub(crate) struct Link {
    /// First, so that a worker whose link is dropped is killed before it can see its channel end.
    pub(crate) lifeline: Lifeline,
    pub(crate) channel: Channel,
    /// Large bodies to the worker.
    pub(crate) outgoing: BlockPool,
    /// Large bodies from the worker.
    pub(crate) incoming: BlockTable,
    pub(crate) page: Page,
    pub(crate) output: Output,
}

/// The worker's ends, in the order in which the zygote expects them.
#[derive(Debug)]
pub(super) struct FarEnds([OwnedFd; 6]);

impl FarEnds {
    pub(super) fn borrowed(&self) -> [BorrowedFd<'_>; 6] {
        self.0.each_ref().map(AsFd::as_fd)
    }
}

impl Link {
    pub(super) fn new(worker: &WorkerId, concurrency: usize) -> io::Result<(Self, FarEnds)> {
        let (channel, far_channel) = fds::message_pair()?;
        let (side, far_side) = fds::message_pair()?;
        let (lifeline, far_lifeline) = fds::lifeline_pair()?;
        let (page, far_page) = Page::new(concurrency)?;
        let (stdout, far_stdout) = fds::output_pipe()?;
        let (stderr, far_stderr) = fds::output_pipe()?;
        let side = Arc::new(side);
        let link = Self {
            channel: Channel::new(channel)?,
            outgoing: BlockPool::new(Arc::clone(&side)),
            incoming: BlockTable::new(side),
            lifeline: Lifeline::new(lifeline),
            page,
            output: Output::capture(worker.pool(), &worker.to_string(), stdout, stderr)?,
        };
        Ok((link, FarEnds([far_channel, far_side, far_lifeline, far_page, far_stdout, far_stderr])))
    }
}
