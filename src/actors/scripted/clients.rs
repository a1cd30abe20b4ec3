//! The clients: they use a bridge as programs do, and are impatient.

use super::calls::{Answer, ITEMS};
use super::faults::said;
use super::witness::{Asked, Carries};
use super::world::World;
use crate::api::{Call, Session, SnakeBridge};
use crate::clock;
use crate::config::{Affinity, OnWorkerLost, SessionOptions};
use crate::error::Result;
use crate::rules::sim::reach::hit;
use crate::value::Callback;
use futures::StreamExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{timeout, timeout_at};

/// A caller is answered so soon after its deadline.
const LATE: Duration = Duration::from_millis(50);
/// Longer than any call without a deadline may take.
const PATIENCE: Duration = Duration::from_secs(50);

#[derive(Clone)]
pub(super) struct Sessions(Arc<Vec<(Session, AtomicU64)>>);

impl Sessions {
    pub(super) fn all(&self) -> impl Iterator<Item = &Session> {
        self.0.iter().map(|(session, _)| session)
    }
}

pub(super) fn sessions(world: &Arc<World>, py: &SnakeBridge) -> Sessions {
    let session = |index| {
        let mut options = SessionOptions::new();
        if world.faults.resets && world.one_in(3) {
            options = options.on_worker_lost(OnWorkerLost::Rehome);
        }
        if world.one_in(4) {
            world.witness().rehoming.insert(index);
            let world = Arc::clone(world);
            options = options.on_home(move |session| make_ready(Arc::clone(&world), session, index));
        }
        (py.session_with(format!("s{index}"), options), AtomicU64::new(0))
    };
    Sessions(Arc::new((0..world.between(1, 4) as usize).map(session).collect()))
}

async fn make_ready(world: Arc<World>, session: Session, index: usize) -> Result<()> {
    hit("a home is made ready".into());
    inner_call(&world, &session, index).await
}

/// A call that a callback makes, or an `on_home`: both may be dropped, and give it up with them.
async fn inner_call(world: &Arc<World>, session: &Session, index: usize) -> Result<()> {
    let number = world.witness().asked(Asked {
        session: (index, u64::MAX),
        affinity: Affinity::Hint,
        carries: Carries::Nothing,
        is_idempotent: false,
        is_inner: true,
        timeout: None,
    });
    world.note(|| format!("{number} asked inside of another"));
    let unheard = Unheard { world: Arc::clone(world), number: Some(number) };
    let outcome = session.call("m", "f", (number,)).extract::<Answer>().await;
    unheard.heard();
    world.record(number, &outcome);
    outcome.map(drop)
}

impl World {
    fn record(&self, number: u64, outcome: &Result<Answer>) {
        match outcome {
            Ok((answer, _)) => {
                hit("code value".into());
                self.witness().served(number, *answer == number);
            }
            Err(error) => {
                hit(format!("code {} {:?}", error.code(), error.ran()));
                self.witness().failed(number, error);
            }
        }
        self.note(|| format!("{number} ends: {}", said(outcome)));
    }
}

struct Client {
    world: Arc<World>,
    py: SnakeBridge,
    sessions: Sessions,
    index: usize,
}

pub(super) async fn client(world: Arc<World>, py: SnakeBridge, sessions: Sessions) {
    for _ in 0..world.between(2, 12) {
        world.pause(10).await;
        let index = world.below(sessions.0.len() as u64) as usize;
        let client = Client { world: Arc::clone(&world), py: py.clone(), sessions: sessions.clone(), index };
        match world.below(16) {
            0 | 1 => client.uses_a_ref().await,
            2 | 3 => client.reads_a_stream().await,
            4 | 5 => client.gives_a_callback().await,
            6 => client.runs_code().await,
            7 if world.faults.resets && !world.is_calm() => {
                let reset = client.session().reset().await;
                world.note(|| format!("reset s{index}: {}", said(&reset)));
            }
            8 if world.faults.releases && !world.is_calm() => {
                sessions.0[index].1.fetch_add(1, Ordering::Relaxed);
                let released = client.session().release().await;
                world.note(|| format!("released s{index}: {}", said(&released)));
            }
            9 => {
                let (stats, _) = futures::join!(py.stats(), py.workers());
                world.note(|| format!("{stats:?}"));
            }
            _ => client.calls().await,
        }
    }
}

impl Client {
    fn session(&self) -> &Session {
        &self.sessions.0[self.index].0
    }

