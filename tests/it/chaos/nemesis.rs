//! What befalls the workers, by the seed: how often a minute stands beside each blow, about.

use super::history::{Ns, Worker, now};
use super::load::{POOLS, Shared, release, reset};
use crate::random::Random;
use crate::support::{MARK, is_marked, parent_of, within};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use snakebridge::{Session, SnakeBridge, WorkerInfo};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Blow {
    Kill,
    Segv,
    /// Stopped, and after a while continued.
    Stop,
    Zygote,
    Taint,
    ClearTaint,
    RestartWorker,
    Reset,
    Release,
    Resize,
}

pub(crate) const ALL: &[(Blow, u64)] = &[
    (Blow::Kill, 900),
    (Blow::Segv, 100),
    (Blow::Stop, 60),
    (Blow::Zygote, 6),
    (Blow::Taint, 60),
    (Blow::ClearTaint, 20),
    (Blow::RestartWorker, 30),
    (Blow::Reset, 60),
    (Blow::Release, 60),
    (Blow::Resize, 12),
];

/// What is left of them where deaths are to be counted.
pub(crate) const DEATHS: &[(Blow, u64)] = &[(Blow::Kill, 1)];

/// The size that a pool has, unless it is just being resized.
pub(crate) const SIZE: usize = 4;
const LONGEST_STOP: u64 = 3_000_000;

pub(crate) struct Nemesis {
    py: SnakeBridge,
    shared: Arc<Shared>,
    sessions: Vec<Session>,
    random: Random,
    mark: String,
    stopped: JoinSet<()>,
    /// How many processes it has killed.
    pub(crate) kills: u64,
    /// Which of them were workers, and when.
    pub(crate) killed: BTreeMap<Worker, Ns>,
}

impl Nemesis {
    pub(crate) fn new(py: &SnakeBridge, shared: &Arc<Shared>, sessions: u32, random: Random) -> Self {
        let sessions = (0..sessions).map(|number| py.session(format!("s{number}"))).collect();
        let mark = std::env::var(MARK).expect("a run has a mark");
        let (py, shared, stopped) = (py.clone(), Arc::clone(shared), JoinSet::new());
        Self { py, shared, sessions, random, mark, stopped, kills: 0, killed: BTreeMap::new() }
    }

    /// Waits a moment, as long as the pause on average, then strikes.
    pub(crate) async fn strike(&mut self, blows: &[(Blow, u64)], pause: Duration) {
        tokio::time::sleep(pause * self.random.below(2_000) as u32 / 1_000).await;
        let mut at = self.random.below(blows.iter().map(|(_, often)| often).sum());
        for (blow, often) in blows {
            if at < *often {
                return within("a blow", self.deal(*blow)).await;
            }
            at -= often;
        }
    }

    /// Lets all that it stopped go on, and makes the pools what they were.
    pub(crate) async fn rest(&mut self) {
        while self.stopped.join_next().await.is_some() {}
        for pool in POOLS {
            self.py.resize(pool, SIZE).await.expect("a pool can be resized");
        }
        for worker in self.py.workers().await {
            let _gone = self.py.clear_taint(&worker.id).await;
        }
    }

    async fn deal(&mut self, blow: Blow) {
        match blow {
            Blow::Kill
            | Blow::Segv
            | Blow::Zygote
            | Blow::Stop
            | Blow::Taint
            | Blow::ClearTaint
            | Blow::RestartWorker => {
                let workers = self.py.workers().await;
                if !workers.is_empty() {
                    let worker = &workers[self.random.below(workers.len() as u64) as usize];
                    self.deal_to(blow, worker).await;
                }
            }
            Blow::Reset | Blow::Release => {
                let number = self.random.below(self.sessions.len() as u64) as u32;
                let session = &self.sessions[number as usize];
                match blow {
                    Blow::Reset => reset(&self.shared, number, session).await,
                    _ => release(&self.shared, number, session).await,
                }
            }
            Blow::Resize => {
                let pool = POOLS[self.random.below(2) as usize];
                let size = SIZE - 1 + self.random.below(3) as usize;
                self.py.resize(pool, size).await.expect("a pool can be resized");
            }
        }
    }

    async fn deal_to(&mut self, blow: Blow, worker: &WorkerInfo) {
        match blow {
            Blow::Kill => self.kill(worker, Signal::KILL),
            Blow::Segv => self.kill(worker, Signal::SEGV),
            Blow::Zygote => {
                // A worker whose zygote is gone has another parent.
                let zygote = parent_of(worker.pid).filter(|zygote| parent_of(*zygote) == Some(std::process::id()));
                self.kills += u64::from(zygote.is_some_and(|zygote| self.signal(zygote, Signal::KILL)));
            }
            Blow::Stop => self.stop(worker.pid),
            Blow::Taint => {
                let duration = Duration::from_micros(self.random.log_uniform(2_000_000));
                let _gone = self.py.taint(&worker.id, duration, "chaos").await;
            }
            Blow::ClearTaint => drop(self.py.clear_taint(&worker.id).await),
            Blow::RestartWorker => drop(self.py.restart_worker(&worker.id).await),
            Blow::Reset | Blow::Release | Blow::Resize => {}
        }
    }

    fn kill(&mut self, worker: &WorkerInfo, signal: Signal) {
        let at = now();
        if self.signal(worker.pid, signal) {
            self.kills += 1;
            self.killed.entry((&worker.id).into()).or_insert(at);
        }
    }

    fn signal(&self, pid: u32, signal: Signal) -> bool {
        marked_process(pid, &self.mark).is_some_and(|process| pidfd_send_signal(process, signal).is_ok())
    }

    fn stop(&mut self, pid: u32) {
        let duration = Duration::from_micros(1_000 + self.random.log_uniform(LONGEST_STOP));
        let Some(process) = marked_process(pid, &self.mark) else { return };
        if pidfd_send_signal(&process, Signal::STOP).is_ok() {
            self.stopped.spawn(async move {
                tokio::time::sleep(duration).await;
                let _gone = pidfd_send_signal(&process, Signal::CONT);
            });
        }
    }
}

/// A process of this run, and no other that has its number by now.
fn marked_process(pid: u32, mark: &str) -> Option<std::os::fd::OwnedFd> {
    let process = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
    is_marked(pid, mark).then_some(process)
}
