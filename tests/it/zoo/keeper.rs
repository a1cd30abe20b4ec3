//! Plays rows, and looks after each at everything that is left.

use super::row::{Asked, CHOICE, Fate, Row, compare, rows, untold};
use crate::support::{SOON, is_alive, kill, pool};
use futures::StreamExt;
use snakebridge::{Bytes, Session, SnakeBridge, Value, WorkerId};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

/// Set in the process that plays, and inherited by every process that it starts.
const MARK: &str = "SNAKEBRIDGE_ZOO_MARK";

/// The pools, and their concurrency.
const POOLS: [(&str, usize); 2] = [("one", 1), ("three", 3)];
/// The deadline of what does not end by itself.
const DEADLINE: Duration = Duration::from_millis(150);
const GRACE: Duration = Duration::from_millis(300);
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// What the host may use more in the second round than in the first.
const MORE_MEMORY: u64 = 2 << 20;

/// What is wrong, if something is.
pub(super) type Checked<T = ()> = Result<T, String>;

/// Plays a table in a process of its own, so that what it has can be counted.
pub(super) fn play(test: &str, table: &str) {
    let rows = rows(table);
    if rows.is_empty() {
        return;
    }
    apart(test, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let failures = runtime.block_on(play_all(&rows));
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    });
}

