//! The calls at one worker generation: what was sent, what may be told of it, when it must die.
//!
//! A call that was granted gets a number, one more than the last, and an entry of the control page,
//! which is a thread of the worker: calls of one session with open calls there stay on their entry, unless
//! one of them waits there for a callback. The worker writes the number to the entry's *begun* word before
//! it does anything else, then reads the call's revoke word: revoked, it *passes* the call, else it runs
//! and replies.
//!
//! To **revoke** a call the shell writes the word, has every CPU see it, and reads *begun*. Below the
//! call's number: the call never begins, exactly. Else it runs, or is passed all the same: only the
//! worker's answer tells.
//!
//! A call that has begun and whose caller is answered, or has left, is *overdue*: it is interrupted, or where it
//! waits for a callback told so in the place of an answer; and killed with its worker, should it not end
//! within `cancel_grace`. The signal of an interrupt is sent again, ever more rarely, until the call is over:
//! one that comes just before a thread goes to sleep in the kernel is not noticed by Python, which for its
//! part interrupts a call but once.
//!
//! The lane does not know bodies, sockets or pages, and does not decide what becomes of a call that
//! was taken back: that is the pool's.
//!
//! While a call waits for a callback, its thread runs the calls of its tree that are sent to it, *nested*,
//! on top of it. These overtake what was sent to the entry before, so they have a *begun* word of their
//! own; among themselves they begin in the order sent. One whose tree has no call here any more is sent as
//! any other.

use crate::id::{CallId, SessionKey};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// As much as one result may have.
const MOST_PART_BYTES: usize = 1 << 30;

/// How a call was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) seq: u64,
    pub(crate) entry: u32,
    /// On top of a call of its tree.
    pub(crate) nested: bool,
}

/// A request that was granted.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub(crate) call: CallId,
    pub(crate) session: SessionKey,
    /// Of the call whose callback made it.
    pub(crate) tree: Option<CallId>,
    /// The call of its tree that it is to run on top of.
    pub(crate) on: Option<CallId>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) timeout: Option<Duration>,
    /// Should it have begun when the worker dies, it is run once more, elsewhere.
    pub(crate) may_rerun: bool,
    /// In how many parts its answer may come, before the last: the items that its batch asks for.
    pub(crate) parts: usize,
}

/// The *begun* words of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) plain: u64,
    pub(crate) nested: u64,
}

/// A call that the worker has answered. Its lease is over: the pool is told before the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replied {
    pub(crate) call: CallId,
    pub(crate) session: SessionKey,
    /// Whether its caller still waits; else what the reply returns as refs is freed.
    pub(crate) is_awaited: bool,
}

/// What no worker of ours sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// An answer to a call that was never sent, or was answered already.
    NotOpen { seq: u64 },
    /// A reply to a call that was revoked before it began.
    RepliedThoughRevoked { seq: u64 },
    /// A call was passed that nobody had revoked.
    PassedUnasked { seq: u64 },
    /// A call that waits for a callback asked for another, or was answered.
    WaitsAlready { seq: u64 },
    /// More parts of an answer than it may have items, or more of them than one result may have.
    TooManyParts { seq: u64 },
}

/// What a caller is told while its call is still open here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its deadline has passed; `began` is exact if false.
    Timeout { timeout: Duration, began: bool },
    /// Its caller gave up, and nobody listens.
    Cancelled { began: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// A call went on for longer than `cancel_grace` after its end was wanted.
    Overran { call: CallId },
}

/// What the death of the worker means for its calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Death {
    /// For the pool's `handle_exit`: calls that had begun, and calls that were answered already.
    pub(crate) over: Vec<CallId>,
    /// Of these, the ones whose callers get `WorkerCrashed`.
    pub(crate) crashed: Vec<CallId>,
    /// Not begun: their bodies go back to their sessions before the pool hears of the exit, and each
    /// is told to the pool as passed after it.
    pub(crate) returned: Vec<CallId>,
    /// Of these, the ones that had begun all the same, and are run once more.
    pub(crate) rerun: Vec<CallId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "an action that is not carried out leaves somebody waiting"]
