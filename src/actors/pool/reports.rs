//! What users may ask a pool; nothing is decided by it.

use super::PoolSupervisor;
use crate::id::{SessionKey, WorkerId};
use crate::observe::Handled;
use crate::process;
use crate::rules::pool::Standing;
use crate::status::{PoolStats, RunningCall, Tie, WorkerInfo, WorkerState};
use actix::prelude::*;

/// Every worker from its fork to its seen exit.
#[derive(Message)]
#[rtype(result = "Vec<WorkerInfo>")]
pub(crate) struct Workers;

impl Handler<Workers> for PoolSupervisor {
    type Result = MessageResult<Workers>;

    fn handle(&mut self, _: Workers, _: &mut Context<Self>) -> MessageResult<Workers> {
        self.journal.note(Handled::Asked, None, None, || "workers told");
        let workers = self.rules.workers().filter_map(|view| {
            let member = self.workers.get(view.id)?;
            let pid = member.pid?;
            let running = view.running.iter().filter_map(|call| {
                Some(RunningCall { call: *call, session: self.rules.session_of(*call)?.id().clone() })
            });
            Some(WorkerInfo {
                id: view.id.clone(),
                pool: self.config.name.clone(),
                pid,
                state: state(view.standing),
                sessions: view.sessions,
                refs: view.pins,
                requests: member.requests,
                memory_bytes: process::resident_bytes(pid),
                running: running.collect(),
                tainted: member.taint.clone(),
                started_at: member.started_at,
            })
        });
        MessageResult(workers.collect())
    }
}

fn state(standing: Standing) -> WorkerState {
    match standing {
        Standing::Starting => WorkerState::Starting,
        Standing::Free => WorkerState::Free,
        Standing::Busy => WorkerState::Busy,
        Standing::Tainted => WorkerState::Tainted,
        Standing::Retiring => WorkerState::Retiring,
        Standing::Stopping => WorkerState::Gone,
    }
}

/// The home of one session, also when it is gone.
#[derive(Message)]
#[rtype(result = "Option<WorkerId>")]
pub(crate) struct HomeOf {
    pub(crate) session: SessionKey,
}

impl Handler<HomeOf> for PoolSupervisor {
    type Result = Option<WorkerId>;

    fn handle(&mut self, HomeOf { session }: HomeOf, _: &mut Context<Self>) -> Option<WorkerId> {
        self.journal.note(Handled::Asked, None, Some(&session), || "home told");
        self.rules.home(&session)
    }
}

/// The homes of all sessions.
#[derive(Message)]
#[rtype(result = "Vec<(SessionKey, WorkerId)>")]
pub(crate) struct Homes;

impl Handler<Homes> for PoolSupervisor {
    type Result = MessageResult<Homes>;

    fn handle(&mut self, _: Homes, _: &mut Context<Self>) -> MessageResult<Homes> {
        self.journal.note(Handled::Asked, None, None, || "homes told");
        let homes = self.sessions.keys().filter_map(|session| Some((session.clone(), self.rules.home(session)?)));
        MessageResult(homes.collect())
    }
}

/// How a pool is doing, as its supervisor sees it: see
/// [`SnakeBridge::pool_addr`](crate::SnakeBridge::pool_addr).
#[derive(Message)]
#[rtype(result = "PoolReport")]
pub struct PoolStatus;

/// The answer to [`PoolStatus`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, actix::MessageResponse)]
pub struct PoolReport {
    /// Its numbers.
    pub stats: PoolStats,
    /// How its workers are tied to this process.
    pub tie: Tie,
    /// Whether its processes are in a PID namespace of their own.
    pub pid_namespace: bool,
}

impl Handler<PoolStatus> for PoolSupervisor {
    type Result = PoolReport;

    fn handle(&mut self, _: PoolStatus, _: &mut Context<Self>) -> PoolReport {
        self.journal.note(Handled::Asked, None, None, || "status told");
        let (mut ready, mut busy) = (0, 0);
        let unresponsive = self.workers.values().filter(|member| member.is_silent).count();
        let answers = |id: &WorkerId| self.workers.get(id).is_some_and(|member| !member.is_silent);
        for view in self.rules.workers().filter(|view| answers(view.id)) {
            ready += usize::from(matches!(view.standing, Standing::Free | Standing::Busy));
            busy += usize::from(view.standing == Standing::Busy);
        }
        PoolReport {
            stats: PoolStats {
                name: self.config.name.clone(),
                size: self.size,
                ready,
                busy,
                unresponsive,
                waiting: self.rules.waiting(),
                finished: self.finished,
                deaths: self.deaths,
                degraded: self.rules.degraded().map(|cause| cause.to_string()),
            },
            tie: self.tie,
            pid_namespace: self.pid_namespace,
        }
    }
}
