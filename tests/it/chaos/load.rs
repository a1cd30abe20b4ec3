//! The clients: sessions that call, cancel, time out, hold objects and read streams, and log all that they see.

use super::history::{How, Invoke, Log, What, Worker};
use crate::random::Random;
use crate::support::within;
use futures::future::{BoxFuture, FutureExt, join_all};
use futures::{Future, StreamExt};
use snakebridge::{Affinity, Bytes, Call, Error, PyRef, Ran, Result, Session, SnakeBridge};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The largest argument and result.
pub(crate) const LARGEST: usize = 4 << 20;
pub(crate) const POOLS: [&str; 2] = ["a", "b"];
const MODULE: &str = "chaos_helpers";
/// How many objects a session keeps.
const HELD: usize = 8;
const LONGEST_STREAM: u64 = 400;

/// What all clients of a run share.
pub(crate) struct Shared {
    pub(crate) log: Log,
    pub(crate) noise: Vec<u8>,
    pub(crate) is_over: AtomicBool,
    ids: AtomicU64,
}

impl Shared {
    pub(crate) fn new(random: &mut Random) -> Self {
        let mut noise = vec![0; LARGEST];
        random.fill(&mut noise);
        Self { log: Log::default(), noise, is_over: AtomicBool::new(false), ids: AtomicU64::new(1) }
    }

    fn id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }
}

/// One session, and what it holds.
pub(crate) struct Client {
    shared: Arc<Shared>,
    random: Random,
    number: u32,
    session: Session,
    /// Whether all its calls are strict_queue: then only a reset finds it a new home.
    is_strict: bool,
    seq: u64,
    held: Vec<Held>,
}

struct Held {
    made: u64,
    pool: u8,
    object: PyRef,
}

/// What a call leaves its session to do.
enum Then {
    Nothing,
    Keep(Held),
    Forget(u64),
    Reset,
}

impl Client {
    pub(crate) fn new(py: &SnakeBridge, shared: &Arc<Shared>, number: u32, random: Random) -> Self {
        let session = py.session(format!("s{number}"));
        let is_strict = number.is_multiple_of(4);
        Self { shared: Arc::clone(shared), random, number, session, is_strict, seq: 0, held: Vec::new() }
    }

    /// Calls until it is over. Some calls at once, submitted in the order of their numbers.
    pub(crate) async fn run(mut self) -> Self {
        while !self.shared.is_over.load(Ordering::Relaxed) {
            let calls: Vec<_> = (0..=self.random.below(4)).map(|_| self.call()).collect();
            let mut lost = false;
            for then in within("some calls", join_all(calls)).await {
                match then {
                    Then::Nothing => {}
                    Then::Keep(held) => self.held.push(held),
                    Then::Forget(made) => self.held.retain(|held| held.made != made),
                    Then::Reset => lost = true,
                }
            }
            if lost && self.random.percent(50) {
                self.reset().await;
            }
            while self.held.len() > HELD || (!self.held.is_empty() && self.random.percent(10)) {
                let index = self.random.below(self.held.len() as u64);
                self.held.swap_remove(index as usize);
            }
            tokio::time::sleep(Duration::from_millis(self.random.below(20))).await;
        }
        self.held.clear();
        self
    }

    pub(crate) async fn reset(&self) {
        reset(&self.shared, self.number, &self.session).await;
    }

    /// A strict call in each pool, which must succeed.
    pub(crate) async fn canary(&mut self) {
        for pool in POOLS {
            let invoke = self.invoke(What::Append, Affinity::StrictQueue, pool.as_bytes()[0]);
            let (log, number) = (self.shared.log.clone(), self.number);
            let call = self.append(&invoke, pool, 1 << 10, 0, true);
            let outcome = within("a canary", perform(log, invoke, None, call, |got| got.to_vec())).await;
            let outcome = outcome.expect("nobody drops it");
            assert!(outcome.is_ok(), "session {number} in pool {pool}: {outcome:?}");
        }
    }

    fn invoke(&mut self, what: What, affinity: Affinity, pool: u8) -> Invoke {
        self.seq += 1;
        Invoke {
            id: self.shared.id(),
            at: 0,
            session: self.number,
            pool,
            seq: self.seq,
            affinity,
            is_idempotent: false,
            what,
        }
    }