pub(crate) enum LaneAction {
    /// Write the call's revoke word, `membarrier`, read the entry's begun word: `handle_revocation`.
    /// Where the word stands for another call that [`is_revoked`](Lane::is_revoked), leave it, and
    /// take the call for begun.
    Revoke { seq: u64, entry: u32, nested: bool },
    /// Answer the caller now; the lease stays open.
    Answer { call: CallId, verdict: Verdict },
    /// Drop the callback that the call waits for, and have the call cancelled where it waits.
    DropCallback { seq: u64, call: CallId },
    /// Write the call's interrupt word, and signal the worker: it raises an exception in that call, if that
    /// has not ended, and was not interrupted before. Where the word stands for another call that
    /// [`is_overdue`](Lane::is_overdue), leave both: the call is waited for all the same.
    Interrupt { seq: u64 },
    /// It never begins: its body goes back to its session, then the pool is told.
    TakenBack { call: CallId },
    /// It seems to have begun: tell the pool.
    Kept { call: CallId },
    /// The worker has passed a call that was taken back: tell the pool.
    Passed { call: CallId },
    /// The worker has passed a call whose caller was answered: its lease is over.
    Over { call: CallId },
    /// Other calls run beside one that has to be killed: taint the worker for as long.
    Taint { how_long: Duration },
    /// Kill the worker.
    Kill { why: Why },
}

#[derive(Debug)]
struct InFlight {
    call: CallId,
    session: SessionKey,
    entry: u32,
    nested: bool,
    tree: CallId,
    /// It waits for a callback.
    waits: bool,
    deadline: Option<(Instant, Duration)>,
    may_rerun: bool,
    parts_left: usize,
    part_bytes_left: usize,
    stage: Stage,
}

impl InFlight {
    fn has_begun(&self, seq: u64, begun: &[Begun]) -> bool {
        let begun = begun.get(self.entry as usize).copied().unwrap_or_default();
        let word = if self.nested { begun.nested } else { begun.plain };
        word >= seq
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Sent,
    Revoking(Wish),
    /// It never begins; the worker has yet to pass it.
    Revoked(Wish),
    /// It was revoked too late, or so it seems, for the pool; its caller still waits.
    Kept,
    /// It was revoked too late, or so it seems; its caller is answered, and the worker has until then.
    Overdue {
        dies_at: Instant,
        grace: Grace,
        /// When it is signalled again, and how long before that it was.
        again: Option<(Instant, Duration)>,
    },
}

/// How soon an interrupt is signalled for the second time; then after twice as long, and so on.
const SIGNALLED_AGAIN: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grace {
    First,
    /// The others in the worker had one more.
    ForTheOthers,
}

/// Who wants that a call does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Pool,
    Deadline,
    Caller,
}

#[derive(Debug)]
pub(crate) struct Lane {
    cancel_grace: Duration,
    last_seq: u64,
    /// How many open calls each entry has.
    entries: Vec<usize>,
    open: BTreeMap<u64, InFlight>,
    /// The last number of each open call: one that was taken back may have come again.
    seqs: BTreeMap<CallId, u64>,
    /// Which entry the open calls of a session are on that are not nested, and how many they are.
    seats: BTreeMap<SessionKey, (u32, usize)>,
    /// Taken back before their requests came.
    awaited: BTreeSet<CallId>,
    timers: BTreeSet<(Instant, u64)>,
    actions: VecDeque<LaneAction>,
    is_killed: bool,
}

impl Lane {
    pub(crate) fn new(concurrency: usize, cancel_grace: Duration) -> Self {
        Self {
            cancel_grace,
            last_seq: 0,
            entries: vec![0; concurrency.max(1)],
            open: BTreeMap::new(),
            seqs: BTreeMap::new(),
            seats: BTreeMap::new(),
            awaited: BTreeSet::new(),
            timers: BTreeSet::new(),
            actions: VecDeque::new(),
            is_killed: false,
        }
    }

