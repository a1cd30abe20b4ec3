//! The checker rejects what is wrong, rule by rule, and accepts a history in which much went wrong that may.

use super::check;
use super::effects::item_of;
use crate::chaos::history::{Entry, History, How, Invoke, Kind, Ns, Outcome, Record, Terms, Told, What, Worker};
use snakebridge::{Affinity, Fact, Ran};

const A0: Worker = Worker { pool: b'a', slot: 0, generation: 1 };
const A1: Worker = Worker { pool: b'a', slot: 1, generation: 1 };
const A0_NEXT: Worker = Worker { pool: b'a', slot: 0, generation: 2 };
const TOKEN: u64 = 4_711;

/// Writes a history, a moment later at each line.
struct Scribe {
    history: History,
    at: Ns,
    seq: u64,
}

impl Scribe {
    fn new() -> Self {
        let terms = Terms { budget: (2, 1_000), credit: 4, rehoming: vec![b'b'] };
        let history = History { entries: vec![], records: vec![], told: vec![], killed: [].into(), terms };
        Self { history, at: 0, seq: 0 }
    }

    fn next(&mut self) -> Ns {
        self.at += 1;
        self.at
    }

    fn tell(&mut self, fact: Fact) {
        self.seq += 1;
        let at = self.next();
        self.history.told.push(Told { seq: self.seq, at, fact });
    }

    fn starts(&mut self, worker: Worker) {
        self.tell(Fact::WorkerStarting { worker: id(worker) });
        self.record(Kind::Start, 0, worker, 0);
        self.tell(Fact::WorkerReady { worker: id(worker) });
    }

    fn exits(&mut self, worker: Worker) {
        self.tell(Fact::WorkerExited { worker: id(worker), cause: "signal 9 (SIGKILL)".into(), expected: false });
    }

    fn homed(&mut self, session: u32, worker: Worker) {
        self.tell(Fact::SessionHomed { session: format!("s{session}").into(), worker: id(worker) });
    }

    fn loses_home(&mut self, session: u32, worker: Worker) {
        self.tell(Fact::SessionHomeLost { session: format!("s{session}").into(), worker: id(worker) });
    }

    fn record(&mut self, kind: Kind, call: u64, worker: Worker, value: u64) {
        let at = self.next();
        let made = self.history.entries.iter().find_map(|entry| match entry {
            Entry::Invoke(invoke) if invoke.id == call => Some((invoke.session, invoke.seq)),
            _ => None,
        });
        let (session, seq) = made.unwrap_or_default();
        let pid = 100 * worker.slot + u32::try_from(worker.generation).unwrap();
        self.history.records.push(Record { kind, at, call, session, seq, value, worker, pid });
    }

    /// A strict_queue call of pool a, whose number is its place too.
    fn invoke(&mut self, id: u64, session: u32, what: What) {
        let at = self.next();
        let affinity = Affinity::StrictQueue;
        self.history.entries.push(Entry::Invoke(Invoke {
            id,
            at,
            session,
            pool: b'a',
            seq: id,
            affinity,
            is_idempotent: false,
            what,
        }));
    }

    fn outcome(&mut self, id: u64, how: How, got: &[u64]) {
        let at = self.next();
        self.history.entries.push(Entry::Outcome(Outcome { id, at, how, got: got.to_vec() }));
    }

    fn fails(&mut self, id: u64, code: &'static str, ran: Ran) {
        self.outcome(id, How::Failed { code, ran, worker: None }, &[]);
    }

    /// A whole call, all of which went well.
    fn call(&mut self, id: u64, session: u32, what: What, worker: Worker, value: u64, got: &[u64]) {
        self.invoke(id, session, what);
        self.record(Kind::Begin, id, worker, 0);
        self.record(Kind::End, id, worker, value);
        self.outcome(id, How::Ok, got);
    }
}

fn id(worker: Worker) -> snakebridge::WorkerId {
    worker.to_string().parse().unwrap()
}

