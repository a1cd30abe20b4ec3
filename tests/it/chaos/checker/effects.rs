//! Rules 5 to 8: real time, lists, tokens, streams.

use super::{Index, Life, Verdict, must};
use crate::chaos::history::{How, Kind, What};
use std::collections::BTreeMap;

/// Rule 5: if one call's outcome was there before another was made, it began before it, in the same worker.
pub(super) fn what_was_over_before_began_before(index: &Index<'_>) -> Verdict {
    for records in index.workers.values() {
        let begun = records.iter().filter(|record| record.kind == Kind::Begin);
        let begun: Vec<&Life<'_>> = begun.filter_map(|record| index.lives.get(&record.call)).collect();
        // The earliest outcome among those that begin later.
        let mut earliest: Option<&Life<'_>> = None;
        for life in begun.into_iter().rev() {
            if let Some(later) = earliest {
                let over = later.outcome.map_or(u64::MAX, |outcome| outcome.at);
                must(over >= life.invoke.at, || {
                    format!("over before the other was made, begun after: {later}, {life}")
                })?;
            }
            // Who has dropped a call does not know when that is heard of.
            let Some(outcome) = life.outcome.filter(|outcome| outcome.how != How::Dropped) else { continue };
            if earliest.and_then(|other| other.outcome).is_none_or(|other| outcome.at < other.at) {
                earliest = Some(life);
            }
        }
    }
    Ok(())
}

/// Rule 6: an append's index is its place among those of its session that began in that process, and a read gives
/// those that began before it.
pub(super) fn lists_are_what_began_in_their_worker(index: &Index<'_>) -> Verdict {
    for (worker, records) in &index.workers {
        let mut lists: BTreeMap<u32, List> = BTreeMap::new();
        for record in records {
            let Some(life) = index.lives.get(&record.call) else { continue };
            let list = lists.entry(record.session).or_default();
            match (life.invoke.what, record.kind) {
                (What::Append, Kind::Begin) => list.open.push(record.seq),
                (What::Append, Kind::End) => {
                    let at = list.settle(record.seq, record.value);
                    must(at, || format!("not its place in {worker}, {}: {life}", record.value))?;
                }
                (What::Read, Kind::Begin) => {
                    let has_more = life.begin.is_some_and(|begin| begin.worker != *worker);
                    let Some(outcome) = life.outcome.filter(|outcome| outcome.how == How::Ok && !has_more) else {
                        continue;
                    };
                    let same = list.is(&outcome.got);
                    must(same, || format!("not the list of {worker}, {:?} {:?}: {life}", list.known, list.open))?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// What a worker has of a session.
#[derive(Default)]
struct List {
    /// `None`: one of those that were interrupted, it is not known which.
    known: Vec<Option<u64>>,
    /// Those that began and have not ended: the one that runs, and before it those that were interrupted, which
    /// have or have not added their number.
    open: Vec<u64>,
}

impl List {
    fn settle(&mut self, seq: u64, place: u64) -> bool {
        let ran = self.open.pop() == Some(seq);
        let least = self.known.len();
        let most = least + self.open.len();
        let Some(place) = usize::try_from(place).ok().filter(|place| (least..=most).contains(place)) else {
            return false;
        };
        if place == most {
            self.known.extend(self.open.iter().map(|seq| Some(*seq)));
        }
        self.known.resize(place, None);
        self.known.push(Some(seq));
        self.open.clear();
        ran
    }

    fn is(&self, got: &[u64]) -> bool {
        if got.len() < self.known.len() {
            return false;
        }
        let (known, rest) = got.split_at(self.known.len());
        let mut open = self.open.iter();
        known.iter().zip(&self.known).all(|(seq, is)| is.is_none_or(|is| is == *seq))
            && rest.iter().all(|seq| open.any(|other| other == seq))
    }
}

/// Rule 7: an object gives the token that it was made with, in the process that made it.
pub(super) fn objects_tell_their_own_tokens(index: &Index<'_>) -> Verdict {
    for life in index.lives.values() {
        let What::Use { made } = life.invoke.what else { continue };
        let Some(maker) = index.lives.get(&made) else {
            return Err(format!("an object that nobody made: {life}"));
        };
        let What::Make { token } = maker.invoke.what else {
            return Err(format!("made by what makes none, {maker}: {life}"));
        };
        if let (Some(begin), Some(made)) = (life.begin, maker.begin) {
            must(begin.worker == made.worker, || format!("away from its object, of {maker}: {life}"))?;
        }
        let own = life.end.is_none_or(|end| end.value == token);
        must(own, || format!("the token of another object than {maker}: {life}"))?;
        if let Some(outcome) = life.outcome.filter(|outcome| outcome.how == How::Ok) {
            must(outcome.got == [token], || format!("the token of another object than {maker}: {life}"))?;
        }
    }
    Ok(())
}

/// Rule 8: the items of a stream are the first ones, in order, each once; all of them if it came to its end. Its
/// producer stays within its credit.
pub(super) fn streams_are_prefixes(index: &Index<'_>) -> Verdict {
    for life in index.lives.values() {
        let (What::Stream { items }, Some(outcome)) = (life.invoke.what, life.outcome) else { continue };
        let got = outcome.got.len() as u64;
        let in_order = outcome.got.iter().zip(0..).all(|(item, n)| *item == item_of(life.invoke.id, n));
        must(in_order && got <= items, || format!("not its first items: {life}"))?;
        must(outcome.how != How::Ok || got == items, || format!("an end before its last item: {life}"))?;
        if let Some(closed) = life.closed {
            let credit = index.history.terms.credit;
            let within = (got..=(got + credit).min(items)).contains(&closed.value);
            must(within, || format!("{} items were made, with a credit of {credit}: {life}", closed.value))?;
        }
    }
    Ok(())
}

/// The item that a stream has at that place.
pub(super) fn item_of(call: u64, n: u64) -> u64 {
    call << 20 | n
}
