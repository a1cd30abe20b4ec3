//! What really happened, noted by nobody that is tested, and judged at once.

use super::random::Random;
use crate::config::Affinity;
use crate::id::{CallId, SessionKey, WorkerId};
use crate::rules::pool::{LineView, Pool, Standing};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Value,
    /// Never began.
    Refused,
    TimedOut {
        began: bool,
    },
    Crashed,
    /// Its caller gave up and hears no more.
    GivenUp,
}

#[derive(Debug)]
pub(super) struct Record {
    pub(super) session: u64,
    /// The call in whose callback it was made.
    pub(super) parent: Option<CallId>,
    pub(super) affinity: Affinity,
    pub(super) pinned_to: Option<WorkerId>,
    pub(super) uses_namespace: bool,
    pub(super) deadline: Option<Instant>,
    pub(super) timeout: Option<Duration>,
    pub(super) outcome: Option<Outcome>,
    /// It has one, as whoever has its body sees.
    pub(super) is_abandoned: Arc<AtomicBool>,
    /// A worker has written its number to the page.
    pub(super) has_begun: bool,
    /// Nobody waits for it, and it was not begun: it never may.
    pub(super) is_withdrawn: bool,
    pub(super) ran_at: Option<WorkerId>,
    pub(super) may_rerun: bool,
    /// How often it was sent back though it had begun.
    pub(super) reruns: u32,
    pub(super) rerun_at: Option<Instant>,
}

#[derive(Default)]
pub(super) struct Witness {
    pub(super) calls: BTreeMap<CallId, Record>,
    last_begun: BTreeMap<(u64, Option<WorkerId>, bool), CallId>,
    /// Where the last call began that used the session's namespace.
    namespaces: BTreeMap<u64, WorkerId>,
    /// Sessions that were reset since, and those that rehome.
    anew: BTreeSet<u64>,
    always_anew: BTreeSet<u64>,
    /// Who has had a turn at which worker while the line waited, and with which call.
    served: BTreeMap<LineView, BTreeMap<(WorkerId, u64), CallId>>,
    restarts: Vec<Instant>,
}

impl Witness {
    /// A caller is answered; false if it no longer listens.
    pub(super) fn answer(&mut self, call: CallId, outcome: Outcome) -> bool {
        let record = self.calls.get_mut(&call).expect("only a call that was made is answered");
        match record.outcome {
            Some(Outcome::GivenUp) => return false,
            Some(earlier) => panic!("{call} is answered twice: {earlier:?}, then {outcome:?}"),
            None => record.outcome = Some(outcome),
        }
        record.is_abandoned.store(true, Ordering::Relaxed);
        if never_ran(outcome) && record.reruns == 0 {
            assert_eq!(record.ran_at, None, "{call} has {outcome:?}, and it ran");
        }
        if matches!(outcome, Outcome::TimedOut { began: true } | Outcome::Crashed) {
            self.must_have_begun(call);
        }
        true
    }

    /// Its number is on the page.
    pub(super) fn noted(&mut self, call: CallId) {
        self.calls.get_mut(&call).expect("only a call that was made begins").has_begun = true;
    }

    /// Somebody is told that it had begun.
    pub(super) fn must_have_begun(&self, call: CallId) {
        assert!(self.calls[&call].has_begun, "{call} is said to have begun");
    }

    /// It was given up, and found not to have begun.
    pub(super) fn never_begins(&mut self, call: CallId) {
        self.calls.get_mut(&call).expect("only a call that was made is given up").is_withdrawn = true;
    }

    /// The session may find an empty namespace in another worker.
    pub(super) fn may_start_anew(&mut self, session: u64) {
        self.anew.insert(session);
    }

    pub(super) fn may_always_start_anew(&mut self, session: u64) {
        self.always_anew.insert(session);
    }

    /// It had begun in a worker that has died, and is to run once more.
    pub(super) fn rerun(&mut self, call: CallId, now: Instant) {
        let record = self.calls.get_mut(&call).expect("only a call that was made is sent back");
        record.reruns += 1;
        record.rerun_at = Some(now);
        assert!(record.may_rerun && record.reruns == 1, "{call} is run again and again");
    }

    /// It has waited too long, which one that is to run once more does anew.
    pub(super) fn waited_out(&self, call: CallId, waited: Duration, now: Instant) {
        let rerun_at = self.calls[&call].rerun_at;
        assert!(rerun_at.is_none_or(|at| at + waited <= now), "{call} did not wait for its second run");
    }