/// Two workers of pool a; session 1 lives in the first, which dies in the middle of its call 6 and is replaced.
fn clean() -> Scribe {
    let mut scribe = Scribe::new();
    scribe.starts(A0);
    scribe.starts(A1);
    scribe.homed(1, A0);
    scribe.call(1, 1, What::Append, A0, 0, &[0, 1]);
    scribe.call(2, 1, What::Make { token: TOKEN }, A0, TOKEN, &[]);
    scribe.call(3, 1, What::Use { made: 2 }, A0, TOKEN, &[TOKEN]);
    scribe.call(4, 1, What::Append, A0, 1, &[1, 1]);
    scribe.call(5, 1, What::Read, A0, 2, &[1, 4]);
    // A stream that is open when its worker dies, with a call that runs and one that waits.
    scribe.invoke(20, 2, What::Stream { items: 9 });
    scribe.homed(2, A0);
    scribe.record(Kind::Begin, 20, A0, 0);
    scribe.record(Kind::End, 20, A0, 9);
    scribe.invoke(6, 1, What::Append);
    scribe.invoke(7, 1, What::Append);
    scribe.record(Kind::Begin, 6, A0, 0);
    scribe.exits(A0);
    scribe.loses_home(1, A0);
    scribe.loses_home(2, A0);
    scribe.outcome(6, How::Failed { code: "worker_crashed", ran: Ran::Maybe, worker: Some(A0) }, &[]);
    let items = [item_of(20, 0), item_of(20, 1)];
    scribe.outcome(20, How::Broken { code: "worker_crashed", ran: Ran::Maybe, worker: Some(A0) }, &items);
    scribe.fails(7, "session_worker_unavailable", Ran::No);
    scribe.starts(A0_NEXT);
    scribe.invoke(8, 1, What::Reset);
    scribe.outcome(8, How::Ok, &[]);
    scribe.homed(1, A1);
    scribe.call(9, 1, What::Append, A1, 0, &[0, 1]);
    // Interrupted between its begin and its end, and the process went on.
    scribe.invoke(10, 1, What::Append);
    scribe.record(Kind::Begin, 10, A1, 0);
    scribe.fails(10, "timeout", Ran::Maybe);
    scribe.call(11, 1, What::Append, A1, 1, &[1, 1]);
    scribe.call(12, 1, What::Read, A1, 2, &[9, 11]);
    scribe.invoke(13, 1, What::Stream { items: 2 });
    scribe.record(Kind::Begin, 13, A1, 0);
    scribe.record(Kind::End, 13, A1, 2);
    scribe.record(Kind::Closed, 13, A1, 2);
    scribe.outcome(13, How::Ok, &[item_of(13, 0), item_of(13, 1)]);
    scribe.invoke(14, 1, What::Read);
    scribe.outcome(14, How::Dropped, &[]);
    scribe.invoke(15, 1, What::Fail);
    scribe.record(Kind::Begin, 15, A1, 0);
    scribe.record(Kind::End, 15, A1, 0);
    scribe.fails(15, "python", Ran::Yes);
    scribe
}

#[test]
fn a_history_in_which_all_was_kept_is_accepted() {
    assert_eq!(check(&clean().history), Ok(()));
}

/// Fails unless the rule, and a text of its violation, are among what is said of the changed history.
fn rejects(rule: u8, text: &str, change: impl FnOnce(&mut Scribe)) {
    let mut scribe = clean();
    change(&mut scribe);
    let violations = check(&scribe.history).expect_err(text);
    let start = format!("rule {rule}: ");
    let found = violations.iter().any(|violation| violation.starts_with(&start) && violation.contains(text));
    assert!(found, "{text:?} is not in {violations:#?}");
}

impl Scribe {
    fn outcome_of(&mut self, id: u64) -> &mut Outcome {
        let outcomes = self.history.entries.iter_mut().filter_map(|entry| match entry {
            Entry::Outcome(outcome) => Some(outcome),
            Entry::Invoke(_) => None,
        });
        outcomes.into_iter().find(|outcome| outcome.id == id).unwrap()
    }

    fn invoke_of(&mut self, id: u64) -> &mut Invoke {
        let invokes = self.history.entries.iter_mut().filter_map(|entry| match entry {
            Entry::Invoke(invoke) => Some(invoke),
            Entry::Outcome(_) => None,
        });
        invokes.into_iter().find(|invoke| invoke.id == id).unwrap()
    }