    fn call(&mut self) -> BoxFuture<'static, Then> {
        let affinity = match self.random.below(9) {
            _ if self.is_strict => Affinity::StrictQueue,
            0 => Affinity::StrictQueue,
            1..=4 => Affinity::StrictFailFast,
            _ => Affinity::Hint,
        };
        let pool = POOLS[self.random.below(2) as usize];
        let letter = pool.as_bytes()[0];
        let work = self.random.log_uniform(4_000);
        let size = self.random.log_uniform(LARGEST as u64) as usize;
        let limit = self.random.percent(5).then(|| Duration::from_micros(self.random.log_uniform(50_000)));
        let give_up = self.random.percent(5).then(|| Duration::from_micros(self.random.log_uniform(20_000)));
        // One call in ten, with those that neither append nor read.
        let is_idempotent = affinity == Affinity::Hint && self.random.percent(50);
        let log = self.shared.log.clone();
        let bounded = move |call: Call| match limit {
            Some(limit) => call.timeout(limit),
            None => call,
        };
        let twice_at_most = move |call: Call| bounded(if is_idempotent { call.idempotent() } else { call });
        match self.random.below(100) {
            0..30 => {
                let echoes = self.random.percent(25);
                let invoke = Invoke { is_idempotent, ..self.invoke(What::Append, affinity, letter) };
                let call = self.append_within(&invoke, pool, size, work, echoes, twice_at_most);
                perform(log, invoke, give_up, call, |got| got.to_vec()).map(|outcome| then(outcome, None)).boxed()
            }
            30..45 => {
                let invoke = Invoke { is_idempotent, ..self.invoke(What::Read, affinity, letter) };
                let offset = self.random.below((LARGEST - size) as u64 + 1) as usize;
                let args = (invoke.id, self.number, invoke.seq, work, offset, size);
                let call = twice_at_most(self.session.call(MODULE, "read", args).pool(pool).affinity(affinity));
                let shared = Arc::clone(&self.shared);
                let call = call.extract::<(Vec<u64>, Bytes)>().map(move |outcome| {
                    let (mut list, padding) = outcome?;
                    if *padding != shared.noise[offset..offset + size] {
                        // A number that nobody appended.
                        list.push(u64::MAX);
                    }
                    Ok(list)
                });
                perform(log, invoke, give_up, call, |list| list.clone()).map(|outcome| then(outcome, None)).boxed()
            }
            45..48 => {
                let invoke = self.invoke(What::Fail, affinity, letter);
                let args = (invoke.id, self.number, invoke.seq, work);
                let call = bounded(self.session.call(MODULE, "fail", args).pool(pool).affinity(affinity)).discard();
                perform(log, invoke, give_up, call, |()| vec![]).map(|outcome| then(outcome, None)).boxed()
            }
            48..62 => {
                let token = self.random.next();
                let invoke = self.invoke(What::Make { token }, affinity, letter);
                let made = invoke.id;
                let args = (made, self.number, invoke.seq, token);
                let call = bounded(self.session.call(MODULE, "Holder", args).pool(pool).affinity(affinity)).into_ref();
                let keep = move |outcome: Option<Result<PyRef>>| match outcome {
                    Some(Ok(object)) => Then::Keep(Held { made, pool: letter, object }),
                    outcome => then(outcome, None),
                };
                perform(log, invoke, give_up, call, |_| vec![]).map(keep).boxed()
            }
            62..90 if !self.held.is_empty() => {
                let at = self.random.below(self.held.len() as u64) as usize;
                let (made, pool, object) = (self.held[at].made, self.held[at].pool, self.held[at].object.clone());
                let invoke = self.invoke(What::Use { made }, affinity, pool);
                let args = (invoke.id, self.number, invoke.seq, work);
                let call = bounded(object.call_method("tell", args).affinity(affinity)).extract::<u64>();
                let outcome = perform(log, invoke, give_up, call, |token| vec![*token]);
                outcome.map(move |outcome| then(outcome, Some(made))).boxed()
            }
            _ => {
                let items = self.random.log_uniform(LONGEST_STREAM);
                let wanted = if self.random.percent(50) { items + 1 } else { self.random.below(items + 1) };
                let invoke = self.invoke(What::Stream { items }, affinity, letter);
                let args = (invoke.id, self.number, invoke.seq, items, work / 16);
                let call = bounded(self.session.call(MODULE, "items", args).pool(pool).affinity(affinity));
                read_stream(log, invoke, give_up, call, wanted).boxed()
            }
        }
    }

    fn append(&mut self, invoke: &Invoke, pool: &str, size: usize, work: u64, echoes: bool) -> Appending {
        self.append_within(invoke, pool, size, work, echoes, |call| call)
    }

    fn append_within(
        &mut self,
        invoke: &Invoke,
        pool: &str,
        size: usize,
        work: u64,
        echoes: bool,
        bounded: impl FnOnce(Call) -> Call,
    ) -> Appending {
        let offset = self.random.below((LARGEST - size) as u64 + 1) as usize;
        let payload = Bytes::from(&self.shared.noise[offset..offset + size]);
        let args = (invoke.id, self.number, invoke.seq, work, offset, &payload, echoes);
        let call = bounded(self.session.call(MODULE, "append", args).pool(pool).affinity(invoke.affinity));
        let judge = move |outcome: Result<(u64, bool, Bytes)>| {
            let (index, is_whole, echo) = outcome?;
            Ok([index, u64::from(is_whole && (!echoes || echo == payload))])
        };
        call.extract().map(judge).boxed()
    }
}

