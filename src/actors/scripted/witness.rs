//! What really happened, noted by nobody that is tested, and judged at once.

use super::faults::Faults;
use super::overruns::Runs;
use crate::clock;
use crate::config::Affinity;
use crate::error::{Error, Ran};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What a call carries that binds it to a worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Carries {
    Nothing,
    /// That to what another call made.
    Ref(u64),
    Namespace,
}

/// A call as its client made it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Which of the sessions of that id.
    pub(super) session: (usize, u64),
    pub(super) affinity: Affinity,
    pub(super) carries: Carries,
    pub(super) is_idempotent: bool,
    /// Made in a callback, or to make a home ready.
    pub(super) is_inner: bool,
    pub(super) timeout: Option<Duration>,
}

#[derive(Debug)]
struct Record {
    asked: Asked,
    /// The home of its session when it was asked.
    home_then: Option<String>,
    deadline: Option<Instant>,
    begun: Vec<String>,
    /// Its worker has said how it ended.
    is_finished: bool,
    is_raised: bool,
    /// What it said was written whole.
    is_sent: bool,
    outcome: Option<String>,
    /// When its caller was told, or left.
    over_at: Option<Instant>,
    never_ran: bool,
    items: Items,
}

/// What a call made that is read item by item.
#[derive(Clone, Debug, Default)]
struct Items {
    /// How many were written whole.
    given: u64,
    taken: u64,
    /// Its end was written as well, and is an exception or none.
    raises: Option<bool>,
    /// Its reader wants no more.
    is_left: bool,
}

impl Record {
    /// A call inside of another may have the deadline of the other.
    fn is_late(&self) -> bool {
        self.asked.is_inner || self.deadline.is_some_and(|deadline| deadline <= clock::now())
    }
}

#[derive(Default)]
pub(super) struct Witness {
    calls: BTreeMap<u64, Record>,
    /// Of a session, and of those that use its namespace, or refs in one worker, or neither.
    last_begun: BTreeMap<((usize, u64), bool, String), u64>,
    last_begun_there: BTreeMap<((usize, u64), String), u64>,
    homes: BTreeMap<(usize, u64), String>,
    /// The `strict_queue` call of a session that runs in a worker.
    running: BTreeMap<((usize, u64), String), u64>,
    pub(super) runs: Runs,
    homes_are_kept: bool,
    /// Sessions that find another home by themselves.
    pub(super) rehoming: BTreeSet<usize>,
    is_fenced: bool,
    is_faultless: bool,
    faults: Faults,
    dead: BTreeSet<String>,
    pub(super) violations: Vec<String>,
}

impl Witness {
    pub(super) fn new(faults: &Faults) -> Self {
        Self {
            homes_are_kept: faults.homes_are_kept(),
            is_fenced: !faults.no_fence,
            is_faultless: faults.are_none(),
            faults: faults.clone(),
            ..Self::default()
        }
    }