/// Runs the body in a process of its own, which must succeed, print nothing of a panic, and leave nothing.
pub(super) fn apart(test: &str, body: impl FnOnce()) {
    if std::env::var_os(MARK).is_some() {
        return body();
    }
    let mark = Mark::new();
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output =
        command.args([test, "--exact", "--include-ignored", "--nocapture"]).env(MARK, &mark.0).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert!(!text.contains("panicked"), "something panicked:\n{text}");
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let left = mark.processes();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {left:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

async fn play_all(rows: &[Row]) -> Vec<String> {
    let mut failures = Vec::new();
    let mut zoo = Zoo::new().await.expect("the bridge of the zoo");
    let mut after_first = 0;
    for round in 1..=2 {
        for row in rows.iter().filter(|row| round == 1 || !row.once) {
            for concurrency in &row.concurrency {
                let pool = POOLS.iter().find(|pool| pool.1 == *concurrency).expect("a pool of it").0;
                if let Err(why) = zoo.play(row, pool).await {
                    let name = &row.name;
                    failures.push(format!(
                        "row {name}, in pool {pool}, round {round}: {why}\n    {CHOICE}={name} cargo test --test it zoo"
                    ));
                    if let Err(why) = zoo.end().await {
                        failures.push(format!("and after it: {why}"));
                    }
                    zoo = Zoo::new().await.expect("another bridge");
                }
            }
        }
        let now = resident();
        if round == 1 {
            after_first = now;
        } else if failures.is_empty() && now > after_first + MORE_MEMORY {
            failures.push(format!("the host grew by {} KiB in the second round", (now - after_first) >> 10));
        }
        if !failures.is_empty() {
            break;
        }
    }
    failures.extend(zoo.end().await.err());
    failures
}

/// A bridge whose pools have two workers each: in one lives a session that nothing may touch.
struct Zoo {
    py: SnakeBridge,
    beside: BTreeMap<&'static str, Beside>,
    /// The processes that are there beside the workers.
    zygotes: BTreeSet<u32>,
    before: Belongings,
}

struct Beside {
    session: Session,
    worker: WorkerId,
    calls: i64,
}

impl Zoo {
    async fn new() -> Checked<Self> {
        let mut builder = SnakeBridge::builder();
        for (name, concurrency) in POOLS {
            builder = builder.pool(
                pool(name, 2)
                    .concurrency(concurrency)
                    // Its imports take longer than most rows.
                    .preload(["zoo"])
                    .cancel_grace(GRACE)
                    .shutdown_grace(SHUTDOWN_GRACE)
                    .restart_budget(10_000, Duration::from_secs(60))
                    .restart_backoff(Duration::ZERO, Duration::ZERO),
            );
        }
        let py = soon("the start", builder.start()).await?.map_err(|error| error.to_string())?;
        let zygotes = py.workers().await.iter().filter_map(|worker| parent(worker.pid)).collect();
        let mut zoo = Self { py, beside: BTreeMap::new(), zygotes, before: Belongings::default() };
        for (name, _) in POOLS {
            let session = zoo.py.session("beside");
            ok("the session beside", session.exec("calls = 0").pool(name)).await?;
            let worker = session.home(name).await.ok_or("it has no home")?;
            zoo.beside.insert(name, Beside { session, worker, calls: 0 });
        }
        // What is made at the first use, and kept.
        for warm in ["b'x' * (1 << 20)", "os._exit(0)"] {
            for (name, _) in POOLS {
                let session = zoo.py.session("warm");
                ok("the setup", session.exec("import os").pool(name)).await?;
                let _warmed = soon("a first call", session.eval(warm).pool(name)).await?;
                ok("the release", session.release()).await?;
            }
        }
        for worker in zoo.py.workers().await {
            if zoo.beside.values().all(|beside| beside.worker != worker.id) {
                ok("the restart", zoo.py.restart_worker(&worker.id)).await?;
            }
        }
        zoo.whole().await?;
        zoo.before = Belongings::now();
        Ok(zoo)
    }

    async fn play(&mut self, row: &Row, pool: &'static str) -> Checked {
        for _ in 0..5 {
            if self.play_once(row, pool).await? {
                return Ok(());
            }
        }
        Err("nothing could be compared, five times".to_owned())
    }

    /// Whether the outcome could be compared.
    async fn play_once(&mut self, row: &Row, pool: &'static str) -> Checked<bool> {
        let session = self.py.session(row.name.as_str());
        let setup = format!("from zoo import *\nkept = 5\n{}", row.setup);
        ok("the setup", session.exec(setup).pool(pool)).await?;
        let worker = session.home(pool).await.ok_or("its session has no home")?;
        let pid = self.pid(&worker).await.ok_or("its worker is gone")?;
        if worker == self.beside[pool].worker {
            return Err("it is in the worker of the session beside it".to_owned());
        }

        let outcome = soon("the call", evaluate(&session, row, pool)).await?;
        let untold = untold(&outcome);
        let fate = if untold { Fate::Lives } else { compare(&outcome, row)? };
        self.others_go_on(pool).await?;
        match fate {
            Fate::Lives => {
                // A `MemoryError` taints its worker, which has its state all the same.
                if self.py.workers().await.iter().any(|known| known.id == worker && known.tainted.is_some()) {
                    ok("the end of the taint", self.py.clear_taint(&worker)).await?;
                }
                let kept = soon("the next call", session.eval("kept").pool(pool).extract::<i64>()).await?;
                if !matches!(kept, Ok(5)) || self.pid(&worker).await != Some(pid) {
                    return Err(format!("its worker should live, and the next call got {kept:?}"));
                }
            }
            Fate::Dies => {
                come_about(async || match self.pid(&worker).await {
                    None if !is_alive(pid) => Ok(()),
                    _ => Err(format!("{worker} should be dead")),
                })
                .await?;
            }
        }
        self.whole_with(row.leaves).await?;

        drop(outcome);
        ok("the release", session.release()).await?;
        drop(session);
        if fate == Fate::Lives {
            match soon("the restart", self.py.restart_worker(&worker)).await? {
                Err(error) if !(row.dies_later && error.code() == "unknown_worker") => return Err(error.to_string()),
                _ => {}
            }
            come_about(async || match self.pid(&worker).await {
                None if !is_alive(pid) => Ok(()),
                _ => Err(format!("{worker} is retired and should be gone")),
            })
            .await?;
        }
        self.whole().await?;
        come_about(async || self.before.same_as(&Belongings::now())).await?;
        self.others_go_on(pool).await?;
        Ok(!untold)
    }

    /// The session beside has its state, and one that is new finds a worker.
    async fn others_go_on(&mut self, pool: &'static str) -> Checked {
        let beside = self.beside.get_mut(pool).expect("one for each pool");
        beside.calls += 1;
        ok("a call of the session beside", beside.session.exec("calls += 1").pool(pool)).await?;
        let calls =
            ok("a call of the session beside", beside.session.eval("calls").pool(pool).extract::<i64>()).await?;
        if calls != beside.calls {
            return Err(format!("the session beside counts {calls} calls instead of {}", beside.calls));
        }
        let fresh = self.py.session("fresh");
        let root = ok("a call of a new session", fresh.call("math", "sqrt", (16,)).pool(pool).extract::<f64>()).await?;
        ok("the end of a new session", fresh.release()).await?;
        if root == 4.0 { Ok(()) } else { Err(format!("a new session gets {root}")) }
    }

    async fn pid(&self, worker: &WorkerId) -> Option<u32> {
        self.py.workers().await.into_iter().find(|other| other.id == *worker).map(|other| other.pid)
    }

    async fn whole(&self) -> Checked {
        self.whole_with(0).await
    }

    /// Every slot has its worker, idle, and beside these and the zygotes there are just so many processes.
    async fn whole_with(&self, others: usize) -> Checked {
        come_about(async || {
            for pool in self.py.stats().await.pools {
                if (pool.ready, pool.busy, pool.waiting, &pool.degraded) != (pool.size, 0, 0, &None) {
                    return Err(format!("the pool is not whole: {pool:?}"));
                }
            }
            let workers: BTreeSet<u32> = self.py.workers().await.iter().map(|worker| worker.pid).collect();
            let known: BTreeSet<u32> = workers.union(&self.zygotes).copied().collect();
            let mut there = processes();
            there.remove(&std::process::id());
            let odd: Vec<_> = there.symmetric_difference(&known).map(|pid| describe(*pid)).collect();
            let missing = known.difference(&there).count();
            if workers.len() != 4 || missing > 0 || odd.len() != others {
                return Err(format!("{} workers, {missing} missing, and these beside them: {odd:#?}", workers.len()));
            }
            Ok(())
        })
        .await
    }

    async fn end(self) -> Checked {
        let begun = Instant::now();
        ok("the shutdown", self.py.shutdown()).await?;
        let took = begun.elapsed();
        if took > SHUTDOWN_GRACE + Duration::from_secs(1) {
            return Err(format!("the shutdown took {took:?}"));
        }
        drop(self);
        come_about(async || left_over()).await
    }
}

async fn evaluate(session: &Session, row: &Row, pool: &str) -> snakebridge::Result<Value> {
    let mut call = session.eval(row.call.as_str()).pool(pool);
    if row.bytes > 0 {
        call = call.call_with((Bytes::from(vec![0; row.bytes]),));
    }
    if row.stuck {
        call = call.timeout(DEADLINE);
    }
    match row.asked {
        Asked::Value => call.await,
        Asked::List => call.extract::<Vec<Value>>().await.map(Value::List),
        Asked::Numbers => {
            let numbers = call.extract::<Vec<i64>>().await?;
            Ok(Value::List(numbers.into_iter().map(Value::Int).collect()))
        }
        Asked::Fields => {
            let objects = call.extract::<Vec<BTreeMap<String, i64>>>().await?;
            let objects = objects.iter().map(|fields| format!("{fields:?}"));
            Ok(Value::Str(objects.collect::<Vec<_>>().join(", ")))
        }
        Asked::Text => call.extract::<String>().await.map(Value::Str),
        Asked::Length => call.extract::<Bytes>().await.map(|bytes| Value::Int(bytes.len() as i64)),
        Asked::Stream => {
            let mut stream = call.stream::<Value>().await?;
            let mut items = Vec::new();
            while items.len() < 2
                && let Some(item) = stream.next().await
            {
                items.push(item?);
            }
            Ok(Value::List(items))
        }
    }
}

/// What this process has.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Belongings {
    descriptors: usize,
    threads: usize,
    shared_mappings: usize,
}

impl Belongings {
    pub(super) fn now() -> Self {
        let count = |dir: &str| std::fs::read_dir(dir).unwrap().count();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let is_shared = |line: &&str| line.split(' ').nth(1).is_some_and(|rights| rights.ends_with('s'));
        Self {
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            shared_mappings: maps.lines().filter(is_shared).count(),
        }
    }

    pub(super) fn same_as(&self, now: &Self) -> Checked {
        if self == now { Ok(()) } else { Err(format!("the host has {now:?}, and had {self:?}")) }
    }
}

/// The memory of this process that is resident.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * rustix::param::page_size() as u64
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn describe(pid: u32) -> String {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&words[..words.len().min(60)]).replace('\0', " ");
    format!("{pid}, child of {:?}: {words}", parent(pid))
}

