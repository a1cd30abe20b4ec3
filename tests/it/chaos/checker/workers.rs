//! Rules 4 and 9: homes and generations.

use super::{Index, Life, Verdict, must};
use crate::chaos::history::{Kind, Ns, Record, Told, What, Worker};
use snakebridge::{Affinity, Fact};
use std::collections::{BTreeMap, BTreeSet};

/// A session in a pool.
type Place = (u32, u8);

/// A home of a session, and when it became that.
struct Home<'a> {
    worker: Worker,
    told: &'a Told,
}

/// Rule 4: the strict_queue calls of a session begin as they were submitted, all strict ones without objects in its
/// homes, those of strict_queue one after the other; and a home changes for a reason.
pub(super) fn strict_calls_begin_in_order_at_home(index: &Index<'_>) -> Verdict {
    let homes = homes_of(index)?;
    let (mut lines, mut anywhere) = (BTreeMap::<Place, Vec<&Life<'_>>>::new(), BTreeSet::new());
    for life in index.lives.values() {
        let place = (life.invoke.session, life.invoke.pool);
        match (life.invoke.affinity, life.begin) {
            (Affinity::StrictQueue, Some(_)) => lines.entry(place).or_default().push(life),
            (Affinity::StrictFailFast, Some(begin)) if !matches!(life.invoke.what, What::Use { .. }) => {
                let mut homes = homes.get(&place).into_iter().flatten();
                must(homes.any(|home| home.worker == begin.worker), || {
                    format!("not in a home of its session: {life}")
                })?;
            }
            (Affinity::StrictQueue | Affinity::StrictFailFast, _) => {}
            (Affinity::Hint, _) => drop(anywhere.insert(place)),
        }
    }
    for (place, line) in &mut lines {
        line.sort_by_key(|life| life.invoke.seq);
        let mut last: BTreeMap<Worker, &Life<'_>> = BTreeMap::new();
        let mut to_come = homes.get(place).map_or(&[][..], Vec::as_slice);
        for life in line {
            let Some(begin) = life.begin else { continue };
            if let Some(before) = last.insert(begin.worker, life) {
                let in_order = before.begin.is_none_or(|before| before.at < begin.at);
                let has_passed = in_order || passes(life, before, homes.get(place).map_or(&[], Vec::as_slice));
                must(has_passed, || format!("begun before the earlier one: {before}, {life}"))?;
            }
            if matches!(life.invoke.what, What::Use { .. }) {
                continue;
            }
            let Some(at) = to_come.iter().position(|home| home.worker == begin.worker) else {
                let homes: Vec<_> = homes.get(place).into_iter().flatten().map(|home| home.worker).collect();
                return Err(format!("not in a home of its session, which were {homes:?}: {life}"));
            };
            to_come = &to_come[at..];
        }
    }
    let reasons = Reasons::new(index)?;
    for (place, homes) in &homes {
        let asks = !anywhere.contains(place) && !index.history.terms.rehoming.contains(&place.1);
        for (home, next) in homes.iter().zip(homes.iter().skip(1)) {
            reasons.allow(place.0, home, next, asks)?;
        }
    }
    Ok(())
}

/// A call with an object waits for that one's worker, and passes one before it that waits for any to be its home:
/// which may become the same.
fn passes(life: &Life<'_>, before: &Life<'_>, homes: &[Home<'_>]) -> bool {
    let (Some(begin), Some(later)) = (life.begin, before.begin) else { return false };
    let waited_for_any = homes.iter().any(|home| home.worker == later.worker && home.told.at > begin.at);
    let has_object = |life: &Life<'_>| matches!(life.invoke.what, What::Use { .. });
    has_object(life) && !has_object(before) && waited_for_any
}

fn homes_of<'a>(index: &Index<'a>) -> Result<BTreeMap<Place, Vec<Home<'a>>>, String> {
    let mut homes: BTreeMap<Place, Vec<Home<'a>>> = BTreeMap::new();
    for told in &index.history.told {
        if let Fact::SessionHomed { session, worker } = &told.fact {
            let session = number_of(session.as_str())?;
            let worker = Worker::from(worker);
            homes.entry((session, worker.pool)).or_default().push(Home { worker, told });
        }
    }
    Ok(homes)
}

fn number_of(session: &str) -> Result<u32, String> {
    session.trim_start_matches('s').parse().map_err(|_| format!("an event of session {session}, which nobody uses"))
}

/// What was asked of each session: when it was over, in that order, and when it was made.
#[derive(Default)]
struct Requests(BTreeMap<u32, Vec<(Ns, Ns)>>);

impl Requests {
    fn new(index: &Index<'_>, what: What) -> Self {
        let mut this = Self::default();
        for life in index.lives.values().filter(|life| life.invoke.what == what) {
            let over = life.outcome.map_or(Ns::MAX, |outcome| outcome.at);
            this.0.entry(life.invoke.session).or_default().push((over, life.invoke.at));
        }
        this.0.values_mut().for_each(|requests| requests.sort_unstable());
        this
    }

    /// Whether one was under way at some moment between the two.
    fn any(&self, session: u32, from: Ns, to: Ns) -> bool {
        let all = self.0.get(&session).map_or(&[][..], Vec::as_slice);
        let since = &all[all.partition_point(|(over, _)| *over < from)..];
        since.iter().any(|(_, made)| *made <= to)
    }
}

/// What may move a home, by the number of its event.
#[derive(Default)]
struct Reasons {
    /// A worker is tainted, or retires.
    leaving: BTreeSet<(Worker, u64)>,
    lost: BTreeMap<(u32, Worker, u64), Ns>,
    resets: Requests,
    /// An id may come again before the cleanup of its last session is told, so events do not tell the two apart.
    releases: Requests,
}