    fn record_of(&mut self, kind: Kind, call: u64) -> &mut Record {
        self.history.records.iter_mut().find(|record| record.kind == kind && record.call == call).unwrap()
    }

    fn forget_record(&mut self, kind: Kind, call: u64) {
        self.history.records.retain(|record| (record.kind, record.call) != (kind, call));
    }

    fn forget_told(&mut self, is: impl Fn(&Fact) -> bool) {
        self.history.told.retain(|told| !is(&told.fact));
        for (seq, told) in (1..).zip(&mut self.history.told) {
            told.seq = seq;
        }
    }
}

#[test]
fn rule_1_one_outcome_for_each_call() {
    rejects(1, "no outcome: call 4", |scribe| {
        scribe.history.entries.retain(|entry| !matches!(entry, Entry::Outcome(outcome) if outcome.id == 4));
    });
    rejects(1, "a second outcome of call 4", |scribe| scribe.outcome(4, How::Ok, &[1, 1]));
    rejects(1, "call 99, which nobody made", |scribe| scribe.outcome(99, How::Ok, &[]));
    rejects(1, "call 4 is made twice", |scribe| scribe.invoke(4, 1, What::Append));
    rejects(1, "no outcome: call 99", |scribe| scribe.invoke(99, 1, What::Reset));
}

#[test]
fn rule_2_one_begin_for_each_call() {
    rejects(2, "call 4 begins in a/0#1", |scribe| scribe.record(Kind::Begin, 4, A1, 0));
    rejects(2, "call 99, which nobody made", |scribe| scribe.record(Kind::Begin, 99, A1, 0));
    rejects(2, "call 4 ends twice", |scribe| scribe.record(Kind::End, 4, A0, 1));
    rejects(2, "where it did not begin", |scribe| scribe.record(Kind::End, 14, A1, 1));
    rejects(2, "where it did not begin", |scribe| scribe.record_of(Kind::End, 4).worker = A1);
}

/// An idempotent call that begins in a worker, which dies, and then in these.
fn begins_again(in_workers: &[Worker]) -> Scribe {
    let mut scribe = clean();
    scribe.invoke(30, 1, What::Append);
    *scribe.invoke_of(30) = Invoke { affinity: Affinity::Hint, is_idempotent: true, ..scribe.invoke_of(30).clone() };
    scribe.record(Kind::Begin, 30, A0_NEXT, 0);
    scribe.exits(A0_NEXT);
    for worker in in_workers {
        scribe.record(Kind::Begin, 30, *worker, 0);
    }
    scribe
}

#[test]
fn rule_2_an_idempotent_call_begins_once_more_elsewhere() {
    let mut scribe = begins_again(&[A1]);
    scribe.record(Kind::End, 30, A1, 2);
    scribe.outcome(30, How::Ok, &[2, 1]);
    assert_eq!(check(&scribe.history), Ok(()));
    let rejected = |scribe: &Scribe| check(&scribe.history).unwrap_err()[0].starts_with("rule 2: call 30 begins in");
    let crashes = |mut scribe: Scribe| {
        scribe.outcome(30, How::Failed { code: "worker_crashed", ran: Ran::Maybe, worker: Some(A0_NEXT) }, &[]);
        scribe
    };
    assert_eq!(check(&crashes(begins_again(&[A1])).history), Ok(()));
    assert!(rejected(&crashes(begins_again(&[A0_NEXT]))));
    assert!(rejected(&crashes(begins_again(&[A1, A0]))));
    // The second run dies before it writes anything.
    let dies_at_once = |mut scribe: Scribe| {
        scribe.exits(A1);
        scribe.outcome(30, How::Failed { code: "worker_crashed", ran: Ran::Maybe, worker: Some(A1) }, &[]);
        check(&scribe.history)
    };
    assert_eq!(dies_at_once(begins_again(&[])), Ok(()));
    let mut scribe = begins_again(&[]);
    scribe.invoke_of(30).is_idempotent = false;
    assert!(dies_at_once(scribe).unwrap_err()[0].contains("not begun in a/1#1, which died"));
    let mut scribe = begins_again(&[A1]);
    scribe.record(Kind::Start, 0, A0_NEXT, 0);
    assert!(rejected(&crashes(scribe)), "the first still does something");
    let mut scribe = crashes(begins_again(&[A1]));
    scribe.invoke_of(30).is_idempotent = false;
    assert!(rejected(&scribe));
}

