//! Chaos: sessions call as they like while workers, zygotes and sessions come to every harm, and two witnesses
//! are compared. How to run it for longer, or again: `CONTRIBUTING.md`.

mod checker;
mod history;
mod load;
mod nemesis;
mod report;

use crate::random::Random;
use crate::support::{Dir, belongings, output_of_alone, pool, until, within};
use checker::check;
use futures::StreamExt;
use futures::future::join_all;
use history::{Entry, History, How, Record, Terms, Told};
use load::{Client, POOLS, Shared};
use nemesis::{ALL, Nemesis, SIZE};
use snakebridge::{Affinity, Fact, OnWorkerLost, SnakeBridge};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

const SESSIONS: u32 = 64;
const CREDIT: usize = 64;
/// With what the blows take themselves, a death in 50 ms.
const PAUSE: Duration = Duration::from_millis(36);
const SEED: &str = "SNAKEBRIDGE_CHAOS_SEED";
const SECONDS: &str = "SNAKEBRIDGE_CHAOS_SECONDS";

#[test]
fn every_rule_holds_while_workers_die_twenty_times_a_second() {
    let test = "chaos::every_rule_holds_while_workers_die_twenty_times_a_second";
    run(test, 20, (usize::MAX, Duration::from_secs(60)), async |chaos, nemesis| {
        // A machine that is busy with other things takes longer, and kills as many.
        let kills = 250 * chaos.seconds / 20;
        while chaos.began.elapsed() < Duration::from_secs(chaos.seconds) || nemesis.kills < kills {
            nemesis.strike(ALL, PAUSE).await;
            chaos.must_end("so many kills");
        }
    });
}

#[test]
fn a_pool_that_loses_too_many_workers_is_degraded_recovers_and_never_exceeds_its_budget() {
    let test = "chaos::a_pool_that_loses_too_many_workers_is_degraded_recovers_and_never_exceeds_its_budget";
    let history = run(test, 8, (10, Duration::from_secs(2)), async |chaos, nemesis| {
        let are_degraded = async || chaos.py.stats().await.pools.iter().any(|pool| pool.degraded.is_some());
        while chaos.began.elapsed() < Duration::from_secs(chaos.seconds) {
            while !are_degraded().await {
                nemesis.strike(ALL, PAUSE / 2).await;
                chaos.must_end("the end of a budget");
            }
            until("the recovery", async || !are_degraded().await).await;
        }
    });
    if let Some(history) = history {
        let count = |wanted: fn(&Fact) -> bool| history.told.iter().filter(|told| wanted(&told.fact)).count();
        let degraded = count(|fact| matches!(fact, Fact::PoolDegraded { .. }));
        let recovered = count(|fact| matches!(fact, Fact::PoolRecovered { .. }));
        assert!(degraded > 0 && degraded == recovered, "{degraded} times degraded, {recovered} times recovered");
    }
}

/// What whoever drives a run needs of it.
struct Chaos {
    py: SnakeBridge,
    seconds: u64,
    began: Instant,
}

impl Chaos {
    /// Tells a run that gets nowhere from a slow one.
    fn must_end(&self, what: &str) {
        let most = Duration::from_secs(60 + 10 * self.seconds);
        assert!(self.began.elapsed() < most, "{what} did not come about within {most:?}");
    }
}

/// Runs a test of that name in a process of its own, for as many seconds unless the environment says otherwise.
/// The history is there in that process, once it was checked.
fn run(
    test: &str,
    seconds: u64,
    budget: (usize, Duration),
    drive: impl AsyncFnOnce(&Chaos, &mut Nemesis),
) -> Option<History> {
    if let Some(output) = output_of_alone(test) {
        output.lines().filter(|line| line.starts_with("chaos: ")).for_each(print);
        return None;
    }
    let given = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a whole number"));
    let seconds = given(SECONDS).unwrap_or(seconds);
    let seed = given(SEED).unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later than 1970");
        u64::from(now.subsec_nanos()) ^ now.as_secs() << 30
    });
    print(&format!("chaos: again with {SEED}={seed} {SECONDS}={seconds} cargo test --test it {test}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = Dir::new();
        let before = belongings();
        let mut history = one_run(&dir, seed, seconds, budget, drive).await;
        until("threads and descriptors to go", async || belongings() <= before).await;
        let journal = std::fs::read(dir.0.join("journal")).unwrap();
        history.records = Record::read_all(&journal).unwrap();
        print(&format!("chaos: {} calls began once more", checker::second_runs(&history)));
        if let Err(violations) = check(&history) {
            panic!("{}", violations.join("\n"));
        }
        Some(history)
    })
}

#[expect(clippy::print_stdout, reason = "the figures of a run are to be seen")]
fn print(line: &str) {
    println!("{line}");
}

