//! Keeps a picture of a bridge from its events alone.

use snakebridge::{Event, Fact, PoolName, SessionId, SessionInfo, WorkerId, WorkerInfo};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Worker {
    is_ready: bool,
    is_retiring: bool,
    is_tainted: bool,
}

#[derive(Default)]
pub(crate) struct Replay {
    workers: BTreeMap<WorkerId, Worker>,
    sessions: BTreeSet<SessionId>,
    homes: BTreeMap<(SessionId, PoolName), WorkerId>,
    /// What `sessions()` names where a session has no other home.
    lost: BTreeMap<(SessionId, PoolName), WorkerId>,
}

impl Replay {
    /// The picture of a bridge that has just started.
    pub(crate) fn new(workers: &[WorkerInfo]) -> Self {
        let ready = Worker { is_ready: true, ..Worker::default() };
        Self { workers: workers.iter().map(|worker| (worker.id.clone(), ready)).collect(), ..Self::default() }
    }

    pub(crate) fn take(&mut self, event: &Event) {
        match event.fact() {
            Fact::WorkerStarting { worker } => {
                self.workers.insert(worker.clone(), Worker::default());
            }
            Fact::WorkerReady { worker } => self.worker(worker).is_ready = true,
            Fact::WorkerRetiring { worker, .. } => self.worker(worker).is_retiring = true,
            Fact::WorkerTainted { worker, .. } => self.worker(worker).is_tainted = true,
            Fact::WorkerUntainted { worker } => self.worker(worker).is_tainted = false,
            Fact::WorkerExited { worker, .. } | Fact::WorkerStartFailed { worker, .. } => {
                self.workers.remove(worker).expect("only a worker that started exits");
            }
            Fact::SessionCreated { session } => assert!(self.sessions.insert(session.clone())),
            Fact::SessionHomed { session, worker } => {
                assert!(self.sessions.contains(session));
                self.homes.insert((session.clone(), worker.pool().clone()), worker.clone());
            }
            Fact::SessionHomeLost { session, worker } => {
                let at = (session.clone(), worker.pool().clone());
                assert_eq!(self.homes.remove(&at).as_ref(), Some(worker));
                self.lost.insert(at, worker.clone());
            }
            Fact::SessionHomeForgotten { session, worker } => {
                let at = (session.clone(), worker.pool().clone());
                let homes = if self.homes.get(&at) == Some(worker) { &mut self.homes } else { &mut self.lost };
                assert_eq!(homes.remove(&at).as_ref(), Some(worker));
            }
            Fact::SessionCleanup { session, .. } => {
                assert!(self.sessions.remove(session));
                self.homes.retain(|(of, _), _| of != session);
                self.lost.retain(|(of, _), _| of != session);
            }
            _ => {}
        }
    }

    fn worker(&mut self, worker: &WorkerId) -> &mut Worker {
        self.workers.get_mut(worker).expect("events of a worker lie between its start and its exit")
    }

    /// Fails unless the bridge says the same of itself, when nothing is under way.
    pub(crate) fn assert_shows(&self, workers: &[WorkerInfo], sessions: &[SessionInfo]) {
        let told = workers.iter().map(|worker| {
            (worker.id.clone(), Worker { is_ready: true, is_retiring: false, is_tainted: worker.tainted.is_some() })
        });
        assert_eq!(self.workers, told.collect());
        for worker in workers {
            let homed = self.homes.values().filter(|home| **home == worker.id).count();
            assert_eq!(homed, worker.sessions, "{}", worker.id);
        }
        assert_eq!(self.sessions, sessions.iter().map(|session| session.id.clone()).collect());
        let told = sessions.iter().flat_map(|session| {
            session.homes.iter().map(|home| ((session.id.clone(), home.pool().clone()), home.clone()))
        });
        let mut homes = self.lost.clone();
        homes.extend(self.homes.clone());
        assert_eq!(homes, told.collect());
    }
}
