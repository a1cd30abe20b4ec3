//! Hosts that are no good home for a bridge.

use super::keeper::{Belongings, Checked, apart, come_about, left_over, ok, soon};
use super::row::chosen;
use crate::support::pool;
use rustix::process::{Resource, Rlimit, WaitOptions, getrlimit, setrlimit, wait};
use snakebridge::{Affinity, PoolConfig, SnakeBridge};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const GRACE: Duration = Duration::from_millis(300);

fn config() -> PoolConfig {
    pool("p", 2)
        .cancel_grace(GRACE)
        .restart_budget(1_000, Duration::from_secs(60))
        .restart_backoff(Duration::from_millis(1), Duration::from_millis(50))
}

pub(super) const HOSTS: [&str; 4] = [
    "a_host_that_ignores_the_death_of_children",
    "a_host_that_reaps_every_child",
    "a_host_whose_thread_that_started_the_bridge_is_gone",
    "a_host_that_is_out_of_descriptors_for_a_while",
];

/// Runs the body in a process of its own, where it is as it was when the body is over.
fn in_a_host(name: &str, body: impl AsyncFnOnce() -> Checked) {
    assert!(HOSTS.contains(&name));
    if !chosen(name) {
        return;
    }
    apart(&path(name), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let played = runtime.block_on(async {
            let before = Belongings::now();
            body().await?;
            come_about(async || left_over()).await?;
            come_about(async || before.same_as(&Belongings::now())).await
        });
        played.unwrap();
    });
}

fn path(name: &str) -> String {
    format!("zoo::host::{name}")
}

/// Calls, a death, a call that is killed, calls again, and the end.
async fn use_and_end(py: SnakeBridge) -> Checked {
    for _ in 0..3 {
        for session in ["a", "b"] {
            let root: f64 = ok("a call", py.call("math", "sqrt", (16,)).session(session).extract()).await?;
            assert_eq!(root, 4.0);
        }
        let died = soon("a death", py.call("os", "_exit", (3,)).session("c").discard()).await?.unwrap_err();
        // Who reaped it first knows its status.
        assert_eq!(died.code(), "worker_crashed", "{died}");
        let stuck = py.call("bridge_helpers", "stuck_in_c", ()).timeout(Duration::from_millis(100));
        let late = soon("a stuck call", stuck.discard()).await?.unwrap_err();
        assert_eq!(late.code(), "timeout", "{late}");
        come_about(async || match &py.stats().await.pools[0] {
            pool if (pool.ready, pool.busy) == (2, 0) => Ok(()),
            pool => Err(format!("not whole: {pool:?}")),
        })
        .await?;
    }
    ok("the shutdown", py.shutdown()).await
}

#[test]
fn a_host_that_ignores_the_death_of_children() {
    const NAME: &str = "a_host_that_ignores_the_death_of_children";
    const IGNORES: &str = "SNAKEBRIDGE_ZOO_IGNORES";
    in_a_host(NAME, async || {
        if std::env::var_os(IGNORES).is_none() {
            // What a shell ignores stays ignored in what it executes.
            let this = std::env::current_exe().unwrap();
            let mut shell = Command::new("sh");
            shell.args(["-c", "trap '' CHLD; exec \"$0\" \"$@\"", this.to_str().unwrap()]);
            let error = shell.arg(path(NAME)).args(["--exact", "--nocapture"]).env(IGNORES, "1").exec();
            return Err(format!("no shell: {error}"));
        }
        use_and_end(ok("the start", SnakeBridge::builder().pool(config()).start()).await?).await
    });
}

#[test]
fn a_host_that_reaps_every_child() {
    in_a_host("a_host_that_reaps_every_child", async || {
        let stop = Arc::new(AtomicBool::new(false));
        let reaper = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let _reaped_or_none = wait(WaitOptions::NOHANG);
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        });
        let played = async {
            // Each looks for an interpreter.
            for _ in 0..5 {
                use_and_end(ok("the start", SnakeBridge::builder().pool(config()).start()).await?).await?;
            }
            Ok(())
        };
        let played = played.await;
        stop.store(true, Ordering::Relaxed);
        reaper.join().unwrap();
        played
    });
}

#[test]
fn a_host_whose_thread_that_started_the_bridge_is_gone() {
    in_a_host("a_host_whose_thread_that_started_the_bridge_is_gone", async || {
        let starts = || futures::executor::block_on(SnakeBridge::builder().pool(config()).start());
        let py = std::thread::spawn(starts).join().unwrap().unwrap();
        use_and_end(py).await
    });
}

#[test]
fn a_host_that_is_out_of_descriptors_for_a_while() {
    in_a_host("a_host_that_is_out_of_descriptors_for_a_while", async || {
        let py = ok("the start", SnakeBridge::builder().pool(config()).start()).await?;
        let before = getrlimit(Resource::Nofile);
        for round in 0..3 {
            let dies = py.session("dies");
            ok("a call", dies.exec("import os").affinity(Affinity::StrictQueue)).await?;
            let home = dies.home("p").await.unwrap();
            let lives = py.session("lives");
            ok("a call", lives.exec("x = 5")).await?;
            assert_ne!(lives.home("p").await.unwrap(), home);

            setrlimit(Resource::Nofile, Rlimit { current: Some(256), ..before }).unwrap();
            let taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
            assert!(!taken.is_empty());
            let died = soon("a death", dies.exec("os._exit(3)")).await?.unwrap_err();
            assert_eq!(died.code(), "worker_crashed", "round {round}: {died}");
            for _ in 0..20 {
                assert_eq!(ok("a call meanwhile", lives.eval("x").extract::<i64>()).await?, 5);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            drop(taken);
            setrlimit(Resource::Nofile, before).unwrap();
            come_about(async || match &py.stats().await.pools[0] {
                pool if (pool.ready, pool.busy) == (2, 0) => Ok(()),
                pool => Err(format!("not whole: {pool:?}")),
            })
            .await?;
            ok("the release", dies.release()).await?;
            assert_eq!(ok("a call after it", lives.eval("x").extract::<i64>()).await?, 5);
            ok("the release", lives.release()).await?;
        }
        use_and_end(py).await
    });
}