#[test]
fn rule_3_outcomes_are_true() {
    rejects(3, "a value of what did not end", |scribe| scribe.forget_record(Kind::End, 4));
    rejects(3, "not the value of Python, 1", |scribe| scribe.outcome_of(4).got[0] = 2);
    rejects(3, "not the value of Python", |scribe| scribe.outcome_of(4).got[1] = 0);
    rejects(3, "a value before its end", |scribe| scribe.outcome_of(4).at = 1);
    rejects(3, "begun before it was made", |scribe| scribe.invoke_of(4).at = 1_000);
    rejects(3, "it never began, it says", |scribe| scribe.record(Kind::Begin, 7, A1, 0));
    rejects(3, "it has ended, it says", |scribe| scribe.forget_record(Kind::End, 15));
    rejects(3, "no such outcome", |scribe| {
        scribe.outcome_of(7).how = How::Failed { code: "queue_timeout", ran: Ran::Maybe, worker: None };
    });
    rejects(3, "no such outcome", |scribe| {
        scribe.outcome_of(4).how = How::Failed { code: "python", ran: Ran::Yes, worker: None };
    });
    rejects(3, "a/1#1 did not exit", |scribe| {
        scribe.outcome_of(10).how = How::Failed { code: "worker_crashed", ran: Ran::Maybe, worker: Some(A1) };
    });
    rejects(3, "not begun in a/0#1, which died", |scribe| {
        scribe.outcome_of(10).how = How::Failed { code: "worker_crashed", ran: Ran::Maybe, worker: Some(A0) };
    });
    rejects(3, "two calls ran in a/0#1 when it died", |scribe| {
        scribe.outcome_of(7).how = How::Failed { code: "worker_crashed", ran: Ran::Maybe, worker: Some(A0) };
    });
    rejects(3, "went on to begin Some(20)", |scribe| {
        scribe.history.records.retain(|record| record.call != 6);
        let crashed = scribe.outcome_of(6).how;
        scribe.outcome_of(6).how = How::Dropped;
        scribe.outcome_of(4).how = crashed;
    });
    rejects(3, "its opening did not end", |scribe| scribe.forget_record(Kind::End, 20));
}

#[test]
fn rule_4_strict_calls_are_in_order_and_at_home() {
    rejects(4, "begun before the earlier one", |scribe| {
        (scribe.invoke_of(1).seq, scribe.invoke_of(4).seq) = (4, 1);
    });
    rejects(4, "not in a home of its session", |scribe| {
        scribe.call(30, 1, What::Append, A0_NEXT, 0, &[0, 1]);
    });
    rejects(4, "not in a home of its session", |scribe| {
        scribe.call(30, 1, What::Append, A0_NEXT, 0, &[0, 1]);
        scribe.invoke_of(30).affinity = Affinity::StrictFailFast;
    });
    rejects(4, "not in a home of its session", |scribe| {
        // Back where its state was, without a word.
        scribe.record(Kind::Start, 0, A0, 0);
        scribe.call(30, 1, What::Append, A0, 2, &[2, 1]);
    });
    rejects(4, "a home changes for no reason", |scribe| {
        scribe.homed(1, A0_NEXT);
    });
    rejects(4, "nobody asked for it", |scribe| {
        scribe.history.entries.retain(|entry| match entry {
            Entry::Invoke(invoke) => invoke.id != 8,
            Entry::Outcome(outcome) => outcome.id != 8,
        });
    });
    rejects(4, "nobody asked for it", |scribe| {
        // It was over before the home was lost.
        (scribe.invoke_of(8).at, scribe.outcome_of(8).at) = (1, 2);
    });
}