    /// Asks for a call, as impatient as the seed says: its number, and what came of it. `None`: it was given up.
    async fn ask<R: 'static, F: Future<Output = Result<R>>>(
        &self,
        carries: Carries,
        build: impl FnOnce(u64) -> Call,
        finish: impl FnOnce(Call) -> F,
        answer: impl FnOnce(&R) -> Option<u64>,
    ) -> Option<(u64, Result<R>)> {
        let world = &self.world;
        let affinity = world.affinities[world.below(world.affinities.len() as u64) as usize];
        let limit = (world.faults.deadlines && world.one_in(3)).then(|| Duration::from_millis(world.between(0, 60)));
        let is_idempotent = world.one_in(6);
        let asked = Asked {
            session: (self.index, self.sessions.0[self.index].1.load(Ordering::Relaxed)),
            affinity,
            carries,
            is_idempotent,
            is_inner: false,
            timeout: limit,
        };
        let number = world.witness().asked(asked.clone());
        world.note(|| format!("{number} asked: {asked:?}"));
        let mut call = build(number).affinity(affinity);
        if is_idempotent {
            call = call.idempotent();
        }
        if let Some(limit) = limit {
            call = call.timeout(limit);
        }
        if world.one_in(6) {
            call = call.queue_timeout(Duration::from_millis(world.below(30)));
        }
        let call = finish(call);
        if world.faults.give_ups && world.one_in(5) {
            let patience = Duration::from_millis(world.below(40));
            let Ok(outcome) = timeout(patience, call).await else {
                hit("given up".into());
                world.note(|| format!("{number} is given up"));
                world.witness().given_up(number);
                return None;
            };
            return Some((number, self.told(number, outcome, answer)));
        }
        let until = clock::now() + limit.map_or(PATIENCE, |limit| limit + LATE);
        match timeout_at(until.into(), call).await {
            Ok(outcome) => Some((number, self.told(number, outcome, answer))),
            Err(_) => {
                world.fail(format!("call {number} has no answer"));
                world.witness().given_up(number);
                None
            }
        }
    }

    fn told<R>(&self, number: u64, outcome: Result<R>, answer: impl FnOnce(&R) -> Option<u64>) -> Result<R> {
        let seen = match &outcome {
            Ok(value) => Ok((answer(value).unwrap_or(number), None)),
            Err(error) => Err(error.clone()),
        };
        self.world.record(number, &seen);
        outcome
    }

    async fn calls(&self) {
        let large = if self.world.one_in(10) { "x".repeat(50_000) } else { String::new() };
        let build = |number| self.session().call("m", "f", (number, large));
        self.ask(Carries::Nothing, build, Call::extract::<Answer>, |answer| Some(answer.0)).await;
    }

    async fn runs_code(&self) {
        for _ in 0..self.world.between(1, 3) {
            let build = |number: u64| self.session().eval(number.to_string());
            self.ask(Carries::Namespace, build, Call::extract::<Answer>, |answer| Some(answer.0)).await;
        }
    }

    async fn uses_a_ref(&self) {
        let build = |number| self.session().call("m", "make", (number,));
        let made = self.ask(Carries::Nothing, build, Call::into_ref, |_| None).await;
        let Some((made, Ok(object))) = made else { return };
        self.world.witness().made_in(made, &object.worker().to_string());
        for _ in 0..self.world.below(4) {
            self.world.pause(4).await;
            let build = |number| object.call_method("f", (number,));
            self.ask(Carries::Ref(made), build, Call::extract::<Answer>, |answer| Some(answer.0)).await;
        }
    }

    async fn reads_a_stream(&self) {
        let build = |number| self.session().call("m", "items", (number,));
        let opened = self.ask(Carries::Nothing, build, Call::stream::<u64>, |_| None).await;
        let Some((made, Ok(mut stream))) = opened else { return };
        let worker = stream.worker().to_string();
        let patience = self.world.below(60);
        for count in 0.. {
            if count == patience {
                hit("a stream is dropped".into());
                return self.world.witness().left(made);
            }
            self.world.pause(2).await;
            let item = match timeout(PATIENCE, stream.next()).await {
                Ok(item) => item,
                Err(_) => return self.world.fail("an item of a stream never comes".to_owned()),
            };
            match item {
                Some(Ok(item)) => {
                    self.world.witness().took(made);
                    if item != made * ITEMS + count {
                        self.world.fail(format!("item {item} comes after {count} of {made}"));
                    }
                }
                Some(Err(error)) => {
                    hit(format!("stream: {}", error.code()));
                    self.world.witness().read(made, &worker, Some(&error));
                    // It waits its turn, whatever the affinity and the queue's limits say.
                    let is_fair =
                        !matches!(error.code(), "worker_busy" | "pool_saturated" | "pool_degraded" | "queue_timeout");
                    if !is_fair {
                        self.world.fail(format!("an item of a stream does not wait its turn: {error}"));
                    }
                    self.world.note(|| format!("a stream ends: {error}"));
                    if stream.next().await.is_some() {
                        self.world.fail("a stream goes on after its error".to_owned());
                    }
                    return;
                }
                None => {
                    hit("a stream is read to its end".into());
                    return self.world.witness().read(made, &worker, None);
                }
            }
        }
    }

    async fn gives_a_callback(&self) {
        let callback = self.callback();
        let build = |number| self.session().call("m", "callback", (number, &callback));
        self.ask(Carries::Nothing, build, Call::extract::<Answer>, |answer| Some(answer.0)).await;
    }

    /// It takes its time, and may call Python again.
    fn callback(&self) -> Callback {
        let (world, session) = (Arc::clone(&self.world), self.session().clone());
        let index = self.index;
        self.py.callback(move |asked: u64| {
            let (world, session) = (Arc::clone(&world), session.clone());
            async move {
                hit("a callback is called".into());
                world.pause(10).await;
                if world.one_in(8) {
                    return Err(crate::error::Error::raise("KeyError", "not there"));
                }
                for _ in 0..world.below(3) {
                    inner_call(&world, &session, index).await?;
                }
                Ok(asked)
            }
        })
    }
}

/// A callback may be dropped, and what it had asked for is given up with it.
struct Unheard {
    world: Arc<World>,
    number: Option<u64>,
}

impl Unheard {
    fn heard(mut self) {
        self.number = None;
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            hit("a callback is dropped".into());
            self.world.witness().given_up(number);
        }
    }
}
