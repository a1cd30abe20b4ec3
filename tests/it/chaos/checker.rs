//! Says whether a history keeps what the bridge promises: nine rules, each a pure function.
//!
//! Workers run one call at a time. Every call has an id of its own, and the order is written down, so nothing is
//! searched: each rule sorts or walks.

mod effects;
mod outcomes;
mod tests;
mod workers;

use super::history::{Entry, History, Invoke, Kind, Outcome, Record, Worker};
use std::collections::BTreeMap;
use std::fmt;

type Verdict = Result<(), String>;
type Rule = fn(&Index<'_>) -> Verdict;

/// The numbers are those that a violation is told by.
const RULES: [(u8, Rule); 9] = [
    (1, outcomes::every_call_has_one_outcome),
    (2, outcomes::no_call_begins_twice),
    (3, outcomes::outcomes_tell_what_happened),
    (4, workers::strict_calls_begin_in_order_at_home),
    (5, effects::what_was_over_before_began_before),
    (6, effects::lists_are_what_began_in_their_worker),
    (7, effects::objects_tell_their_own_tokens),
    (8, effects::streams_are_prefixes),
    (9, workers::generations_follow_each_other_within_the_budget),
];

/// # Errors
/// The first violation of each rule that was not kept.
pub(crate) fn check(history: &History) -> Result<(), Vec<String>> {
    let index = Index::new(history);
    let violations = RULES.iter().filter_map(|(number, rule)| Some(format!("rule {number}: {}", rule(&index).err()?)));
    let violations: Vec<_> = violations.collect();
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}

/// How many idempotent calls began a second time.
pub(crate) fn second_runs(history: &History) -> usize {
    Index::new(history).lives.values().filter(|life| life.earlier.is_some()).count()
}

/// All that is known of one call.
struct Life<'a> {
    invoke: &'a Invoke,
    outcome: Option<&'a Outcome>,
    /// Of an idempotent call that began twice: the first time.
    earlier: Option<&'a Record>,
    begin: Option<&'a Record>,
    end: Option<&'a Record>,
    closed: Option<&'a Record>,
}

impl Life<'_> {
    /// It has begun once, elsewhere.
    fn may_begin_again_in(&self, worker: Worker) -> bool {
        self.invoke.is_idempotent && self.earlier.is_none() && self.begin.is_some_and(|first| first.worker != worker)
    }

    fn began_in(&self, worker: Worker) -> bool {
        self.earlier.into_iter().chain(self.begin).any(|begin| begin.worker == worker)
    }
}

struct Index<'a> {
    history: &'a History,
    lives: BTreeMap<u64, Life<'a>>,
    /// The records of each worker, in the order of the journal.
    workers: BTreeMap<Worker, Vec<&'a Record>>,
}

impl<'a> Index<'a> {
    /// What is there twice, or of nobody, the first two rules find; here the first counts.
    fn new(history: &'a History) -> Self {
        let mut lives = BTreeMap::new();
        for entry in &history.entries {
            match entry {
                Entry::Invoke(invoke) => {
                    let life = Life { invoke, outcome: None, earlier: None, begin: None, end: None, closed: None };
                    lives.entry(invoke.id).or_insert(life);
                }
                Entry::Outcome(outcome) => {
                    if let Some(life) = lives.get_mut(&outcome.id) {
                        life.outcome.get_or_insert(outcome);
                    }
                }
            }
        }
        let mut workers: BTreeMap<Worker, Vec<&Record>> = BTreeMap::new();
        for record in &history.records {
            workers.entry(record.worker).or_default().push(record);
            let Some(life) = lives.get_mut(&record.call) else { continue };
            match record.kind {
                Kind::Start => {}
                Kind::Begin if life.may_begin_again_in(record.worker) => {
                    life.earlier = life.begin.replace(record);
                    life.end = None;
                }
                Kind::Begin => drop(life.begin.get_or_insert(record)),
                Kind::End => drop(life.end.get_or_insert(record)),
                Kind::Closed => drop(life.closed.get_or_insert(record)),
            }
        }
        Self { history, lives, workers }
    }
}

/// A call as a violation names it, with its times.
impl fmt::Display for Life<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Invoke { id, at, session, pool, seq, affinity, is_idempotent, what } = self.invoke;
        write!(f, "call {id} ({what:?} of session {session}, {affinity} in {}, seq {seq}", char::from(*pool))?;
        write!(f, "{}; invoked {at}", if *is_idempotent { ", idempotent" } else { "" })?;
        for (word, record) in
            [("begun before", self.earlier), ("begun", self.begin), ("ended", self.end), ("closed", self.closed)]
        {
            if let Some(record) = record {
                write!(f, ", {word} {} in {}", record.at, record.worker)?;
            }
        }
        match self.outcome {
            Some(outcome) => write!(f, ", outcome {}: {:?} {:?})", outcome.at, outcome.how, outcome.got),
            None => write!(f, ")"),
        }
    }
}

/// A violation, unless it holds.
fn must(holds: bool, else_what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(else_what()) }
}