type Appending = BoxFuture<'static, Result<[u64; 2]>>;

/// Asks that a session's lost homes be forgotten.
pub(crate) async fn reset(shared: &Shared, number: u32, session: &Session) {
    ask(shared, number, What::Reset, session.reset()).await;
}

/// Ends a session.
pub(crate) async fn release(shared: &Shared, number: u32, session: &Session) {
    ask(shared, number, What::Release, session.release()).await;
}

async fn ask(shared: &Shared, session: u32, what: What, asked: impl Future<Output = Result<()>>) {
    let affinity = Affinity::Hint;
    let invoke = Invoke { id: shared.id(), at: 0, session, pool: 0, seq: 0, affinity, is_idempotent: false, what };
    within("a reset or release", perform(shared.log.clone(), invoke, None, asked, |()| vec![])).await;
}

/// Makes a call and logs it: nothing of it leaves before the first poll. `None` if it was given up.
async fn perform<T>(
    log: Log,
    invoke: Invoke,
    give_up: Option<Duration>,
    call: impl Future<Output = Result<T>>,
    got: impl FnOnce(&T) -> Vec<u64>,
) -> Option<Result<T>> {
    let id = invoke.id;
    log.invoke(invoke);
    let Some(outcome) = unless_given_up(give_up, call).await else {
        log.outcome(id, How::Dropped, vec![]);
        return None;
    };
    match &outcome {
        Ok(value) => log.outcome(id, How::Ok, got(value)),
        Err(error) => {
            let (code, ran, worker) = facts_of(&log, error);
            log.outcome(id, How::Failed { code, ran, worker }, vec![]);
        }
    }
    Some(outcome)
}

/// Drops the future when the time has come; before that it was polled.
async fn unless_given_up<F: Future>(give_up: Option<Duration>, future: F) -> Option<F::Output> {
    match give_up {
        Some(after) => tokio::time::timeout(after, future).await.ok(),
        None => Some(future.await),
    }
}

async fn read_stream(log: Log, invoke: Invoke, give_up: Option<Duration>, call: Call, wanted: u64) -> Then {
    let id = invoke.id;
    let read: Mutex<Vec<u64>> = Mutex::default();
    let reading = async {
        let mut stream = match call.stream::<u64>().await {
            Ok(stream) => stream,
            Err(error) => {
                let (code, ran, worker) = facts_of(&log, &error);
                return (How::Failed { code, ran, worker }, then(Some(Err::<(), _>(error)), None));
            }
        };
        for _ in 0..wanted {
            match stream.next().await {
                Some(Ok(item)) => read.lock().unwrap_or_else(PoisonError::into_inner).push(item),
                Some(Err(error)) => {
                    let (code, ran, worker) = facts_of(&log, &error);
                    return (How::Broken { code, ran, worker }, Then::Nothing);
                }
                None => return (How::Ok, Then::Nothing),
            }
        }
        (How::Dropped, Then::Nothing)
    };
    log.invoke(invoke);
    let (how, then) = unless_given_up(give_up, reading).await.unwrap_or((How::Dropped, Then::Nothing));
    log.outcome(id, how, std::mem::take(&mut *read.lock().unwrap_or_else(PoisonError::into_inner)));
    then
}

fn facts_of(log: &Log, error: &Error) -> (&'static str, Ran, Option<Worker>) {
    log.keep(error);
    let worker = match error {
        Error::WorkerCrashed(crash) => Some((&crash.worker).into()),
        _ => None,
    };
    (error.code(), error.ran(), worker)
}

fn then<T>(outcome: Option<Result<T>>, object: Option<u64>) -> Then {
    let Some(Err(error)) = outcome else { return Then::Nothing };
    match (error.code(), object) {
        ("ref_lost" | "ref_not_found", Some(made)) => Then::Forget(made),
        ("session_worker_unavailable", _) => Then::Reset,
        _ => Then::Nothing,
    }
}