async fn one_run(
    dir: &Dir,
    seed: u64,
    seconds: u64,
    budget: (usize, Duration),
    drive: impl AsyncFnOnce(&Chaos, &mut Nemesis),
) -> History {
    let shared = Arc::new(Shared::new(&mut Random::new(seed, 0)));
    let py = start(dir, &shared, seed, budget).await;
    let mut events = py.events();
    let told = tokio::spawn(async move {
        let mut told = Vec::new();
        while let Some(event) = events.next().await {
            let is_last = matches!(event.fact(), Fact::BridgeStopped {});
            told.push(Told::from(event));
            if is_last {
                break;
            }
        }
        told
    });

    let clients = (0..SESSIONS).map(|n| Client::new(&py, &shared, n, Random::new(seed, 2 + u64::from(n))));
    let clients: Vec<_> = clients.map(|client| tokio::spawn(client.run())).collect();
    let mut nemesis = Nemesis::new(&py, &shared, SESSIONS, Random::new(seed, 1));
    let chaos = Chaos { py: py.clone(), seconds, began: Instant::now() };
    drive(&chaos, &mut nemesis).await;
    shared.is_over.store(true, Ordering::Relaxed);
    let clients: Vec<_> = within("the clients", join_all(clients)).await.into_iter().map(Result::unwrap).collect();

    within("the rest", nemesis.rest()).await;
    py.await_ready(Duration::from_secs(20)).await.unwrap();
    let canaries = clients.into_iter().map(async |mut client| {
        client.reset().await;
        client.canary().await;
    });
    join_all(canaries).await;
    until("no ref", async || py.stats().await.refs == 0).await;
    let stats = py.stats().await;
    let deaths: u64 = stats.pools.iter().map(|pool| pool.deaths).sum();
    hold_nothing(&py).await;
    let (kills, killed) = (nemesis.kills, std::mem::take(&mut nemesis.killed));
    drop((chaos, nemesis));
    within("the shutdown", py.shutdown()).await.unwrap();
    drop(py);
    let told = within("the last event", told).await.unwrap();
    let entries = shared.log.take();
    tell(seed, &entries, kills, deaths);
    let odd: Vec<_> = odd_codes(&entries).into_iter().filter_map(|code| shared.log.text_of(code)).collect();
    assert!(odd.is_empty(), "errors that nothing here explains: {odd:?}");
    let terms = Terms {
        budget: (budget.0, u64::try_from(budget.1.as_nanos()).unwrap()),
        credit: CREDIT as u64,
        rehoming: vec![b'b'],
    };
    History { entries, records: Vec::new(), told, killed, terms }
}

async fn start(dir: &Dir, shared: &Shared, seed: u64, budget: (usize, Duration)) -> SnakeBridge {
    let path = |name: &str| dir.0.join(name).to_str().expect("a directory of plain characters").to_owned();
    std::fs::write(path("journal"), b"").unwrap();
    std::fs::write(path("noise"), &shared.noise).unwrap();
    let mut builder = SnakeBridge::builder();
    if seed.is_multiple_of(2) {
        builder = builder.thread_per_pool();
    }
    for name in POOLS {
        let lost = if name == "b" { OnWorkerLost::Rehome } else { OnWorkerLost::Unavailable };
        let config = pool(name, SIZE)
            .env("CHAOS_JOURNAL", path("journal"))
            .env("CHAOS_NOISE", path("noise"))
            .preload(["chaos_helpers"])
            .init("chaos_helpers:start")
            .on_worker_lost(lost)
            .restart_budget(budget.0, budget.1)
            .restart_backoff(Duration::ZERO, Duration::ZERO)
            .queue_timeout(Duration::from_secs(2))
            .cancel_grace(Duration::from_millis(200))
            .retire_grace(Duration::from_secs(1))
            .stream_credit(CREDIT, 4 << 20);
        builder = builder.pool(config);
    }
    within("the start of the bridge", builder.start()).await.unwrap()
}

/// Waits until every worker says that it holds no object any more.
async fn hold_nothing(py: &SnakeBridge) {
    let next = Cell::new(1_000_000);
    until("workers that hold nothing", async || {
        let workers = py.workers().await;
        let mut asked = BTreeMap::new();
        for pool in POOLS {
            // The homes of some session each, and the workers that have the fewest.
            let from = next.replace(next.get() + 2 * SIZE as u32);
            let sessions = (0..SESSIONS).chain(from..next.get()).map(|n| py.session(format!("s{n}")));
            let calls = sessions.map(|session| {
                let call = session.call("chaos_helpers", "at_rest", ()).pool(pool).affinity(Affinity::StrictQueue);
                call.extract::<(u32, i64, usize)>()
            });
            for outcome in join_all(calls).await {
                let (pid, live, table) = outcome.unwrap();
                asked.insert(pid, (live, table));
            }
        }
        let pids: BTreeSet<u32> = workers.iter().map(|worker| worker.pid).collect();
        workers.iter().all(|worker| worker.refs == 0)
            && asked.keys().copied().collect::<BTreeSet<_>>() == pids
            && asked.values().all(|held| *held == (0, 0))
    })
    .await;
}

fn tell(seed: u64, entries: &[Entry], kills: u64, deaths: u64) {
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in entries {
        let Entry::Outcome(outcome) = entry else { continue };
        let word = match outcome.how {
            How::Ok => "ok",
            How::Dropped => "dropped",
            How::Failed { code, .. } | How::Broken { code, .. } => code,
        };
        *outcomes.entry(word).or_default() += 1;
    }
    let mut line = format!("chaos: seed {seed}, {} calls, {kills} kills, {deaths} deaths", entries.len() / 2);
    for (word, count) in &outcomes {
        write!(line, ", {word} {count}").expect("text takes all");
    }
    print(&line);
}

/// What no client, blow or death leads to.
fn odd_codes(entries: &[Entry]) -> BTreeSet<&'static str> {
    let usual = [
        "cancelled",
        "pool_degraded",
        "pool_saturated",
        "python",
        "queue_timeout",
        "ref_lost",
        "ref_not_found",
        "session_worker_unavailable",
        "timeout",
        "worker_busy",
        "worker_crashed",
    ];
    let codes = entries.iter().filter_map(|entry| match entry {
        Entry::Outcome(outcome) => match outcome.how {
            How::Failed { code, .. } | How::Broken { code, .. } => Some(code),
            How::Ok | How::Dropped => None,
        },
        Entry::Invoke(_) => None,
    });
    codes.filter(|code| !usual.contains(code)).collect()
}
