//! Rules 1 to 3: one outcome, at most one begin, and an outcome that is true.

use super::{Index, Life, Verdict, must};
use crate::chaos::history::{Entry, How, Kind, Record, What, Worker};
use snakebridge::{Fact, Ran};
use std::collections::{BTreeMap, BTreeSet};

/// Rule 1: every invoke has exactly one outcome, and there is none without.
pub(super) fn every_call_has_one_outcome(index: &Index<'_>) -> Verdict {
    let (mut invoked, mut over) = (BTreeSet::new(), BTreeSet::new());
    for entry in &index.history.entries {
        match entry {
            Entry::Invoke(invoke) => must(invoked.insert(invoke.id), || format!("call {} is made twice", invoke.id))?,
            Entry::Outcome(outcome) => {
                let (id, at) = (outcome.id, outcome.at);
                must(invoked.contains(&id), || format!("an outcome of call {id}, which nobody made, at {at}"))?;
                must(over.insert(id), || format!("a second outcome of call {id} at {at}"))?;
            }
        }
    }
    match index.lives.values().find(|life| life.outcome.is_none()) {
        Some(life) => Err(format!("no outcome: {life}")),
        None => Ok(()),
    }
}

/// Rule 2: a call begins once at most, one that is idempotent twice, in another worker when the first does nothing any
/// more; and it ends where it began.
pub(super) fn no_call_begins_twice(index: &Index<'_>) -> Verdict {
    let mut begun: BTreeMap<u64, &Record> = BTreeMap::new();
    let mut ended: BTreeMap<u64, &Record> = BTreeMap::new();
    for record in &index.history.records {
        let Record { call, at, worker, .. } = record;
        if record.kind == Kind::Start {
            continue;
        }
        must(index.lives.contains_key(call), || format!("call {call}, which nobody made, in {worker} at {at}"))?;
        if record.kind == Kind::Begin {
            if let Some(first) = begun.insert(*call, record) {
                let life = &index.lives[call];
                let is_again = life.earlier.is_some_and(|earlier| std::ptr::eq(earlier, first));
                let last = index.workers[&first.worker].last();
                let may = is_again && last.is_some_and(|last| last.at < *at);
                must(may, || {
                    format!("call {call} begins in {} at {} and in {worker} at {at}", first.worker, first.at)
                })?;
                ended.remove(call);
            }
            continue;
        }
        let began_here = begun.get(call).is_some_and(|begin| begin.worker == *worker && begin.at <= *at);
        must(began_here, || format!("call {call} ends in {worker} at {at}, where it did not begin"))?;
        if record.kind == Kind::End {
            must(ended.insert(*call, record).is_none(), || format!("call {call} ends twice, again at {at}"))?;
        }
    }
    Ok(())
}

/// Rule 3: what an outcome says of the work, the journal says too.
pub(super) fn outcomes_tell_what_happened(index: &Index<'_>) -> Verdict {
    let mut exited: BTreeSet<Worker> = BTreeSet::new();
    for told in &index.history.told {
        if let Fact::WorkerExited { worker, .. } = &told.fact {
            exited.insert(worker.into());
        }
    }
    let mut ran_there: BTreeMap<Worker, &Life<'_>> = BTreeMap::new();
    for life in index.lives.values() {
        let Some(outcome) = life.outcome else { continue };
        if matches!(life.invoke.what, What::Reset | What::Release) {
            continue;
        }
        if let Some(begin) = life.begin {
            must(life.invoke.at <= begin.at, || format!("begun before it was made: {life}"))?;
        }
        match outcome.how {
            How::Dropped => {}
            How::Ok => is_what_python_did(life)?,
            How::Failed { ran, code, .. } => {
                let possible = match code {
                    "timeout" | "cancelled" | "shutting_down" | "internal" | "protocol" => true,
                    "python" => ran == Ran::Yes && life.invoke.what == What::Fail,
                    "convert" | "ref_limit" => ran == Ran::Yes,
                    "worker_crashed" => ran == Ran::Maybe,
                    _ => ran == Ran::No,
                };
                must(possible, || format!("no such outcome: {life}"))?;
                match ran {
                    Ran::No => must(life.begin.is_none(), || format!("it never began, it says: {life}"))?,
                    Ran::Yes => must(life.end.is_some(), || format!("it has ended, it says: {life}"))?,
                    Ran::Maybe => {}
                }
            }
            How::Broken { .. } => must(life.end.is_some(), || format!("open, and its opening did not end: {life}"))?,
        }
        let (dead, is_open) = match outcome.how {
            How::Failed { code: "worker_crashed", worker, .. } => (worker, false),
            How::Broken { code: "worker_crashed", worker, .. } => (worker, true),
            How::Ok | How::Failed { .. } | How::Broken { .. } | How::Dropped => continue,
        };
        let dead = dead.ok_or_else(|| format!("crashed in no worker: {life}"))?;
        must(exited.contains(&dead), || format!("{dead} did not exit: {life}"))?;
        // Its last run may have died before its function wrote anything.
        let was_again = life.earlier.is_none() && life.begin.is_some_and(|first| exited.contains(&first.worker));
        let is_last = life.invoke.is_idempotent && was_again;
        let elsewhere = life.begin.is_some() && !life.began_in(dead) && !is_last;
        must(!elsewhere, || format!("not begun in {dead}, which died: {life}"))?;
        if is_open {
            continue;
        }
        if let Some(other) = ran_there.insert(dead, life) {
            return Err(format!("two calls ran in {dead} when it died: {other} and {life}"));
        }
        let records = index.workers.get(&dead).map_or(&[][..], Vec::as_slice);
        let last = records.iter().rfind(|record| record.kind == Kind::Begin).map(|record| record.call);
        let was_last = !life.began_in(dead) || last == Some(life.invoke.id);
        must(was_last, || format!("{dead} went on to begin {last:?}: {life}"))?;
    }
    Ok(())
}

fn is_what_python_did(life: &Life<'_>) -> Verdict {
    let (Some(outcome), Some(end)) = (life.outcome, life.end) else {
        return Err(format!("a value of what did not end: {life}"));
    };
    must(end.at <= outcome.at, || format!("a value before its end: {life}"))?;
    let same = match life.invoke.what {
        What::Append => outcome.got == [end.value, 1],
        What::Read => outcome.got.len() as u64 == end.value,
        What::Make { token } => end.value == token,
        What::Use { .. } => outcome.got == [end.value],
        What::Stream { items } => end.value == items,
        What::Fail => false,
        What::Reset | What::Release => true,
    };
    must(same, || format!("not the value of Python, {}: {life}", end.value))
}