    /// A granted request has come; none if it was taken back before, and is not to be sent.
    pub(crate) fn handle_granted(&mut self, granted: Granted) -> Option<Sent> {
        let Granted { call, session, tree, on, deadline, timeout, may_rerun, parts } = granted;
        if self.awaited.remove(&call) {
            self.actions.extend([LaneAction::TakenBack { call }, LaneAction::Passed { call }]);
            return None;
        }
        self.last_seq += 1;
        let seq = self.last_seq;
        let (entry, nested) = self.seat(&session, tree, on);
        if let Some(at) = deadline {
            self.timers.insert((at, seq));
        }
        let deadline = deadline.map(|at| (at, timeout.unwrap_or_default()));
        self.seqs.insert(call, seq);
        let tree = tree.unwrap_or(call);
        let stage = Stage::Sent;
        let (waits, parts_left, part_bytes_left) = (false, parts, MOST_PART_BYTES);
        let sent = InFlight {
            call,
            session,
            entry,
            nested,
            tree,
            waits,
            deadline,
            may_rerun,
            parts_left,
            part_bytes_left,
            stage,
        };
        self.open.insert(seq, sent);
        Some(Sent { seq, entry, nested })
    }

    /// The call wants a callback, and waits for it. `Ok(None)`: it is cancelled, and so is the callback.
    ///
    /// # Errors
    /// No such call runs there: kill the worker.
    pub(crate) fn handle_callback(&mut self, seq: u64) -> Result<Option<CallId>, Violation> {
        let call = self.open.get_mut(&seq).ok_or(Violation::NotOpen { seq })?;
        match call.stage {
            Stage::Revoked(_) => Err(Violation::RepliedThoughRevoked { seq }),
            _ if call.waits => Err(Violation::WaitsAlready { seq }),
            // Its caller was answered, or is about to be.
            Stage::Overdue { .. } | Stage::Revoking(Wish::Caller | Wish::Deadline) => Ok(None),
            Stage::Sent | Stage::Revoking(Wish::Pool) | Stage::Kept => {
                call.waits = true;
                Ok(Some(call.call))
            }
        }
    }

    /// The callback is over; false if the call does not wait for it any more.
    #[must_use]
    pub(crate) fn handle_callback_over(&mut self, seq: u64) -> bool {
        self.open.get_mut(&seq).is_some_and(|call| std::mem::replace(&mut call.waits, false))
    }

    /// The entry of an open call.
    pub(crate) fn entry_of(&self, seq: u64) -> Option<u32> {
        self.open.get(&seq).map(|call| call.entry)
    }

    /// The worker has answered.
    ///
    /// # Errors
    /// No such answer was due: kill the worker.
    pub(crate) fn handle_reply(&mut self, seq: u64) -> Result<Replied, Violation> {
        let call = self.open.get(&seq).ok_or(Violation::NotOpen { seq })?;
        if call.waits {
            return Err(Violation::WaitsAlready { seq });
        }
        let is_awaited = match call.stage {
            Stage::Sent | Stage::Revoking(Wish::Pool | Wish::Deadline) | Stage::Kept => true,
            Stage::Revoking(Wish::Caller) | Stage::Overdue { .. } => false,
            Stage::Revoked(_) => return Err(Violation::RepliedThoughRevoked { seq }),
        };
        let InFlight { call, session, .. } = self.close(seq);
        Ok(Replied { call, session, is_awaited })
    }

    /// The worker has sent a part of the answer to a call, which goes on: of so many bytes.
    ///
    /// # Errors
    /// No answer of that call is due, or not so much of it: kill the worker.
    pub(crate) fn handle_part(&mut self, seq: u64, bytes: usize) -> Result<CallId, Violation> {
        let call = self.open.get_mut(&seq).ok_or(Violation::NotOpen { seq })?;
        if let Stage::Revoked(_) = call.stage {
            return Err(Violation::RepliedThoughRevoked { seq });
        }
        let left = call.parts_left.checked_sub(1).zip(call.part_bytes_left.checked_sub(bytes));
        (call.parts_left, call.part_bytes_left) = left.ok_or(Violation::TooManyParts { seq })?;
        Ok(call.call)
    }

    /// The worker has passed a revoked call.
    ///
    /// # Errors
    /// No such answer was due: kill the worker.
    pub(crate) fn handle_passed(&mut self, seq: u64) -> Result<(), Violation> {
        let call = self.open.get(&seq).ok_or(Violation::NotOpen { seq })?;
        let (id, stage) = (call.call, call.stage);
        match stage {
            Stage::Sent | Stage::Revoking(_) => return Err(Violation::PassedUnasked { seq }),
            Stage::Revoked(Wish::Pool) => self.actions.push_back(LaneAction::Passed { call: id }),
            Stage::Kept => {
                self.actions.extend([LaneAction::TakenBack { call: id }, LaneAction::Passed { call: id }]);
            }
            Stage::Revoked(Wish::Deadline | Wish::Caller) | Stage::Overdue { .. } => {
                self.actions.push_back(LaneAction::Over { call: id });
            }
        }
        self.close(seq);
        Ok(())
    }

