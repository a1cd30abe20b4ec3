//! Keeps a picture of the pool from its events alone, which must be how it is.

use crate::event::Fact;
use crate::id::{SessionId, SessionKey, WorkerId};
use crate::rules::pool::{Pool, Standing};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
struct Worker {
    is_ready: bool,
    is_retiring: bool,
    is_tainted: bool,
}

#[derive(Default)]
pub(super) struct Replay {
    workers: BTreeMap<WorkerId, Worker>,
    homes: BTreeMap<SessionId, WorkerId>,
    /// Strict calls are refused for these also when a hint call has found another home.
    lost: BTreeMap<SessionId, WorkerId>,
    is_degraded: bool,
}

impl Replay {
    pub(super) fn take(&mut self, fact: &Fact) {
        match fact {
            Fact::WorkerStarting { worker } => {
                let earlier = self.workers.insert(worker.clone(), Worker::default());
                assert!(earlier.is_none(), "{worker} starts twice");
            }
            Fact::WorkerReady { worker } => assert!(!std::mem::replace(&mut self.worker(worker).is_ready, true)),
            Fact::WorkerRetiring { worker, .. } => {
                assert!(!std::mem::replace(&mut self.worker(worker).is_retiring, true));
            }
            // A taint may be prolonged.
            Fact::WorkerTainted { worker, .. } => self.worker(worker).is_tainted = true,
            Fact::WorkerUntainted { worker } => {
                assert!(std::mem::replace(&mut self.worker(worker).is_tainted, false), "{worker} has no taint");
            }
            Fact::WorkerExited { worker, .. } => drop(self.workers.remove(worker).expect("it exits once")),
            Fact::WorkerStartFailed { worker, .. } => {
                let failed = self.workers.remove(worker).expect("it exits once");
                assert!(!failed.is_ready, "{worker} had started");
            }
            Fact::SessionHomed { session, worker } => {
                assert!(self.workers.contains_key(worker), "{session} has a home in {worker}, which is gone");
                self.homes.insert(session.clone(), worker.clone());
            }
            Fact::SessionHomeLost { session, worker } => {
                assert_eq!(self.homes.remove(session).as_ref(), Some(worker), "{session} has another home");
                self.lost.insert(session.clone(), worker.clone());
            }
            Fact::SessionHomeForgotten { session, worker } => {
                let has_it = |homes: &BTreeMap<_, _>| homes.get(session) == Some(worker);
                assert!(has_it(&self.homes) || has_it(&self.lost), "{session} has another home than {worker}");
                let homes = if has_it(&self.homes) { &mut self.homes } else { &mut self.lost };
                homes.remove(session);
            }
            Fact::PoolDegraded { .. } => assert!(!std::mem::replace(&mut self.is_degraded, true)),
            Fact::PoolRecovered { .. } => assert!(std::mem::replace(&mut self.is_degraded, false)),
            other => panic!("{other:?} is not of the pool"),
        }
    }

    fn worker(&mut self, worker: &WorkerId) -> &mut Worker {
        self.workers.get_mut(worker).expect("events of a worker lie between its start and its exit")
    }

    /// Of what is being shut down homes are not told any more.
    pub(super) fn assert_shows<'a>(&self, pool: &Pool, sessions: impl Iterator<Item = &'a SessionKey>) {
        assert_eq!(self.is_degraded, pool.degraded().is_some());
        let mut seen = 0;
        for view in pool.workers() {
            seen += 1;
            let told = self.workers.get(view.id).unwrap_or_else(|| panic!("nobody was told of {}", view.id));
            let is_so = match view.standing {
                Standing::Starting => !told.is_ready && !told.is_retiring,
                Standing::Free | Standing::Busy => told.is_ready && !told.is_retiring && !told.is_tainted,
                Standing::Tainted => told.is_ready && !told.is_retiring && told.is_tainted,
                Standing::Retiring => told.is_ready,
                Standing::Stopping => true,
            };
            assert!(is_so, "{} is {:?}, and was told as {told:?}", view.id, view.standing);
        }
        assert_eq!(seen, self.workers.len(), "some that are gone were not told so: {:?}", self.workers);
        for session in sessions {
            let told = self.homes.get(session.id()).or(self.lost.get(session.id()));
            assert_eq!(told, pool.home(session).as_ref(), "the home of {session}");
        }
    }
}
