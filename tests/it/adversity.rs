//! What a stuck or hostile process may not do: keep anyone waiting, or reach another session.

use crate::support::{Dir, Gate, code, parent_of, pool, start, until, within};
use futures::StreamExt;
use snakebridge::{Bytes, PyRef, Ran, SnakeBridge};
use std::process::Command;
use std::time::Duration;

#[tokio::test]
async fn a_python_that_is_killed_at_each_start_is_given_up_as_soon_as_the_budget_is_spent() {
    let dir = Dir::new();
    std::fs::write(dir.0.join("dies_at_once.py"), "import os\nos.kill(os.getpid(), 9)\n").unwrap();
    let config = pool("p", 1)
        .python_path(&dir.0)
        .preload(["dies_at_once"])
        .restart_budget(3, Duration::from_secs(60))
        .restart_backoff(Duration::from_millis(20), Duration::from_millis(20));
    let error = within("the start", SnakeBridge::builder().pool(config).start()).await.unwrap_err();
    assert_eq!(error.code(), "spawn");
    assert!(error.to_string().contains("SIGKILL"), "{error}");
}

#[tokio::test]
async fn a_zygote_that_is_stopped_does_not_hold_up_the_shutdown() {
    let py = start([pool("p", 1)]).await;
    let zygote = parent_of(py.workers().await[0].pid).unwrap();
    assert!(Command::new("kill").args(["-STOP", &zygote.to_string()]).status().unwrap().success());
    let ended = tokio::time::timeout(Duration::from_secs(15), py.shutdown()).await;
    let _gone = Command::new("kill").args(["-CONT", &zygote.to_string()]).status();
    ended.expect("the shutdown ends").unwrap();
}

#[tokio::test]
async fn a_preload_that_hangs_in_each_fork_is_a_start_that_fails() {
    let dir = Dir::new();
    std::fs::write(
        dir.0.join("hangs_in_fork.py"),
        "import os, time\n_c = [0]\ndef f():\n    _c[0] += 1\n    _c[0] < 2 or time.sleep(600)\nos.register_at_fork(before=f)\n",
    )
    .unwrap();
    let config = pool("p", 1)
        .python_path(&dir.0)
        .preload(["hangs_in_fork"])
        .start_timeout(Duration::from_millis(700))
        .restart_budget(1, Duration::from_secs(60));
    let error = within("the start", SnakeBridge::builder().pool(config).start()).await.unwrap_err();
    assert_eq!(error.code(), "spawn");
    assert!(!error.to_string().contains("fork"), "{error}");
}

