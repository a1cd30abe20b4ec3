//! Test only: what must hold between any two steps of a pool.

use super::call::{Stage, TakeBack, Target};
use super::session::{self, Namespace, Sid};
use super::timer::Timer;
use super::{Pool, Purpose, Worker};
use crate::id::{CallId, SessionKey, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// A line as the simulation's checker of turns sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LineView {
    pub(crate) session: SessionKey,
    /// None: any.
    pub(crate) worker: Option<WorkerId>,
    pub(crate) turn: u64,
}

impl Pool {
    /// Recounts all that is counted and looks for work that nobody does.
    pub(crate) fn check(&self) {
        self.check_calls();
        self.check_sessions();
        self.check_workers();
        self.check_timers();
    }

    /// The lines whose turn may come.
    pub(crate) fn listed_lines(&self) -> Vec<LineView> {
        let lines = self.sessions.values().flat_map(|session| session.lines.iter().map(move |line| (session, line)));
        lines
            .filter(|(_, line)| line.is_listed)
            .map(|(session, line)| LineView {
                session: session.key.clone(),
                worker: match line.target {
                    Target::Any => None,
                    Target::Worker(place) => Some(self.worker_id(place)),
                },
                turn: line.turn,
            })
            .collect()
    }

    /// Whether nothing is left of any call or session.
    pub(crate) fn is_blank(&self) -> bool {
        self.calls.is_empty() && self.sessions.is_empty() && self.returning.is_empty() && self.queue.calls == 0
    }

    fn check_calls(&self) {
        let (mut places, mut bytes) = (0, 0);
        for (id, call) in &self.calls {
            match &call.stage {
                Stage::Routing => panic!("{id} is nowhere"),
                Stage::Waiting(target) => {
                    let line = self.sessions[&call.sid].line(*target).expect("a waiting call has its line");
                    assert!(line.calls.contains(id), "{id} waits in no line");
                    assert!(call.timer.is_some() || call.is_continuing(), "{id} waits for ever");
                    assert_ne!(call.purpose, Purpose::Opening, "{id} opens a stream and never waits");
                }
                Stage::Running(lease) | Stage::Ahead(lease) => {
                    let worker = self.workers.get(&lease.place).expect("a lease is of a worker that lives");
                    assert_eq!(worker.leases.iter().filter(|open| *open == id).count(), 1, "{id}");
                }
            }
            if matches!(call.stage, Stage::Waiting(_) | Stage::Ahead(_)) && !call.is_continuing() {
                places += 1;
                bytes += call.bytes;
            }
        }
        assert_eq!((self.queue.calls, self.queue.bytes), (places, bytes), "places in the queue");
        assert!(places <= self.rules.max_queue_size && bytes <= self.rules.max_queue_bytes, "the queue is too long");
    }