impl Reasons {
    fn new(index: &Index<'_>) -> Result<Self, String> {
        let (resets, releases) = (Requests::new(index, What::Reset), Requests::new(index, What::Release));
        let mut this = Self { resets, releases, ..Self::default() };
        for told in &index.history.told {
            match &told.fact {
                Fact::WorkerRetiring { worker, .. } | Fact::WorkerTainted { worker, .. } => {
                    this.leaving.insert((worker.into(), told.seq));
                }
                Fact::SessionHomeLost { session, worker } => {
                    this.lost.insert((number_of(session.as_str())?, worker.into(), told.seq), told.at);
                }
                _ => {}
            }
        }
        Ok(this)
    }

    /// `asks`: only a reset of the session finds it a new home when one is lost.
    fn allow(&self, session: u32, home: &Home<'_>, next: &Home<'_>, asks: bool) -> Verdict {
        let Home { worker, told: from } = home;
        let to = next.told;
        let moves = self.leaving.range((*worker, from.seq)..(*worker, to.seq)).next().is_some()
            || self.releases.any(session, from.at, to.at);
        if moves {
            return Ok(());
        }
        let change = || format!("session {session}: {worker} since {}, {} since {}", from.at, next.worker, to.at);
        let lost = self.lost.range((session, *worker, from.seq)..(session, *worker, to.seq)).next_back();
        let Some((_, lost)) = lost else {
            return Err(format!("a home changes for no reason: {}", change()));
        };
        let was_asked = self.resets.any(session, *lost, to.at);
        must(was_asked || !asks, || format!("a lost home is replaced, and nobody asked for it: {}", change()))
    }
}

/// Rule 9: of a slot's processes each is gone before the next is there, as events and journal tell it; and in any
/// window there are no more restarts than the budget has.
pub(super) fn generations_follow_each_other_within_the_budget(index: &Index<'_>) -> Verdict {
    let mut exits = BTreeMap::new();
    for (told, next) in index.history.told.iter().zip(index.history.told.iter().skip(1)) {
        must(next.seq == told.seq + 1, || format!("no event {} after that of {}", told.seq + 1, told.at))?;
    }
    for told in &index.history.told {
        match &told.fact {
            Fact::WorkerStarting { worker } => {
                let worker = Worker::from(worker);
                let before = Worker { generation: worker.generation - 1, ..worker };
                let is_alone = before.generation == 0 || exits.contains_key(&before);
                must(is_alone, || format!("{worker} is started at {} while {before} is there", told.at))?;
            }
            Fact::WorkerExited { worker, .. } | Fact::WorkerStartFailed { worker, .. } => {
                let again = exits.insert(Worker::from(worker), told.at);
                must(again.is_none(), || format!("{worker} exits twice, again at {}", told.at))?;
            }
            _ => {}
        }
    }
    let mut before: Option<(Worker, &[&Record])> = None;
    for (worker, records) in &index.workers {
        let (first, last) = (records[0], records[records.len() - 1]);
        must(first.kind == Kind::Start, || format!("{worker} has no start before {}", first.at))?;
        let other = records.iter().skip(1).find(|record| record.kind == Kind::Start || record.pid != first.pid);
        if let Some(other) = other {
            return Err(format!("two processes are {worker}: {} and, at {}, {}", first.pid, other.at, other.pid));
        }
        if let Some(exit) = exits.get(worker) {
            must(last.at <= *exit, || format!("{worker} writes at {} and was gone at {exit}", last.at))?;
        }
        if let Some((other, records)) =
            before.filter(|(other, _)| (other.pool, other.slot) == (worker.pool, worker.slot))
        {
            let last = records[records.len() - 1].at;
            must(last < first.at, || format!("{other} writes at {last}, {worker} since {}", first.at))?;
        }
        before = Some((*worker, records));
    }
    restarts_are_within_the_budget(index)
}

fn restarts_are_within_the_budget(index: &Index<'_>) -> Verdict {
    let (limit, window) = index.history.terms.budget;
    // An event is told a moment after the time that the pool reckons with.
    let window = window - window / 8;
    let mut pools: BTreeMap<u8, Restarts> = BTreeMap::new();
    for told in &index.history.told {
        match &told.fact {
            Fact::PoolDegraded { pool, .. } => {
                pools.entry(pool.as_str().as_bytes()[0]).or_default().degraded = Some(told.at);
            }
            Fact::PoolRecovered { pool } => pools.entry(pool.as_str().as_bytes()[0]).or_default().degraded = None,
            // A first generation has a new slot: somebody asked for that.
            Fact::WorkerStarting { worker } if worker.generation() > 1 => {
                let worker = Worker::from(worker);
                pools.entry(worker.pool).or_default().note(told.at, worker, limit, window)?;
            }
            _ => {}
        }
    }
    Ok(())
}

#[derive(Default)]
struct Restarts {
    degraded: Option<Ns>,
    /// When the budget was charged, in the order of time.
    at: Vec<Ns>,
    last_try: Option<Ns>,
}

impl Restarts {
    fn note(&mut self, at: Ns, worker: Worker, limit: usize, window: Ns) -> Verdict {
        let since = self.at.partition_point(|other| other + window <= at);
        if self.at.len() - since < limit {
            self.at.push(at);
            return Ok(());
        }
        // A degraded pool tries once in half a window, also with nothing left.
        let quiet_since = self.last_try.max(self.degraded);
        let is_try = self.degraded.is_some() && quiet_since.is_none_or(|since| since + window / 2 <= at);
        let since = self.at[since];
        must(is_try, || {
            format!("{worker} is restart {} since {since}, at {at}, with a try at {quiet_since:?}", limit + 1)
        })?;
        self.last_try = Some(at);
        Ok(())
    }
}