    pub(super) fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(what());
        }
    }

    /// What is not fenced counts as begun.
    pub(super) fn check_fenced(&mut self, what: impl FnOnce() -> String) {
        self.check(!self.is_fenced, what);
    }

    pub(super) fn asked(&mut self, asked: Asked) -> u64 {
        let number = self.calls.len() as u64 + 1;
        let record = Record {
            home_then: self.homes.get(&asked.session).cloned(),
            deadline: asked.timeout.map(|timeout| clock::now() + timeout),
            asked,
            begun: Vec::new(),
            is_finished: false,
            is_raised: false,
            is_sent: false,
            outcome: None,
            over_at: None,
            never_ran: false,
            items: Items::default(),
        };
        self.calls.insert(number, record);
        number
    }

    pub(super) fn begin(&mut self, number: u64, worker: &str) {
        let Some(record) = self.calls.get_mut(&number) else {
            return self.violations.push(format!("call {number} begins, and nobody made it"));
        };
        let before = record.begun.last().cloned();
        record.begun.push(worker.to_owned());
        // What a run before has said is no word of this one.
        (record.is_finished, record.is_raised, record.is_sent) = (false, false, false);
        let (asked, home_then) = (record.asked.clone(), record.home_then.clone());
        let (times, never_ran, outcome) = (record.begun.len(), record.never_ran, record.outcome.clone());
        self.check(times <= 1 + usize::from(asked.is_idempotent), || format!("call {number} begins {times} times"));
        self.check(!never_ran, || format!("call {number} begins after {outcome:?}"));
        self.check(before.as_ref().is_none_or(|before| self.dead.contains(before)), || {
            format!("call {number} begins once more, and {before:?} lives")
        });
        if let Carries::Ref(made) = asked.carries {
            self.made_in(made, worker);
        }
        if asked.is_inner || times > 1 {
            return;
        }
        if asked.affinity != Affinity::Hint && asked.carries == Carries::Nothing {
            let home = self.homes.entry(asked.session).or_insert_with(|| worker.to_owned());
            let before = std::mem::replace(home, worker.to_owned());
            let is_kept = !self.homes_are_kept || self.rehoming.contains(&asked.session.0) || before == worker;
            self.check(is_kept, || format!("call {number} begins in {worker}, its home is {before}"));
        }
        if asked.affinity == Affinity::StrictQueue {
            let beside = self.running.insert((asked.session, worker.to_owned()), number);
            self.check(beside.is_none(), || format!("call {number} runs beside {beside:?}"));
            // One that waited for another home has waited for another worker.
            let may_move = self.faults.resets || self.rehoming.contains(&asked.session.0);
            let is_for_it =
                !may_move && home_then.as_deref() == Some(worker) || matches!(asked.carries, Carries::Ref(_));
            let here = (asked.session, worker.to_owned());
            let there = is_for_it.then(|| self.last_begun_there.insert(here, number)).flatten();
            let place = if let Carries::Ref(_) = asked.carries { worker } else { "" };
            let line = (asked.session, asked.carries == Carries::Namespace, place.to_owned());
            let last = self.last_begun.insert(line, number).max(there);
            self.check(last.is_none_or(|last| last < number), || format!("call {number} begins after {last:?}"));
        }
    }

    /// Somebody takes a worker for the one that has what a call made.
    pub(super) fn made_in(&mut self, number: u64, worker: &str) {
        let maker = self.calls[&number].begun.last().cloned();
        self.check(maker.as_deref() == Some(worker), || {
            format!("what call {number} made is in {maker:?}, and said to be in {worker}")
        });
    }

    /// Its worker is told that it is to end.
    pub(super) fn interrupted(&mut self, number: u64) {
        let Some(record) = self.calls.get(&number) else { return };
        let is_wanted = record.is_late() || record.outcome.is_some();
        self.check(is_wanted, || format!("call {number} is interrupted, and nobody wants it to end"));
    }

    /// The same, of a batch of what it made.
    pub(super) fn batch_interrupted(&mut self, number: u64) {
        let record = &self.calls[&number];
        let is_wanted = record.deadline.is_some() || record.items.is_left;
        self.check(is_wanted, || format!("a batch of {number} is interrupted, and nobody wants it to end"));
    }

    /// Since when it may be that somebody wants it to end.
    pub(super) fn unwanted_since(&self, number: u64) -> Option<Instant> {
        let record = self.calls.get(&number)?;
        record.deadline.into_iter().chain(record.over_at).min()
    }

    /// So many items of what it made are written, and its end, if that is one.
    pub(super) fn gave(&mut self, number: u64, count: u64, raises: Option<bool>, credit: u64) {
        let items = &mut self.calls.get_mut(&number).expect("it was asked").items;
        items.given += count;
        items.raises = raises;
        let Items { given, taken, .. } = *items;
        self.check(given <= taken + credit, || {
            format!("of {number} {given} items are given and {taken} taken, for a credit of {credit}")
        });
    }

    /// Its reader has the next item.
    pub(super) fn took(&mut self, number: u64) {
        self.calls.get_mut(&number).expect("it was asked").items.taken += 1;
    }

    /// Its reader leaves it.
    pub(super) fn left(&mut self, number: u64) {
        self.calls.get_mut(&number).expect("it was asked").items.is_left = true;
    }

    /// Its reader comes to an end.
    pub(super) fn read(&mut self, number: u64, worker: &str, error: Option<&Error>) {
        self.left(number);
        let record = &self.calls[&number];
        let Items { given, taken, raises, .. } = record.items;
        let faults = &self.faults;
        let fits = match error {
            None => raises == Some(false) && taken == given,
            Some(Error::Python(_)) => raises == Some(true) && taken == given,
            // What was written before a death is read.
            Some(Error::WorkerCrashed(crash)) => {
                // Between two batches a worker that is retired is as good as dead.
                let is_gone = crash.call.is_none() || self.dead.contains(worker);
                raises.is_none() && taken == given && crash.worker.to_string() == worker && is_gone
            }
            Some(Error::Timeout { .. }) => record.deadline.is_some(),
            Some(Error::Protocol { .. }) => faults.violations,
            // A batch is a call of its session, and that has to have its home made ready.
            Some(Error::OnHome(_)) => self.rehoming.contains(&record.asked.session.0),
            Some(Error::SessionWorkerUnavailable { .. }) => !self.is_faultless,
            Some(Error::Cancelled { .. }) => faults.releases,
            Some(Error::ShuttingDown { .. }) => faults.shutdown,
            Some(_) => false,
        };
        self.check(fits && taken <= given, || {
            format!("of {number} {given} items were given, raises: {raises:?}, and {taken} are taken, then {error:?}")
        });
        self.made_in(number, worker);
    }

    /// Its worker is about to say how it ended.
    pub(super) fn finish(&mut self, number: u64, is_raised: bool) {
        if let Some(record) = self.calls.get_mut(&number) {
            record.is_finished = true;
            record.is_raised = is_raised;
        }
        self.running.retain(|_, running| *running != number);
    }

    /// It has said so.
    pub(super) fn sent(&mut self, number: u64) {
        if let Some(record) = self.calls.get_mut(&number) {
            record.is_sent = true;
        }
    }

    pub(super) fn died(&mut self, worker: &str) {
        self.running.retain(|(_, at), _| at != worker);
        self.dead.insert(worker.to_owned());
    }

    pub(super) fn given_up(&mut self, number: u64) {
        self.outcome(number, "given up".to_owned());
    }

    fn outcome(&mut self, number: u64, outcome: String) {
        let record = self.calls.get_mut(&number).expect("it was asked");
        record.over_at.get_or_insert_with(clock::now);
        if let Some(before) = record.outcome.replace(outcome.clone()) {
            self.violations.push(format!("call {number} is answered twice: {before}, {outcome}"));
        }
    }

    /// Its caller has its value.
    pub(super) fn served(&mut self, number: u64, is_right: bool) {
        let record = &self.calls[&number];
        let (finished, raised) = (record.is_finished, record.is_raised);
        self.check(is_right && finished && !raised, || format!("call {number} has a value that nobody gave it"));
        self.outcome(number, "a value".to_owned());
    }

    /// Its caller has an error.
    pub(super) fn failed(&mut self, number: u64, error: &Error) {
        let record = self.calls.get_mut(&number).expect("it was asked");
        let (begun, finished, raised) = (record.begun.len(), record.is_finished, record.is_raised);
        let code = if let Error::OnHome(_) = error { "on_home" } else { error.code() };
        let ran = error.ran();
        let is_late = record.is_late();
        let is_lost = record.is_sent && code == "worker_crashed";
        record.never_ran = ran == Ran::No;
        let fits = match ran {
            Ran::No => begun == 0,
            Ran::Yes => finished,
            // What is not fenced counts as begun.
            Ran::Maybe => begun > 0 || !self.is_fenced,
        };
        self.check(fits, || format!("call {number} begun {begun} times, finished: {finished}, and is told {error:?}"));
        self.check(code != "python" || raised, || format!("call {number} raised nothing, and is told {error}"));
        self.check(code != "timeout" || is_late, || format!("call {number} is not late, and is told {error}"));
        let is_fair = matches!(
            code,
            "worker_busy"
                | "on_home"
                | "python"
                | "convert"
                | "pool_saturated"
                | "queue_timeout"
                | "would_deadlock"
                | "refs_on_different_workers"
        );
        self.check(!self.is_faultless || is_fair, || {
            format!("call {number}: nothing is wrong, and it is told {error}")
        });
        if let Error::WorkerCrashed(crash) = error {
            let worker = crash.worker.to_string();
            self.runs.told(&worker, &crash.cause);
            let was_there = self.calls[&number].begun.last().is_none_or(|at| *at == worker);
            self.check(was_there && self.dead.contains(&worker), || {
                format!("call {number} is told of a death in {worker} that it did not die of: {error}")
            });
        }
        self.check(!is_lost, || format!("what call {number} has answered is lost: {error}"));
        self.check(code != "internal", || format!("call {number} is told {error}"));
        self.outcome(number, format!("{code} {ran:?}"));
    }

    pub(super) fn unanswered(&self) -> Vec<u64> {
        self.calls.iter().filter(|(_, record)| record.outcome.is_none()).map(|(number, _)| *number).collect()
    }
}