    fn check_sessions(&self) {
        let mut by_waiting = BTreeSet::new();
        for (sid, session) in &self.sessions {
            let calls: Vec<_> = self.calls.values().filter(|call| call.sid == *sid).collect();
            assert_eq!(session.calls, calls.len(), "calls of {session:?}");
            let returning = self.returning.values().flatten().filter(|(_, of)| of == sid).count();
            assert_eq!(session.returning, returning, "returning of {session:?}");
            let in_lines = session.lines.iter().flat_map(|line| &line.calls);
            let with_a_place = in_lines.filter(|id| !self.calls[id].is_continuing()).count();
            assert_eq!(session.waiting, with_a_place, "waiting of {session:?}");
            if with_a_place > 0 {
                by_waiting.insert((with_a_place, *sid));
            }
            let asked = |call: &&&super::Call| {
                call.is_in_line() && call.lease().is_some_and(|lease| matches!(lease.take_back, TakeBack::Asked(_)))
            };
            let settling = calls.iter().filter(asked).count();
            assert_eq!(session.settling.map_or(0, |settling| settling.calls), settling, "settling of {session:?}");
            for line in &session.lines {
                assert!(!line.calls.is_empty() && line.calls.iter().is_sorted(), "{line:?}");
                let loose = line.calls.iter().filter(|id| !self.calls[*id].is_in_line()).count();
                assert_eq!(line.loose, loose, "those that keep no order in {line:?}");
                assert_eq!(line.is_listed, self.next_in_line(session, line).is_some(), "listing of {line:?}");
            }
            if let Some(home) = session.home {
                assert!(self.workers[&home].homes.contains(sid), "the home of {session:?}");
            }
            for (place, pins) in &session.pins {
                assert!(*pins > 0 && self.workers[place].pinned.contains(sid), "pins of {session:?}");
            }
            if let Namespace::At { place, .. } = session.namespace {
                assert!(session.stage != session::Stage::Live || session.pins_at(place) > 0, "{session:?}");
                let elsewhere = |line: &&session::Line| line.target != Target::Worker(place);
                let mut waiting = session.lines.iter().filter(elsewhere).flat_map(|line| line.calls.iter());
                assert!(!waiting.any(|id| self.calls[id].uses_namespace), "waits without its namespace: {session:?}");
            }
        }
        assert_eq!(self.queue.by_waiting, by_waiting, "sessions by how many wait");
        let waiting = self.calls.iter().filter(|(_, call)| matches!(call.stage, Stage::Waiting(_)));
        let in_trees: BTreeSet<_> = waiting.filter_map(|(id, call)| Some((call.tree?, *id))).collect();
        assert_eq!(self.queue.in_trees, in_trees, "waiting calls in trees");
        for (tree, id) in in_trees {
            let (call, session) = (&self.calls[&id], &self.sessions[&self.calls[&id].sid]);
            let could = matches!(self.choose(call, session), super::route::Choice::Nest(..));
            assert!(!could, "{id} waits, and could run on top of a call of the tree of {tree}");
        }
        assert_eq!(self.queue.any_turns, self.turns(Target::Any), "turns for any worker");
        for id in self.waiting_for_any() {
            assert!(self.none_will_come(id).is_none(), "{id} waits for any worker, and none will come soon");
        }
    }

    fn check_workers(&self) {
        for (place, worker) in &self.workers {
            assert_eq!(worker.turns, self.turns(Target::Worker(*place)), "turns at {place:?}");
            let waiting = self
                .calls
                .values()
                .filter(|call| matches!(call.stage, Stage::Waiting(Target::Worker(at)) if at == *place));
            assert_eq!(worker.waiting, waiting.count(), "waiting for {place:?}");
            for sid in &worker.homes {
                assert_eq!(self.sessions[sid].home, Some(*place), "homes of {place:?}");
            }
            for sid in &worker.pinned {
                assert!(self.sessions[sid].pins_at(*place) > 0, "pinned at {place:?}");
            }
            self.check_leases(worker);
            if worker.keeps_state() && worker.has_room(self.rules.concurrency) {
                assert!(worker.turns.is_empty(), "{place:?} has room for calls that wait for it");
                assert!(!worker.is_open_to_all() || self.queue.any_turns.is_empty(), "{place:?} has room");
            }
        }
    }

    /// One whose call or worker is gone would wake the pool for nothing, and stay for as long as its time is.
    fn check_timers(&self) {
        for (at, timer) in self.timers.iter() {
            match timer {
                Timer::Wait(id) => {
                    let set = self.calls.get(&id).and_then(|call| call.timer);
                    assert_eq!(set, Some(at), "the timer of {id} is left");
                }
                Timer::Untaint(place) => {
                    let until =
                        self.workers.get(&place).and_then(|worker| worker.taint.as_ref()).map(|taint| taint.until);
                    assert_eq!(until, Some(at), "the timer of an earlier taint of {place:?} is left");
                }
                Timer::StartTimeout(place) | Timer::Age(place) | Timer::RetireGrace(place) | Timer::Linger(place) => {
                    assert!(self.workers.contains_key(&place), "{timer:?} is left");
                }
                Timer::BackOff(_) | Timer::DegradedTry | Timer::ShutdownGrace => {}
            }
        }
    }

