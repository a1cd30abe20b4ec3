//! What calls cost, beside the bare thing: a blocking ping-pong of pickles over the same kind of socket.
//!
//! `cargo bench --bench calls` prints one JSON line per row, with all processes on one core and then
//! on as many as there are. Times of this kind drift with the machine: compare rows of one run.

use futures::StreamExt;
use futures::future::join_all;
use serde_json::{Map, json};
use serde_pickle::{DeOptions, SerOptions};
use snakebridge::{Affinity, Bytes, PoolConfig, PyRef, SnakeBridge};
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Calls in a turn of each side.
const CALLS: usize = 1_000;
const TURNS: usize = 40;
const WARM_TURNS: usize = 2;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--bench"));
    match arguments.next().as_deref() {
        Some("pinned") => {
            let mut one = rustix::thread::CpuSet::new();
            one.set(0);
            rustix::thread::sched_setaffinity(None, &one).expect("this process can be pinned");
            rows("one core");
        }
        Some("free") => rows("all cores"),
        // One call after the other and nothing else, for a profiler.
        Some("lock-step") => {
            let calls = arguments.next().map_or(200_000, |calls| calls.parse().expect("a number of calls"));
            actix_rt::System::new()
                .block_on(async move { actix_rt::spawn(lock_step(calls)).await.expect("the calls") });
        }
        _ => {
            let this = std::env::current_exe().expect("the path of this program");
            for mode in ["pinned", "free"] {
                let status = Command::new(&this).arg(mode).status().expect("this program runs");
                assert!(status.success(), "the {mode} rows failed");
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "the rows are what it is for")]
fn row(peer: &str, cores: &str, figures: Map<String, serde_json::Value>) {
    let mut row = Map::new();
    row.insert("peer".into(), json!(peer));
    row.insert("cores".into(), json!(cores));
    row.extend(figures);
    println!("{}", serde_json::Value::Object(row));
}

fn rows(cores: &'static str) {
    for (peer, builder) in [
        ("snakebridge, own arbiter", SnakeBridge::builder()),
        ("snakebridge, another thread", SnakeBridge::builder().dedicated_thread()),
    ] {
        // In a task, as the handlers of a service are: the main future of a runtime costs a system call more.
        let rows = async move { actix_rt::spawn(bridge(peer, cores, builder)).await.expect("the rows") };
        actix_rt::System::new().block_on(rows);
    }
}

#[derive(Default)]
struct Laps(Vec<Duration>);

impl Laps {
    fn at(&mut self, share: usize) -> Duration {
        self.0.sort();
        self.0[self.0.len() * share / 100]
    }

    fn p50(&mut self) -> Duration {
        self.at(50)
    }

    /// As the fields of a row.
    fn fields(mut self) -> Map<String, serde_json::Value> {
        let rate = self.0.len() as f64 / self.0.iter().sum::<Duration>().as_secs_f64();
        let mut fields = Map::new();
        fields.insert("call_p50_us".into(), micros(self.p50()));
        fields.insert("call_p99_us".into(), micros(self.at(99)));
        fields.insert("calls_per_s".into(), json!(rate.round()));
        fields
    }
}

fn micros(lap: Duration) -> serde_json::Value {
    json!((lap.as_secs_f64() * 1e7).round() / 10.0)
}

/// Blocking on both sides, nothing but pickles: (module, function, args) there, the result back.
struct Bare {
    server: Child,
    socket: OwnedFd,
    reply: Vec<u8>,
}

impl Bare {
    fn start() -> Self {
        const SERVER: &str = "
import importlib, os, pickle
buffer = bytearray(65536)
view = memoryview(buffer)
while size := os.readv(0, [buffer]):
    module, name, args = pickle.loads(view[:size])
    os.write(0, pickle.dumps(getattr(importlib.import_module(module), name)(*args), 5))
";
        let (socket, far) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .expect("a socket pair");
        // Its end of the pair is its standard input, which needs no unsafe code here.
        let server = Command::new("python3").arg("-c").arg(SERVER).stdin(Stdio::from(far)).spawn();
        Self { server: server.expect("python3 runs"), socket, reply: vec![0; 4096] }
    }

    fn call(&mut self) -> f64 {
        let request = serde_pickle::to_vec(&("math", "sqrt", (16,)), SerOptions::new()).expect("it can be pickled");
        rustix::io::writev(&self.socket, &[IoSlice::new(&request)]).expect("the request is sent");
        let length = rustix::io::read(self.socket.as_fd(), &mut self.reply).expect("the reply is read");
        serde_pickle::from_slice(&self.reply[..length], DeOptions::new()).expect("it is a float")
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _gone = self.server.kill();
        let _gone = self.server.wait();
    }
}

/// One call after the other, through the bridge and bare, in turns: so both meet the same moods of the
/// machine. The ratio is the median of those of the turns.
async fn beside(call: impl AsyncFn()) -> (Laps, Laps, f64) {
    let mut bare = Bare::start();
    let (mut bridge_laps, mut bare_laps, mut ratios) = (Laps::default(), Laps::default(), Vec::new());
    for turn in 0..TURNS + WARM_TURNS {
        let (mut of_bare, mut of_bridge) = (Laps::default(), Laps::default());
        for _ in 0..CALLS {
            let lap = Instant::now();
            assert_eq!(bare.call(), 4.0);
            of_bare.0.push(lap.elapsed());
        }
        for _ in 0..CALLS {
            let lap = Instant::now();
            call().await;
            of_bridge.0.push(lap.elapsed());
        }
        if turn >= WARM_TURNS {
            ratios.push(of_bridge.p50().as_secs_f64() / of_bare.p50().as_secs_f64());
            bare_laps.0.extend(of_bare.0);
            bridge_laps.0.extend(of_bridge.0);
        }
    }
    ratios.sort_by(f64::total_cmp);
    (bare_laps, bridge_laps, ratios[ratios.len() / 2])
}

async fn lock_step(calls: usize) {
    let pool = PoolConfig::new("default").size(1).affinity(Affinity::StrictQueue);
    let py = SnakeBridge::builder().pool(pool).start().await.expect("the bridge starts");
    let session = py.session("lock-step");
    for _ in 0..calls {
        session.call("math", "sqrt", (16,)).extract::<f64>().await.expect("a call");
    }
    py.shutdown().await.expect("the bridge stops");
}

async fn bridge(peer: &'static str, cores: &'static str, builder: snakebridge::Builder) {
    let py = builder
        .pool(PoolConfig::new("default").size(2).affinity(Affinity::StrictQueue).max_queue_size(100_000))
        .pool(PoolConfig::new("single").size(1).affinity(Affinity::StrictQueue))
        .start()
        .await
        .expect("the bridge starts");

    let session = py.session("lock-step");
    let call = || session.call("math", "sqrt", (16,)).extract::<f64>();
    let (bare, laps, ratio) = beside(async || {
        assert_eq!(call().await.expect("a call"), 4.0);
    })
    .await;
    row("bare SOCK_SEQPACKET and pickle", cores, bare.fields());
    let mut figures = laps.fields();
    figures.insert("times_bare".into(), json!((ratio * 100.0).round() / 100.0));

    for outstanding in [8, 64] {
        let rounds = 100_000 / outstanding;
        let begin = Instant::now();
        let lines = (0..outstanding).map(|n| {
            let session = py.session(format!("line-{n}"));
            async move {
                for _ in 0..rounds {
                    session.call("math", "sqrt", (16,)).extract::<f64>().await.expect("a call");
                }
            }
        });
        join_all(lines).await;
        let rate = (rounds * outstanding) as f64 / begin.elapsed().as_secs_f64();
        figures.insert(format!("sessions_{outstanding}_per_s"), json!(rate.round()));
    }

    let begin = Instant::now();
    let calls = (0..10_000).map(|_| call());
    for outcome in join_all(calls).await {
        outcome.expect("a call");
    }
    figures.insert("pipelined_per_s".into(), json!((10_000.0 / begin.elapsed().as_secs_f64()).round()));

    let path: PyRef = session.call("pathlib", "PurePath", ("/tmp/a",)).into_ref().await.expect("a ref");
    let mut laps = Laps::default();
    for _ in 0..5_000 {
        let lap = Instant::now();
        path.call_method("is_absolute", ()).extract::<bool>().await.expect("a ref call");
        laps.0.push(lap.elapsed());
    }
    figures.insert("ref_call_p50_us".into(), micros(laps.p50()));

    let megabyte = Bytes::from(vec![b'x'; 1_000_000]);
    let mut laps = Laps::default();
    for _ in 0..300 {
        let lap = Instant::now();
        let back: Bytes = session.call("builtins", "bytes", (&megabyte,)).extract().await.expect("an echo");
        laps.0.push(lap.elapsed());
        assert_eq!(back.len(), megabyte.len());
    }
    figures.insert("echo_1mb_us".into(), micros(laps.p50()));
    const ITEMS: u64 = 1_000_000;
    let begin = Instant::now();
    let mut items = session.call("builtins", "range", (ITEMS,)).stream::<u64>().await.expect("a stream");
    let mut count = 0;
    while let Some(item) = items.next().await {
        assert_eq!(item.expect("an item"), count);
        count += 1;
    }
    assert_eq!(count, ITEMS);
    figures.insert("stream_per_s".into(), json!((ITEMS as f64 / begin.elapsed().as_secs_f64()).round()));

    // How long others wait for a worker that an endless stream uses.
    let endless = session.call("itertools", "count", ()).pool("single").stream::<u64>();
    let mut endless = endless.await.expect("a stream");
    let reader = actix_rt::spawn(async move { while endless.next().await.is_some() {} });
    let beside = py.session("beside");
    let mut laps = Laps::default();
    for _ in 0..500 {
        let lap = Instant::now();
        beside.call("math", "sqrt", (16,)).pool("single").extract::<f64>().await.expect("a call");
        laps.0.push(lap.elapsed());
    }
    reader.abort();
    figures.insert("beside_stream_p99_us".into(), micros(laps.at(99)));
    row(peer, cores, figures);
    py.shutdown().await.expect("the bridge stops");
}