    /// User code of a call begins in a worker; returns the session whose namespace it uses.
    pub(super) fn begin(&mut self, call: CallId, worker: &WorkerId) -> Option<u64> {
        let record = self.calls.get_mut(&call).expect("only a call that was made begins");
        let may_begin =
            record.ran_at.is_none() || record.may_rerun && record.reruns == 1 && record.ran_at.as_ref() != Some(worker);
        assert!(may_begin, "{call} begins twice, now at {worker}: {record:?}");
        assert!(!record.outcome.is_some_and(never_ran), "{call} begins after {:?}", record.outcome);
        assert!(!record.is_withdrawn, "{call} begins though nobody waits for it");
        record.ran_at = Some(worker.clone());
        if let Some(holder) = &record.pinned_to {
            assert_eq!(worker, holder, "{call} begins where its refs are not");
        }
        let session = record.session;
        // What a callback calls passes every line.
        if record.affinity == Affinity::StrictQueue && record.parent.is_none() {
            // One with refs may pass one that waits for a home; else nothing of a session passes anything.
            let carries = (session, record.pinned_to.clone(), record.uses_namespace);
            let last = self.last_begun.insert(carries, call);
            assert!(last.is_none_or(|last| last < call), "{call} begins after {last:?}");
        }
        if !record.uses_namespace {
            return None;
        }
        let before = self.namespaces.insert(session, worker.clone());
        if before.is_some_and(|before| before != *worker) {
            let is_told = self.anew.remove(&session) || self.always_anew.contains(&session);
            assert!(is_told, "{call} begins in an empty namespace at {worker}, and nobody was told");
        }
        Some(session)
    }

    /// A grant was made: no strict call without refs goes anywhere but home, and none that uses a
    /// namespace anywhere but there.
    ///
    /// In a callback it may go where no home can be, if it has none.
    pub(super) fn granted(&self, call: CallId, worker: &WorkerId, session: &SessionKey, pool: &Pool) {
        let (home, namespace) = (pool.home(session), pool.namespace(session));
        let may_be_home =
            pool.workers().any(|view| view.id == worker && matches!(view.standing, Standing::Free | Standing::Busy));
        let record = &self.calls[&call];
        if record.uses_namespace {
            // None: it was lost again within this step, and the call is taken back.
            assert!(namespace.is_none_or(|at| at == *worker), "{call} goes where its namespace is not");
        } else if record.affinity != Affinity::Hint
            && record.pinned_to.is_none()
            && !(record.parent.is_some() && (home.is_none() || !may_be_home))
        {
            assert_eq!(Some(worker), home.as_ref(), "{call} is strict and goes elsewhere");
        }
    }

    /// While a line waits for its turn at a worker, no other session has two there. A call that comes back with a death
    /// has had none.
    pub(super) fn turns(&mut self, granted: &[(u64, CallId, WorkerId)], pool: &Pool) {
        let listed: BTreeSet<LineView> = pool.listed_lines().into_iter().collect();
        self.served.retain(|line, _| listed.contains(line));
        for (session, call, worker) in granted {
            let is_open_to_all = pool
                .workers()
                .any(|view| view.id == worker && matches!(view.standing, Standing::Free | Standing::Busy));
            for (line, served) in &mut self.served {
                let takes_part = line.worker.as_ref().map_or(is_open_to_all, |bound| bound == worker);
                if takes_part && line.session.incarnation() != *session {
                    let before = served.insert((worker.clone(), *session), *call);
                    assert!(before.is_none_or(|before| before == *call), "{session} has a second turn before {line:?}");
                }
            }
        }
        for line in listed {
            self.served.entry(line).or_default();
        }
    }

    /// It was taken back, and its turn was none.
    pub(super) fn taken_back(&mut self, call: CallId) {
        for served in self.served.values_mut() {
            served.retain(|_, with| *with != call);
        }
    }

    pub(super) fn restarted(&mut self, (limit, window): (usize, Duration), now: Instant) {
        self.restarts.push(now);
        let recent = self.restarts.iter().filter(|at| **at + window > now).count();
        assert!(recent <= limit, "{recent} restarts in {window:?}, the budget is {limit}");
    }

    pub(super) fn unanswered(&self) -> Vec<CallId> {
        self.calls.iter().filter(|(_, record)| record.outcome.is_none()).map(|(id, _)| *id).collect()
    }

    /// The call whose tree it belongs to.
    pub(super) fn root(&self, call: CallId) -> CallId {
        let mut root = call;
        while let Some(parent) = self.calls[&root].parent {
            root = parent;
        }
        root
    }

    pub(super) fn is_in_callback(&self, call: CallId) -> bool {
        self.calls[&call].parent.is_some()
    }

    /// In how many callbacks it was made, one inside the other.
    pub(super) fn depth(&self, call: CallId) -> usize {
        let parent = |call: &CallId| self.calls[call].parent;
        std::iter::successors(parent(&call), parent).count()
    }

    /// A call whose caller still waits.
    pub(super) fn some_open(&self, random: &mut Random) -> Option<CallId> {
        random.pick(&self.unanswered()).copied()
    }
}

fn never_ran(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Refused | Outcome::TimedOut { began: false } => true,
        Outcome::Value | Outcome::TimedOut { began: true } | Outcome::Crashed | Outcome::GivenUp => false,
    }
}