#[tokio::test]
async fn a_call_that_was_taken_back_never_begins_however_many_are_taken_back_after_it() {
    let py = start([pool("p", 1).concurrency(8)]).await;
    let dir = Dir::new();
    let touched = dir.0.join("touched").to_str().unwrap().to_owned();
    let (a, b, c) = (py.session("a"), py.session("b"), py.session("c"));
    let (gate_a, gate_c) = (Gate::new(), Gate::new());
    // The first numbers: one call that is held, one behind it on its thread that is taken back.
    let held_a = tokio::spawn(a.call("bridge_helpers", "hold", (gate_a.path(), 1)).extract::<i64>());
    gate_a.held().await;
    let late =
        a.call("pathlib", "Path", (touched.clone(),)).call_method("touch", ()).timeout(Duration::from_millis(30));
    let error = within("the call taken back", late.discard()).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("timeout", Ran::No));
    for _ in 0..62 {
        b.call("math", "sqrt", (4,)).discard().await.unwrap();
    }
    // And so much later another, which shares its word of the page.
    let held_c = tokio::spawn(c.call("bridge_helpers", "hold", (gate_c.path(), 3)).extract::<i64>());
    gate_c.held().await;
    let other = c.call("math", "sqrt", (4,)).timeout(Duration::from_millis(30));
    let error = within("the other call", other.discard()).await.unwrap_err();
    assert_eq!(error.code(), "timeout");
    gate_a.open();
    gate_c.open();
    let (one, three) = (within("a", held_a).await.unwrap(), within("c", held_c).await.unwrap());
    assert!(a.call("math", "sqrt", (4,)).await.is_ok());
    assert!(!dir.0.join("touched").exists(), "a call of which it was said that it never ran has run");
    assert_eq!((one.unwrap(), three.unwrap()), (1, 3));
    assert_eq!(py.stats().await.pools[0].deaths, 0);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_names_an_object_of_another_worker_is_killed_and_the_object_stays() {
    let py = start([pool("p", 2)]).await;
    let (good, bad) = (py.session("good"), py.session("bad"));
    let kept: PyRef = good.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    bad.call("math", "sqrt", (4,)).discard().await.unwrap();
    let worker = bad.home("p").await.unwrap();
    assert_ne!(worker, *kept.worker());
    let id: u64 = kept.id().to_string().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    let forged = bad.call("bridge_helpers", "forge_next_id", (id,)).affinity(snakebridge::Affinity::StrictQueue);
    let outcome = within("the forged ref", forged.into_ref()).await;
    assert_eq!(code(outcome), "protocol");
    until("its end", || async { py.workers().await.iter().all(|other| other.id != worker) }).await;
    until("the frees", || async { py.stats().await.refs == 1 }).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(kept.call_method("add", ()).extract::<i64>().await.unwrap(), 1);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_says_more_than_anybody_reads_is_killed_before_it_fills_the_host() {
    let py = start([pool("p", 1).restart_backoff(Duration::ZERO, Duration::ZERO)]).await;
    let error = within("a call", py.call("bridge_helpers", "asks_without_end", ()).discard()).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("protocol", Ran::Maybe), "{error}");
    py.await_ready(Duration::from_secs(20)).await.unwrap();
    let mut stream =
        within("a stream", py.call("bridge_helpers", "parts_without_end", ()).stream::<u64>()).await.unwrap();
    let mut items = 0;
    let error = loop {
        match within("an item", stream.next()).await.unwrap() {
            Ok(_) => items += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((error.code(), error.ran()), ("protocol", Ran::Maybe), "{error}");
    assert!(items <= 1024, "{items} came, and its reader had not asked for so many");
    assert_eq!(py.stats().await.pools[0].deaths, 2);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_call_that_was_passed_over_is_no_finished_one() {
    let py = start([pool("p", 1).concurrency(2)]).await;
    let (session, gate) = (py.session("a"), Gate::new());
    let held = tokio::spawn(session.call("bridge_helpers", "hold", (gate.path(), 1)).extract::<i64>());
    gate.held().await;
    let late = session.call("math", "sqrt", (4,)).timeout(Duration::from_millis(30));
    assert_eq!(within("the call taken back", late.discard()).await.unwrap_err().ran(), Ran::No);
    gate.open();
    assert_eq!(within("the held call", held).await.unwrap().unwrap(), 1);
    assert!(session.call("math", "sqrt", (4,)).await.is_ok());
    assert_eq!((py.stats().await.pools[0].finished, py.workers().await[0].requests), (2, 2));
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_takes_no_messages_any_more_is_replaced() {
    let py = start([pool("p", 1)]).await;
    let dir = Dir::new();
    let told = dir.0.join("told");
    py.call("bridge_helpers", "stop_reading", (told.to_str().unwrap(),)).discard().await.unwrap();
    until("the worker to stop reading", || async { told.exists() }).await;
    let outcome = within("the call that cannot be sent", py.call("math", "sqrt", (4,)).discard()).await;
    assert!(outcome.is_ok() || outcome.is_err_and(|error| error.code() == "worker_crashed"));
    within("the next call", py.call("math", "sqrt", (4,)).session("next")).await.unwrap();
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_call_whose_large_body_meets_a_death_had_not_begun_and_goes_elsewhere() {
    let py = start([pool("p", 1)]).await;
    // Its other end is gone first, as when the kernel has closed half of what a dying worker had.
    py.call("os", "close", (4,)).discard().await.unwrap();
    let body = Bytes::from(vec![7; 1 << 20]);
    let length = within("the call", py.call("builtins", "len", (body,)).extract::<usize>()).await;
    assert_eq!(length.unwrap(), 1 << 20);
    assert_eq!(py.stats().await.pools[0].deaths, 1);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_was_out_of_descriptors_takes_large_arguments_again() {
    let py = start([pool("p", 1)]).await;
    let session = py.session("s");
    let large = || session.call("builtins", "len", (Bytes::from(vec![0; 100_000]),)).extract::<usize>();
    session.exec("from zoo import *\ntaken = use_up_descriptors()").await.unwrap();
    // More often than there are blocks: each is given back.
    for _ in 0..100 {
        let error = within("a large argument", large()).await.unwrap_err();
        assert!(error.to_string().contains("Too many open files"), "{error}");
    }
    session.exec("for fd in taken: os.close(fd)").await.unwrap();
    for _ in 0..100 {
        assert_eq!(within("a large argument", large()).await.unwrap(), 100_000);
    }
    py.shutdown().await.unwrap();
}