#[test]
fn rule_4_what_has_an_object_passes_what_waits_for_a_home() {
    // An object in a worker that is no home of its session, until the call before it has made it that.
    let passes = |was_none: bool, what: What| {
        let mut scribe = clean();
        scribe.call(30, 3, What::Make { token: 1 }, A1, 1, &[]);
        scribe.invoke_of(30).affinity = Affinity::Hint;
        if !was_none {
            scribe.homed(3, A1);
        }
        scribe.invoke(31, 3, What::Append);
        scribe.call(32, 3, what, A1, 1, &[1]);
        if was_none {
            scribe.homed(3, A1);
        }
        scribe.record(Kind::Begin, 31, A1, 0);
        scribe.record(Kind::End, 31, A1, 0);
        scribe.outcome(31, How::Ok, &[0, 1]);
        check(&scribe.history)
    };
    assert_eq!(passes(true, What::Use { made: 30 }), Ok(()));
    assert!(passes(false, What::Use { made: 30 }).unwrap_err()[0].contains("begun before the earlier one"));
    assert!(passes(true, What::Make { token: 1 }).unwrap_err()[0].contains("begun before the earlier one"));
}

#[test]
fn rule_4_a_home_may_change_for_each_of_its_reasons() {
    let moved = |reason: &dyn Fn(&mut Scribe)| {
        let mut scribe = clean();
        reason(&mut scribe);
        scribe.homed(1, A0_NEXT);
        scribe.call(30, 1, What::Append, A0_NEXT, 0, &[0, 1]);
        check(&scribe.history)
    };
    moved(&|_| {}).unwrap_err();
    for (worker, is_home) in [(A1, true), (A0_NEXT, false)] {
        let retires = Fact::WorkerRetiring { worker: id(worker), reason: String::new() };
        assert_eq!(moved(&|scribe| scribe.tell(retires.clone())).is_ok(), is_home);
        let is_tainted = Fact::WorkerTainted { worker: id(worker), reason: String::new(), for_ms: 1 };
        assert_eq!(moved(&|scribe| scribe.tell(is_tainted.clone())).is_ok(), is_home);
    }
    for (session, is_its_own) in [(1, true), (2, false)] {
        let ends = |scribe: &mut Scribe| {
            scribe.invoke(40, session, What::Release);
            scribe.outcome(40, How::Ok, &[]);
        };
        assert_eq!(moved(&ends).is_ok(), is_its_own);
    }
}

#[test]
fn rule_5_what_was_over_began_first() {
    rejects(5, "over before the other was made", |scribe| {
        let (over, began) = (scribe.outcome_of(9).at, scribe.record_of(Kind::Begin, 11).at);
        // Of two calls of two sessions, begun in the other order than they were made.
        scribe.invoke(30, 3, What::Fail);
        scribe.record(Kind::Begin, 30, A1, 0);
        scribe.record(Kind::End, 30, A1, 0);
        scribe.fails(30, "python", Ran::Yes);
        assert!(over < began);
        scribe.outcome_of(30).at = over;
    });
}

#[test]
fn rule_6_lists_are_what_began() {
    rejects(6, "not its place in a/0#1, 2", |scribe| scribe.record_of(Kind::End, 4).value = 2);
    rejects(6, "not its place in a/0#1, 0", |scribe| scribe.record_of(Kind::End, 4).value = 0);
    rejects(6, "not the list of a/0#1", |scribe| scribe.outcome_of(5).got = vec![1]);
    rejects(6, "not the list of a/0#1", |scribe| scribe.outcome_of(5).got = vec![4, 1]);
    rejects(6, "not the list of a/1#1", |scribe| scribe.outcome_of(12).got = vec![9, 10, 11]);
    rejects(6, "not its place in a/1#1, 3", |scribe| scribe.record_of(Kind::End, 11).value = 3);
}

#[test]
fn rule_6_what_was_interrupted_may_have_been_done() {
    let mut scribe = clean();
    scribe.record_of(Kind::End, 11).value = 2;
    scribe.outcome_of(11).got[0] = 2;
    scribe.record_of(Kind::End, 12).value = 3;
    scribe.outcome_of(12).got = vec![9, 10, 11];
    assert_eq!(check(&scribe.history), Ok(()));
}

