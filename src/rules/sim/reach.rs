//! Which rows, refusals and crossings the seeds have reached: one that none reaches is not tested.

use std::cell::RefCell;
use std::collections::BTreeMap;

thread_local! {
    static HITS: RefCell<BTreeMap<String, u64>> = const { RefCell::new(BTreeMap::new()) };
}

const ROWS: &[&str] = &[
    "refs, worker gone",
    "refs, worker tainted",
    "refs, worker free",
    "refs, worker busy",
    "no namespace",
    "namespace elsewhere",
    "namespace, worker gone",
    "namespace, worker tainted",
    "namespace, worker free",
    "namespace, worker busy",
    "no home",
    "home free",
    "home busy",
    "home tainted",
    "home lost",
];
const AFFINITIES: &[&str] = &["hint", "strict_queue", "strict_fail_fast"];

const EVENTS: &[&str] = &[
    "refuse worker_busy",
    "refuse session_worker_unavailable",
    "refuse pool_saturated",
    "refuse pool_degraded",
    "refuse queue_timeout",
    "refuse timeout",
    "refuse ref_lost",
    "refuse namespace_elsewhere",
    "refuse cancelled",
    "refuse shutting_down",
    "answer timeout, begun",
    "answer timeout, not begun",
    "crashed",
    "grant meets a call that was given up",
    "grant before the body is back",
    "refused before the body is back",
    "withdrawn, and granted all the same",
    "home not ready, CallerLeft",
    "home not ready, SessionEnded",
    "home not ready, Failed",
    "request for a worker that is gone",
    "take-back before its request",
    "take-back of a call that is over",
    "taken back",
    "kept",
    "kept, and passed all the same",
    "given up at the worker",
    "given up while its body is on the way back",
    "overran",
    "a signal is not noticed",
    "an interrupt is obeyed",
    "an interrupt is ignored",
    "an interrupt finds that its call waits",
    "an interrupt comes too late",
    "run once more",
    "a call begins once more",
    "no second run",
    "stopped",
    "renewed for max_requests",
    "renewed for max_age",
    "renewed for memory",
    "silent",
    "silent, and heard again",
    "killed, it did not answer",
    "zygote lost",
    "degraded",
    "event snakebridge.worker.starting",
    "event snakebridge.worker.ready",
    "event snakebridge.worker.start_failed",
    "event snakebridge.worker.exited",
    "event snakebridge.worker.tainted",
    "event snakebridge.worker.untainted",
    "event snakebridge.worker.retiring",
    "event snakebridge.pool.degraded",
    "event snakebridge.pool.recovered",
    "event snakebridge.session.homed",
    "event snakebridge.session.home_lost",
    "event snakebridge.session.home_forgotten",
    "a call waits for its callback",
    "a call runs on top of another",
    "a callback is dropped",
    "a cancelled call asks for a callback",
    "a call of an ended session, in a callback",
    "a session is forgotten again",
    "would deadlock",
    "what came late keeps the thread",
    "waits elsewhere when its tree has left",
    "refuse would_deadlock",
    "a home is made ready",
    "refused while its home is made ready",
    "refuse rebuild_failed",
    "session expired",
    "session capped",
];

#[derive(Default)]
pub(crate) struct Reached(BTreeMap<String, u64>);

pub(crate) fn hit(what: String) {
    HITS.with_borrow_mut(|hits| *hits.entry(what).or_default() += 1);
}

pub(crate) fn take() -> Reached {
    Reached(HITS.take())
}

impl Reached {
    pub(crate) fn and(mut self, other: Self) -> Self {
        for (what, count) in other.0 {
            *self.0.entry(what).or_default() += count;
        }
        self
    }

    pub(crate) fn check(&self) {
        let rows = ROWS.iter().flat_map(|row| AFFINITIES.iter().map(move |affinity| format!("{row} / {affinity}")));
        self.check_for(rows.chain(EVENTS.iter().map(|event| (*event).to_owned())));
    }

    pub(crate) fn check_for(&self, wanted: impl Iterator<Item = String>) {
        let rare: Vec<String> = wanted
            .filter_map(|what| {
                let count = self.0.get(&what).copied().unwrap_or(0);
                (count < ENOUGH).then(|| format!("{what}: {count}"))
            })
            .collect();
        assert!(rare.is_empty(), "reached too rarely: {rare:#?}");
    }
}

/// What is reached less often than this is reached by luck.
const ENOUGH: u64 = 10;