    fn check_leases(&self, worker: &Worker) {
        let mut in_line: BTreeMap<Sid, usize> = BTreeMap::new();
        let nests = |id: &&CallId| self.calls[*id].lease().is_some_and(|lease| lease.on.is_some());
        assert_eq!(worker.nested, worker.leases.iter().filter(nests).count(), "nested at {}", worker.id);
        for (at, id) in worker.leases.iter().filter(|id| !nests(id)).enumerate() {
            let call = &self.calls[id];
            let runs = matches!(call.stage, Stage::Running(_));
            assert!(runs || at >= self.rules.concurrency, "{id} is sent ahead of nothing");
            // It passed every line when it was granted.
            let is_late = call.lease().is_some_and(|lease| lease.is_late);
            if call.is_in_line() && !is_late {
                *in_line.entry(call.sid).or_default() += 1;
            }
        }
        if self.rules.concurrency > 1 {
            assert!(in_line.values().all(|calls| *calls <= 1), "strict calls of one session overlap at {}", worker.id);
        }
        let ahead = (worker.leases.len() - worker.nested).saturating_sub(self.rules.concurrency);
        assert!(ahead <= self.rules.send_ahead, "too many calls were sent ahead to {}", worker.id);
    }

    fn turns(&self, target: Target) -> BTreeSet<(u64, Sid)> {
        let listed = self.sessions.iter().filter_map(|(sid, session)| {
            let line = session.line(target).filter(|line| line.is_listed)?;
            Some((line.turn, *sid))
        });
        listed.collect()
    }

    /// The workers that take nothing new for a time.
    pub(crate) fn tainted(&self) -> Vec<WorkerId> {
        self.workers.values().filter(|worker| worker.taint.is_some()).map(|worker| worker.id.clone()).collect()
    }
}

/// 64 strict sessions with one call outstanding each on two workers; run it in release, by hand.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "it measures time")]
#[expect(clippy::print_stderr, reason = "it tells what it measured")]
fn the_pools_share_of_a_call() {
    use super::{Action, PoolRules, Ticket};
    use crate::config::{Affinity, PoolConfig};
    use std::time::{Duration, Instant};

    const CALLS: u64 = 1_000_000;
    let rules = PoolRules::from(&PoolConfig::new("p").size(2).affinity(Affinity::StrictQueue));
    let mut pool = Pool::new(rules);
    let mut now = Instant::now();
    pool.start(now);
    for slot in 0..2 {
        pool.handle_ready(&WorkerId::new("p".into(), slot, 1), now);
    }
    let ticket = |call: u64, session: &SessionKey| Ticket {
        call: CallId(call),
        session: session.clone(),
        purpose: Purpose::Call,
        rebuilds: false,
        tree: None,
        has_ended: false,
        affinity: None,
        pinned_to: None,
        uses_namespace: false,
        deadline: None,
        timeout: None,
        queue_timeout: None,
        bytes: 64,
        on_worker_lost: None,
    };
    let mut running = [std::collections::VecDeque::new(), std::collections::VecDeque::new()];
    for session in 0..64 {
        pool.handle_ticket(ticket(session, &SessionKey::new("s".into(), session)), now);
    }
    let began = Instant::now();
    for call in 64..64 + CALLS {
        while let Some(action) = pool.poll_action() {
            if let Action::Grant { call, session, worker, .. } = action {
                running[worker.slot() as usize].push_back((call, session));
            }
        }
        now += Duration::from_micros(16);
        let worker = (call % 2) as usize;
        let Some((over, session)) = running[worker].pop_front() else { continue };
        pool.handle_lease_over(over, 0, now);
        pool.handle_ticket(ticket(call, &session), now);
    }
    eprintln!("{:?} a call", began.elapsed() / CALLS as u32);
}