#[test]
fn rule_7_objects_keep_their_tokens() {
    rejects(7, "the token of another object", |scribe| scribe.outcome_of(3).got = vec![TOKEN + 1]);
    rejects(7, "the token of another object", |scribe| scribe.record_of(Kind::End, 3).value = TOKEN + 1);
    rejects(7, "away from its object", |scribe| {
        scribe.record_of(Kind::Begin, 3).worker = A1;
        scribe.record_of(Kind::End, 3).worker = A1;
    });
    rejects(7, "an object that nobody made", |scribe| scribe.invoke_of(3).what = What::Use { made: 99 });
    rejects(7, "made by what makes none", |scribe| scribe.invoke_of(3).what = What::Use { made: 1 });
}

#[test]
fn rule_8_streams_are_prefixes() {
    rejects(8, "not its first items", |scribe| scribe.outcome_of(13).got.swap(0, 1));
    rejects(8, "not its first items", |scribe| scribe.outcome_of(20).got = vec![item_of(20, 1)]);
    rejects(8, "not its first items", |scribe| scribe.outcome_of(20).got = vec![item_of(13, 0)]);
    rejects(8, "an end before its last item", |scribe| scribe.outcome_of(13).got.truncate(1));
    rejects(8, "with a credit of 4", |scribe| {
        scribe.record(Kind::Closed, 20, A0, 7);
    });
    rejects(8, "with a credit of 4", |scribe| scribe.record_of(Kind::Closed, 13).value = 1);
}

#[test]
fn rule_9_generations_follow_each_other() {
    let exit_of_a0 = |fact: &Fact| matches!(fact, Fact::WorkerExited { .. });
    rejects(9, "a/0#2 is started at", |scribe| scribe.forget_told(exit_of_a0));
    rejects(9, "a/0#1 exits twice", |scribe| scribe.exits(A0));
    rejects(9, "no event 3", |scribe| drop(scribe.history.told.remove(2)));
    rejects(9, "a/0#1 writes at", |scribe| {
        scribe.record_of(Kind::Begin, 6).at = 10_000;
    });
    rejects(9, "two processes are a/1#1", |scribe| scribe.record_of(Kind::Begin, 11).pid = 7);
    rejects(9, "two processes are a/1#1", |scribe| scribe.record(Kind::Start, 0, A1, 0));
    rejects(9, "a/0#1 writes at", |scribe| {
        scribe.history.records.iter_mut().find(|record| record.worker == A0_NEXT).unwrap().at = 5;
    });
    rejects(9, "a/0#2 has no start", |scribe| {
        scribe.history.records.iter_mut().find(|record| record.worker == A0_NEXT).unwrap().kind = Kind::Closed;
    });
}

/// Dies and starts anew, as often as said.
fn dies(scribe: &mut Scribe, times: u64) {
    for generation in 2..2 + times {
        let worker = Worker { generation, ..A0 };
        scribe.exits(worker);
        scribe.starts(Worker { generation: generation + 1, ..A0 });
    }
}

#[test]
fn rule_9_restarts_stay_within_the_budget() {
    rejects(9, "a/0#4 is restart 3", |scribe| dies(scribe, 2));
    let mut scribe = clean();
    dies(&mut scribe, 1);
    scribe.at += 1_000;
    scribe.exits(Worker { generation: 3, ..A0 });
    scribe.starts(Worker { generation: 4, ..A0 });
    assert_eq!(check(&scribe.history), Ok(()));
}

#[test]
fn rule_9_a_degraded_pool_tries_once_in_half_a_window() {
    let degraded = |first: Ns, second: Ns| {
        let mut scribe = clean();
        dies(&mut scribe, 1);
        scribe.exits(Worker { generation: 3, ..A0 });
        scribe.tell(Fact::PoolDegraded { pool: "a".into(), cause: String::new() });
        scribe.at += first;
        scribe.starts(Worker { generation: 4, ..A0 });
        scribe.exits(Worker { generation: 4, ..A0 });
        scribe.at += second;
        scribe.starts(Worker { generation: 5, ..A0 });
        check(&scribe.history)
    };
    degraded(500, 500).unwrap();
    assert!(degraded(100, 500).unwrap_err()[0].contains("a/0#4 is restart 3"));
    // At 600 and 700, with nothing of the budget back.
    assert!(degraded(600, 100).unwrap_err()[0].contains("a/0#5 is restart 3"));
}
