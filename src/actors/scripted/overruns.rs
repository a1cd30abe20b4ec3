//! What workers took in and answered, and for which of it they were killed.

use super::witness::Witness;
use crate::clock;
use crate::observe::LogRecord;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A call, or a step of a stream, that was not passed over.
#[derive(Clone, Debug, Default)]
struct Run {
    number: Option<u64>,
    answered_at: Option<Instant>,
    /// It was to end when its worker was killed.
    is_told: bool,
}

#[derive(Default)]
pub(super) struct Runs {
    /// By worker and sequence number.
    runs: BTreeMap<(String, u64), Run>,
    /// When they were killed, and whether by their host.
    killed: BTreeMap<String, (Instant, bool)>,
    /// Workers whose death callers were told of, with its cause.
    causes: BTreeSet<(String, String)>,
}

impl Runs {
    pub(super) fn begin(&mut self, worker: &str, seq: u64) {
        self.runs.insert((worker.to_owned(), seq), Run::default());
    }

    /// It is that call.
    pub(super) fn is_of(&mut self, worker: &str, seq: u64, number: u64) {
        self.runs.entry((worker.to_owned(), seq)).or_default().number = Some(number);
    }

    pub(super) fn answer(&mut self, worker: &str, seq: u64) {
        self.runs.entry((worker.to_owned(), seq)).or_default().answered_at = Some(clock::now());
    }

    /// A worker is killed; `is_told` says what it was told to end.
    pub(super) fn kill(&mut self, worker: &str, is_by_host: bool, is_told: impl Fn(u64) -> bool) {
        let now = clock::now();
        self.killed.insert(worker.to_owned(), (now, is_by_host));
        for ((at, seq), run) in &mut self.runs {
            // What it answers in this very moment may cross the kill.
            if at == worker && run.answered_at.is_none_or(|at| at == now) {
                run.is_told = is_told(*seq);
            }
        }
    }

    pub(super) fn told(&mut self, worker: &str, cause: &str) {
        self.causes.insert((worker.to_owned(), cause.to_owned()));
    }
}

/// Whatever a worker was killed for, as the message log has it, ran, was told to end, was given its grace and ran
/// on; and callers are told that cause.
pub(super) fn judge(records: Vec<LogRecord>, witness: &mut Witness, grace: Duration) {
    let Runs { runs, killed, causes } = std::mem::take(&mut witness.runs);
    let (mut sent, mut dying, mut killed_for) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    for LogRecord { actor, message, call, outcome, .. } in records {
        let Some(worker) = actor.strip_prefix("worker ").map(str::to_owned) else { continue };
        match (message, call) {
            ("run", Some(call)) => {
                if let Some(seq) = sequence_number(&outcome) {
                    sent.insert((worker, call), seq);
                }
            }
            ("overran", Some(call)) => {
                killed_for.insert(worker.clone(), call);
                let seq = sent[&(worker.clone(), call)];
                let Some(run) = runs.get(&(worker.clone(), seq)) else {
                    witness.check_fenced(|| format!("{worker} is killed for {call}, which never began"));
                    continue;
                };
                let killed = killed.get(&worker).copied();
                let killed_for_it = killed.filter(|(_, is_by_host)| *is_by_host && !dying.contains(&worker));
                let since = run.number.and_then(|number| witness.unwanted_since(number));
                let ran_on = run.answered_at.is_none_or(|answered_at| killed.is_some_and(|(at, _)| at <= answered_at));
                let was_told = run.is_told || grace.is_zero() || killed_for_it.is_none();
                let had_grace = killed_for_it.zip(since).is_none_or(|((at, _), since)| since + grace <= at);
                witness.check(ran_on && was_told && had_grace, || {
                    format!("{worker} is killed for {call} at {killed:?}, to end since {since:?}, and that is {run:?}")
                });
            }
            ("kill" | "distrust" | "heartbeat" | "socket closed" | "exit seen", _) => {
                dying.insert(worker);
            }
            (_, _) => {}
        }
    }
    for (worker, cause) in causes.iter().filter(|(_, cause)| cause.starts_with("killed, its call ")) {
        let call = killed_for.get(worker).map(|call| format!("killed, its call {call} did not end"));
        let fits = call.as_ref().is_some_and(|call| cause.starts_with(call));
        witness.check(fits, || format!("{worker} died of {call:?}, and that is told as {cause}"));
    }
}

/// Of `sent (7)`, and of `sent, on top (7)`.
fn sequence_number(outcome: &str) -> Option<u64> {
    outcome.split_once('(')?.1.strip_suffix(')')?.parse().ok()
}