    /// The pool wants the call not to begin here.
    pub(crate) fn take_back(&mut self, call: CallId) {
        let Some(seq) = self.seqs.get(&call).copied() else {
            self.awaited.insert(call);
            return;
        };
        match self.open.get(&seq).map(|call| call.stage) {
            Some(Stage::Sent) => self.revoke(seq, Wish::Pool),
            // It has begun, or its caller is answered and it will end by itself.
            Some(Stage::Revoking(_) | Stage::Revoked(_) | Stage::Overdue { .. }) => {
                self.actions.push_back(LaneAction::Kept { call });
            }
            Some(Stage::Kept) | None => {}
        }
    }

    /// The pool knows that the call is over: a `take_back` that waits for its request waits in vain.
    pub(crate) fn drop_take_back(&mut self, call: CallId) {
        self.awaited.remove(&call);
    }

    /// The caller gave up.
    pub(crate) fn cancel(&mut self, call: CallId, now: Instant) {
        let Some(seq) = self.seqs.get(&call).copied() else { return };
        match self.open.get(&seq).map(|call| call.stage) {
            Some(Stage::Kept) => self.overrun(seq, now),
            Some(Stage::Sent) => self.revoke(seq, Wish::Caller),
            // Whoever wished first decides; the caller's answer goes to nobody.
            Some(Stage::Revoking(_) | Stage::Revoked(_) | Stage::Overdue { .. }) | None => {}
        }
    }

    /// The revoke word is written and the entry's begun word was read after it.
    pub(crate) fn handle_revocation(&mut self, seq: u64, begun: u64, now: Instant) {
        let Some(call) = self.open.get_mut(&seq) else { return };
        let Stage::Revoking(wish) = call.stage else { return };
        let (id, timeout) = (call.call, call.deadline.map(|(_, timeout)| timeout).unwrap_or_default());
        let began = begun >= seq && !mutant!("lane.begun_is_not_compared");
        match wish {
            Wish::Pool if began => {
                call.stage = Stage::Kept;
                self.actions.push_back(LaneAction::Kept { call: id });
            }
            Wish::Pool => {
                call.stage = Stage::Revoked(wish);
                self.seqs.remove(&id);
                self.actions.push_back(LaneAction::TakenBack { call: id });
            }
            Wish::Deadline | Wish::Caller => {
                call.stage = Stage::Revoked(wish);
                let verdict = match wish {
                    Wish::Deadline => Verdict::Timeout { timeout, began },
                    Wish::Caller | Wish::Pool => Verdict::Cancelled { began },
                };
                self.actions.push_back(LaneAction::Answer { call: id, verdict });
                if began {
                    self.overrun(seq, now);
                }
            }
        }
    }

