//! The process side: everything that is a descriptor, a signal or a process, and nothing that decides.
//!
//! A pool has one [`Zygote`], a Python process that has loaded `preload` and forks workers. Each
//! worker is a [`Link`] here: a [`Channel`] of messages, a [`Lifeline`] whose closing kills, a
//! control [`Page`], shared [`BlockPool`]s for large bodies and its captured [`Output`]; and a
//! [`DeathWatch`] once it is forked. `docs/process-model.md` is the specification of both sides.
//!
//! What the messages mean, and what a death means for a call, is decided elsewhere.

mod blocks;
mod channel;
mod clock;
mod exit;
mod fds;
mod lifeline;
mod link;
mod mapping;
mod output;
mod page;
mod reports;
mod residency;
#[cfg(test)]
pub(crate) mod scripted;
mod spawn;
#[cfg(test)]
mod tests;
mod zygote;

pub(crate) use blocks::{BadBlock, BlockName, BlockPool, BlockTable, LARGEST as LARGEST_BODY};
pub(crate) use channel::{Channel, First, INLINE_LIMIT, MESSAGE_LIMIT};
pub(crate) use clock::monotonic_nanos;
pub(crate) use exit::{Exit, ExitStatus};
pub(crate) use lifeline::{DeathWatch, Lifeline};
pub(crate) use link::Link;
pub(crate) use output::Output;
pub(crate) use page::Page;
pub(crate) use reports::{ZygoteEvent, ZygoteEvents};
pub(crate) use residency::Residency;
pub(crate) use spawn::tied;
pub(crate) use zygote::{Namespace, StartError, Zygote, ZygoteSpec};

/// The resident memory of a process, in bytes; 0 if the system does not say.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    Residency::open(pid).map_or(0, |residency| residency.bytes())
}
