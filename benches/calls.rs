//! What calls cost, beside the bare thing: a blocking ping-pong of pickles over the same kind of socket.
//!
//! `cargo bench --bench calls` prints one JSON line per row, with all processes on one core and then
//! on as many as there are. Times of this kind drift with the machine: compare rows of one run.

use futures::future::join_all;
use serde_json::{Map, json};
use snakebridge::{Affinity, Bytes, PoolConfig, PyRef, SnakeBridge};
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CALLS: usize = 20_000;
const WARM: usize = 2_000;

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
            let calls = arguments.next().map_or(10 * CALLS, |calls| calls.parse().expect("a number of calls"));
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
    bare(cores);
    for (peer, builder) in [
        ("snakebridge, own arbiter", SnakeBridge::builder()),
        ("snakebridge, another thread", SnakeBridge::builder().dedicated_thread()),
    ] {
        // In a task, as the handlers of a service are: the main future of a runtime costs a system call more.
        let rows = async move { actix_rt::spawn(bridge(peer, cores, builder)).await.expect("the rows") };
        actix_rt::System::new().block_on(rows);
    }
}

/// Sorted lap times, as the fields of a row.
fn laps(mut laps: Vec<Duration>, total: Duration) -> Map<String, serde_json::Value> {
    laps.sort();
    let micros = |lap: Duration| json!((lap.as_secs_f64() * 1e7).round() / 10.0);
    let mut figures = Map::new();
    figures.insert("call_p50_us".into(), micros(laps[laps.len() / 2]));
    figures.insert("call_p99_us".into(), micros(laps[laps.len() * 99 / 100]));
    figures.insert("calls_per_s".into(), json!((laps.len() as f64 / total.as_secs_f64()).round()));
    figures
}

fn p50(mut laps: Vec<Duration>) -> serde_json::Value {
    laps.sort();
    json!((laps[laps.len() / 2].as_secs_f64() * 1e7).round() / 10.0)
}

struct Peer(Child, OwnedFd);

impl Drop for Peer {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// Blocking on both sides, nothing but pickles: (module, function, args) there, the result back.
fn bare(cores: &str) {
    const SERVER: &str = "
import importlib, os, pickle
buffer = bytearray(65536)
view = memoryview(buffer)
while size := os.readv(0, [buffer]):
    module, name, args = pickle.loads(view[:size])
    os.write(0, pickle.dumps(getattr(importlib.import_module(module), name)(*args), 5))
";
    let (here, far) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .expect("a socket pair");
    // Its end of the pair is its standard input, which needs no unsafe code here.
    let server = Command::new("python3").arg("-c").arg(SERVER).stdin(Stdio::from(far)).spawn();
    let peer = Peer(server.expect("python3 runs"), here);

    // pickle.dumps(("math", "sqrt", (16,)), 5)
    let request = b"\x80\x05\x8c\x04math\x94\x8c\x04sqrt\x94K\x10\x85\x94\x87\x94.";
    let mut reply = vec![0; 4096];
    let mut call = || {
        rustix::io::writev(&peer.1, &[IoSlice::new(request)]).expect("the request is sent");
        rustix::io::read(peer.1.as_fd(), &mut reply).expect("the reply is read");
    };
    (0..WARM).for_each(|_| call());
    let begin = Instant::now();
    let times = (0..CALLS)
        .map(|_| {
            let lap = Instant::now();
            call();
            lap.elapsed()
        })
        .collect();
    row("bare SOCK_SEQPACKET and pickle", cores, laps(times, begin.elapsed()));
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
        .start()
        .await
        .expect("the bridge starts");

    let session = py.session("lock-step");
    let call = || session.call("math", "sqrt", (16,)).extract::<f64>();
    for _ in 0..WARM {
        call().await.expect("a call");
    }
    let (mut times, begin) = (Vec::with_capacity(CALLS), Instant::now());
    for _ in 0..CALLS {
        let lap = Instant::now();
        call().await.expect("a call");
        times.push(lap.elapsed());
    }
    let mut figures = laps(times, begin.elapsed());

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
    let mut times = Vec::new();
    for _ in 0..5_000 {
        let lap = Instant::now();
        path.call_method("is_absolute", ()).extract::<bool>().await.expect("a ref call");
        times.push(lap.elapsed());
    }
    figures.insert("ref_call_p50_us".into(), p50(times));

    let megabyte = Bytes::from(vec![b'x'; 1_000_000]);
    let mut times = Vec::new();
    for _ in 0..300 {
        let lap = Instant::now();
        let back: Bytes = session.call("builtins", "bytes", (&megabyte,)).extract().await.expect("an echo");
        times.push(lap.elapsed());
        assert_eq!(back.len(), megabyte.len());
    }
    figures.insert("echo_1mb_us".into(), p50(times));
    row(peer, cores, figures);
    py.shutdown().await.expect("the bridge stops");
}