    /// The exit was seen and the socket read to its end; `begun` are the page's words, by entry.
    pub(crate) fn handle_exit(&mut self, begun: &[Begun]) -> Death {
        let mut death = Death::default();
        for (seq, call) in std::mem::take(&mut self.open) {
            let began = call.has_begun(seq, begun) && !mutant!("lane.begun_is_returned");
            match call.stage {
                // Its body went back when it was taken back.
                Stage::Revoked(Wish::Pool) => {}
                Stage::Revoked(Wish::Deadline | Wish::Caller) | Stage::Overdue { .. } => death.over.push(call.call),
                Stage::Sent | Stage::Kept if began && call.may_rerun => {
                    death.returned.push(call.call);
                    death.rerun.push(call.call);
                }
                Stage::Sent | Stage::Revoking(_) | Stage::Kept if began => {
                    death.over.push(call.call);
                    death.crashed.push(call.call);
                }
                Stage::Sent | Stage::Revoking(_) | Stage::Kept => death.returned.push(call.call),
            }
        }
        self.seqs.clear();
        self.seats.clear();
        self.awaited.clear();
        self.timers.clear();
        self.actions.clear();
        death
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, seq)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, seq));
            match self.open.get(&seq).map(|call| call.stage) {
                Some(Stage::Sent) => self.revoke(seq, Wish::Deadline),
                Some(Stage::Kept) => {
                    self.answer_timeout(seq);
                    self.overrun(seq, now);
                }
                Some(Stage::Overdue { dies_at, grace, .. }) if dies_at <= now => self.kill(seq, grace, now),
                Some(Stage::Overdue { again: Some((at, gap)), .. }) if at <= now => self.interrupt(seq, gap * 2, now),
                Some(Stage::Overdue { .. } | Stage::Revoking(_) | Stage::Revoked(_)) | None => {}
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether a call runs in the worker, waiting for a callback included; `begun` are the page's words, by entry.
    pub(crate) fn is_running(&self, begun: &[Begun]) -> bool {
        self.open.iter().any(|(seq, call)| match call.stage {
            Stage::Revoked(_) => false,
            Stage::Sent | Stage::Revoking(_) | Stage::Kept | Stage::Overdue { .. } => call.has_begun(*seq, begun),
        })
    }

    /// Whether that call never begins, and the worker has yet to pass it.
    pub(crate) fn is_revoked(&self, seq: u64) -> bool {
        self.open.get(&seq).is_some_and(|call| matches!(call.stage, Stage::Revoked(_)))
    }

    /// Whether the end of that call, which has begun, is waited for.
    pub(crate) fn is_overdue(&self, seq: u64) -> bool {
        self.open.get(&seq).is_some_and(|call| matches!(call.stage, Stage::Overdue { .. }))
    }

    /// How an open call was sent.
    pub(crate) fn sent(&self, seq: u64) -> Option<Sent> {
        self.open.get(&seq).map(|call| Sent { seq, entry: call.entry, nested: call.nested })
    }

    /// The open call of that number.
    pub(crate) fn call_of(&self, seq: u64) -> Option<CallId> {
        self.open.get(&seq).map(|call| call.call)
    }

    /// The calls whose leases are open, also where their callers were answered; but those that went back.
    pub(crate) fn leased(&self) -> impl Iterator<Item = CallId> + '_ {
        let is_back = |call: &InFlight| matches!(call.stage, Stage::Revoked(Wish::Pool));
        self.open.values().filter(move |call| !is_back(call)).map(|call| call.call)
    }

    /// How many answers of the worker are due.
    pub(crate) fn due(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn poll_action(&mut self) -> Option<LaneAction> {
        self.actions.pop_front()
    }

    /// How many calls are open at the worker.
    #[cfg(test)]
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    /// Whether it remembers nothing of any call.
    #[cfg(test)]
    pub(crate) fn is_at_rest(&self) -> bool {
        self.open.is_empty()
            && self.seqs.is_empty()
            && self.seats.is_empty()
            && self.awaited.is_empty()
            && self.timers.is_empty()
            && self.entries.iter().all(|calls| *calls == 0)
    }

    fn revoke(&mut self, seq: u64, wish: Wish) {
        let Some(call) = self.open.get_mut(&seq).filter(|call| call.stage == Stage::Sent) else { return };
        call.stage = Stage::Revoking(wish);
        let (entry, nested) = (call.entry, call.nested);
        self.actions.push_back(LaneAction::Revoke { seq, entry, nested });
    }

    fn answer_timeout(&mut self, seq: u64) {
        let Some(call) = self.open.get(&seq) else { return };
        let timeout = call.deadline.map(|(_, timeout)| timeout).unwrap_or_default();
        let verdict = Verdict::Timeout { timeout, began: true };
        self.actions.push_back(LaneAction::Answer { call: call.call, verdict });
    }

    fn overrun(&mut self, seq: u64, now: Instant) {
        let dies_at = now + if mutant!("lane.no_grace") { Duration::ZERO } else { self.cancel_grace };
        let Some(call) = self.open.get_mut(&seq) else { return };
        call.stage = Stage::Overdue { dies_at, grace: Grace::First, again: None };
        self.timers.insert((dies_at, seq));
        if std::mem::replace(&mut call.waits, false) {
            self.actions.push_back(LaneAction::DropCallback { seq, call: call.call });
        } else if !self.cancel_grace.is_zero() {
            self.interrupt(seq, SIGNALLED_AGAIN, now);
        }
    }

    fn interrupt(&mut self, seq: u64, gap: Duration, now: Instant) {
        if self.is_killed {
            return;
        }
        let Some(Stage::Overdue { dies_at, again, .. }) = self.open.get_mut(&seq).map(|call| &mut call.stage) else {
            return;
        };
        self.actions.push_back(LaneAction::Interrupt { seq });
        let next = now + gap;
        *again = (next < *dies_at).then_some((next, gap));
        if again.is_some() {
            self.timers.insert((next, seq));
        }
    }

    fn kill(&mut self, seq: u64, grace: Grace, now: Instant) {
        let Some(call) = self.open.get_mut(&seq) else { return };
        let why = Why::Overran { call: call.call };
        match grace {
            Grace::First if self.entries.iter().filter(|calls| **calls > 0).count() > 1 => {
                let dies_at = now + self.cancel_grace;
                call.stage = Stage::Overdue { dies_at, grace: Grace::ForTheOthers, again: None };
                self.timers.insert((dies_at, seq));
                // Until its exit was seen it takes nothing new: nobody waits for a taint to end here.
                self.actions.push_back(LaneAction::Taint { how_long: self.cancel_grace * 2 });
            }
            Grace::First | Grace::ForTheOthers => {
                if !std::mem::replace(&mut self.is_killed, true) {
                    self.actions.push_back(LaneAction::Kill { why });
                }
            }
        }
    }

    /// The entry of the session's open calls, unless one waits there for a callback, else one with the fewest;
    /// and whether the call goes on top there, as it has to where a call of its tree stands: behind that it
    /// would never begin.
    fn seat(&mut self, session: &SessionKey, tree: Option<CallId>, on: Option<CallId>) -> (u32, bool) {
        let of_tree = |lane: &Self, entry: u32| {
            tree.is_some_and(|tree| lane.open.values().any(|call| call.tree == tree && call.entry == entry))
        };
        if self.entries.len() == 1 {
            self.entries[0] += 1;
            return (0, of_tree(self, 0));
        }
        // The call that it was to be on top of may be over, and another of the tree still stand there.
        let base = on.and_then(|on| {
            let base = self.seqs.get(&on).and_then(|seq| self.open.get(seq));
            let last = || self.open.values().rev().find(|call| Some(call.tree) == tree);
            base.or_else(last).map(|call| call.entry)
        });
        // Behind a call that waits for a callback a call might wait as long, whatever other entries do.
        let waits = |entry: &u32| self.open.values().any(|call| call.waits && call.entry == *entry);
        let seat = self.seats.get(session).map(|(entry, _)| *entry);
        let seat = seat.filter(|entry| of_tree(self, *entry) || !waits(entry));
        let emptiest = || {
            let entries = (0..).zip(&self.entries);
            let plain = |entry| self.open.values().filter(|call| !call.nested && call.entry == entry).count();
            entries.min_by_key(|(entry, calls)| (waits(entry), plain(*entry), **calls)).map_or(0, |(entry, _)| entry)
        };
        let entry = base.or(seat).unwrap_or_else(emptiest);
        let nested = of_tree(self, entry);
        // A nested call is where its tree is, and the next of its session has no business there.
        if !nested {
            let seat = self.seats.entry(session.clone()).or_default();
            *seat = (entry, seat.1 + 1);
        }
        self.entries[entry as usize] += 1;
        (entry, nested)
    }

    fn close(&mut self, seq: u64) -> InFlight {
        let call = self.open.remove(&seq).expect("only an open call is closed");
        if self.seqs.get(&call.call) == Some(&seq) {
            self.seqs.remove(&call.call);
        }
        self.entries[call.entry as usize] -= 1;
        if self.entries.len() > 1
            && !call.nested
            && let Some((_, calls)) = self.seats.get_mut(&call.session)
        {
            *calls -= 1;
            if *calls == 0 {
                self.seats.remove(&call.session);
            }
        }
        if let Some((at, _)) = call.deadline.filter(|_| !mutant!("lane.timer_is_left")) {
            self.timers.remove(&(at, seq));
        }
        if let Stage::Overdue { dies_at, again, .. } = call.stage {
            self.timers.remove(&(dies_at, seq));
            if let Some((at, _)) = again {
                self.timers.remove(&(at, seq));
            }
        }
        call
    }
}

#[cfg(test)]
mod tests;