/// Every process that carries the mark of this one, dead ones of theirs that nobody has reaped, and this one.
fn processes() -> BTreeSet<u32> {
    let mark = Mark(std::env::var(MARK).unwrap());
    let mut found = mark.processes();
    let zombies = pids().filter(|pid| !is_alive(*pid) && parent(*pid).is_some_and(|parent| found.contains(&parent)));
    let zombies: Vec<u32> = zombies.collect();
    found.extend(zombies);
    found
}

/// Whether nothing but this process is there.
pub(super) fn left_over() -> Checked {
    let left: Vec<_> = processes().into_iter().filter(|pid| *pid != std::process::id()).map(describe).collect();
    if left.is_empty() { Ok(()) } else { Err(format!("left over: {left:#?}")) }
}

fn pids() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

struct Mark(String);

impl Mark {
    fn new() -> Self {
        Self(format!("{}-{:?}", std::process::id(), std::thread::current().id()))
    }

    fn processes(&self) -> BTreeSet<u32> {
        let wanted = format!("{MARK}={}", self.0);
        let is_marked = |pid: &u32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes()) && is_alive(*pid)
        };
        pids().filter(is_marked).collect()
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if std::env::var_os(MARK).is_none() {
            for pid in self.processes() {
                kill(pid);
            }
        }
    }
}

/// What it comes to, if it ends soon.
pub(super) async fn soon<F: IntoFuture>(what: &str, future: F) -> Checked<F::Output> {
    tokio::time::timeout(SOON, future.into_future()).await.map_err(|_| format!("{what} did not end within {SOON:?}"))
}

/// The same of what is to succeed.
pub(super) async fn ok<T>(what: &str, future: impl IntoFuture<Output = snakebridge::Result<T>>) -> Checked<T> {
    soon(what, future).await?.map_err(|error| format!("{what} failed: {error}"))
}

/// Asks again until it is well.
pub(super) async fn come_about(mut ask: impl AsyncFnMut() -> Checked) -> Checked {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match ask().await {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() > deadline => return Err(why),
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}
