//! What fails in the system that the reference page describes, and holds here.

use crate::support::{Busy, Gate, code, kill, pid, pool, start, until, within};
use futures::StreamExt;
use futures::future::join_all;
use snakebridge::{Affinity, PyRef, Value};
use std::collections::BTreeSet;
use std::time::Duration;

#[tokio::test]
async fn concurrent_first_calls_of_one_session_share_one_home() {
    let py = start([pool("p", 4).affinity(Affinity::StrictQueue)]).await;
    for round in 0..20 {
        let session = py.session(format!("s{round}"));
        let pids = join_all((0..8).map(|_| pid(&session))).await;
        let workers: BTreeSet<u32> = pids.into_iter().map(Result::unwrap).collect();
        assert_eq!(workers.len(), 1, "round {round}");
    }
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn one_session_in_two_pools_has_two_homes() {
    let py = start([pool("one", 2), pool("two", 2)]).await;
    let session = py.session("s");
    for name in ["one", "two"] {
        session.call("math", "sqrt", (4,)).pool(name).discard().await.unwrap();
    }
    for name in ["one", "two"] {
        assert_eq!(session.home(name).await.unwrap().pool().as_str(), name);
    }
    assert_eq!(py.sessions().await[0].homes.len(), 2);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_queued_first_call_sets_the_home() {
    let py = start([pool("p", 1)]).await;
    let busy = Busy::new(&py, "a", "p").await;
    let late = py.session("late");
    let queued = tokio::spawn({
        let late = late.clone();
        async move { pid(&late).await }
    });
    until("the call to queue", || async { py.stats().await.pools[0].waiting == 1 }).await;
    assert_eq!(late.home("p").await, None);
    let home = busy.home.clone();
    busy.finish().await;
    within("the queued call", queued).await.unwrap().unwrap();
    assert_eq!(late.home("p").await, Some(home));
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn many_queued_calls_of_one_session_do_not_hold_up_another_nor_fill_the_queue_against_it() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue).max_queue_size(1_000)]).await;
    let busy = Busy::new(&py, "greedy", "p").await;
    let greedy: Vec<_> = (0..1_000)
        .map(|n| tokio::spawn(busy.session.call("bridge_helpers", "append", (("greedy", n),)).extract::<usize>()))
        .collect();
    until("the queue to fill", || async { py.stats().await.pools[0].waiting == 1_000 }).await;

    let modest = py.session("modest");
    let calls: Vec<_> = (0..10)
        .map(|n| tokio::spawn(modest.call("bridge_helpers", "append", (("modest", n),)).extract::<usize>()))
        .collect();
    until("ten greedy calls to be displaced", || async {
        greedy.iter().filter(|call| call.is_finished()).count() == 10
    })
    .await;
    assert_eq!(code(modest.call("math", "sqrt", (4,)).affinity(Affinity::StrictFailFast).await), "worker_busy");
    busy.finish().await;

    for (n, call) in calls.into_iter().enumerate() {
        let place = within("a modest call", call).await.unwrap().unwrap();
        // A turn each, beside what had been sent ahead.
        assert!(place <= 2 * n + 40, "call {n} ran in place {place}");
    }
    let outcomes = within("the greedy calls", join_all(greedy)).await;
    let (ran, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().map(Result::unwrap).partition(Result::is_ok);
    assert_eq!((ran.len(), refused.len()), (990, 10));
    assert!(refused.into_iter().all(|refused| code(refused) == "pool_saturated"));
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_ref_call_under_hint_never_goes_to_a_worker_without_the_ref() {
    let py = start([pool("p", 4)]).await;
    let counter: PyRef = py.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    let calls = (0..8).map(|_| {
        let counter = counter.clone();
        async move {
            for _ in 0..100 {
                counter.call_method("add", ()).affinity(Affinity::Hint).extract::<i64>().await.unwrap();
            }
        }
    });
    join_all(calls).await;
    assert_eq!(counter.getattr("count").extract::<i64>().await.unwrap(), 800);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_strict_call_after_a_crash_is_refused_and_never_served_by_the_replacement() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue)]).await;
    let session = py.session("s");
    let first = pid(&session).await.unwrap();
    kill(first);
    py.await_ready(Duration::from_secs(20)).await.unwrap();
    until("the replacement", || async { py.workers().await.iter().any(|worker| worker.pid != first) }).await;
    for _ in 0..20 {
        assert_eq!(code(pid(&session).await), "session_worker_unavailable");
    }
    assert_eq!(session.home("p").await.unwrap().generation(), 1, "the home that was");
    session.reset().await.unwrap();
    assert_ne!(pid(&session).await.unwrap(), first);
    assert_eq!(session.home("p").await.unwrap().generation(), 2);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn releasing_a_session_frees_its_objects_in_named_pools() {
    let py = start([pool("one", 1), pool("two", 1)]).await;
    let session = py.session("s");
    let mut kept: Vec<PyRef> = Vec::new();
    for name in ["one", "two", "two"] {
        kept.push(session.call("bridge_helpers", "Tracked", ()).pool(name).into_ref().await.unwrap());
    }
    let live = |name: &'static str| py.call("bridge_helpers", "tracked_live", ()).pool(name).extract::<i64>();
    assert_eq!((live("one").await.unwrap(), live("two").await.unwrap()), (1, 2));
    session.release().await.unwrap();
    until("the objects to be freed", || async { live("one").await.unwrap() + live("two").await.unwrap() == 0 }).await;
    assert_eq!(py.stats().await.refs, 0);
    drop(kept);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn top_level_values_come_back_as_they_are() {
    let py = start([pool("p", 1)]).await;
    let echo = |value: Value| py.call("copy", "copy", (value,));
    assert_eq!(echo(Value::Int(1)).await.unwrap(), Value::Int(1));
    assert_eq!(echo(Value::None).await.unwrap(), Value::None);
    let odd = (1_i64 << 53) + 1;
    assert_eq!(echo(Value::Int(odd)).await.unwrap(), Value::Int(odd));
    assert_eq!(py.call("copy", "copy", (odd,)).extract::<i64>().await.unwrap(), odd);
    assert_eq!(py.call("copy", "copy", ((),)).extract::<Option<i64>>().await.unwrap(), None);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_worker_killed_five_times_in_a_row_leaves_the_pool_whole_and_the_statistics_right() {
    let py = start([pool("p", 2).restart_backoff(Duration::ZERO, Duration::ZERO)]).await;
    for round in 1..=5 {
        let victim = py.workers().await.into_iter().find(|worker| worker.id.slot() == 0).unwrap();
        assert_eq!(victim.id.generation(), round);
        kill(victim.pid);
        until("its replacement", || async {
            py.workers().await.iter().any(|worker| worker.id.slot() == 0 && worker.id.generation() == round + 1)
        })
        .await;
        py.await_ready(Duration::from_secs(20)).await.unwrap();
        let stats = py.stats().await;
        let pool = &stats.pools[0];
        assert_eq!((pool.size, pool.ready, pool.busy, pool.waiting, pool.deaths), (2, 2, 0, 0, round));
    }
    let gate = Gate::new();
    let both: Vec<_> = (0..2)
        .map(|n| tokio::spawn(py.call("bridge_helpers", "hold", (gate.path(), n)).session(format!("{n}")).discard()))
        .collect();
    until("both workers to be busy", || async { py.stats().await.pools[0].busy == 2 }).await;
    gate.open();
    for call in both {
        within("a held call", call).await.unwrap().unwrap();
    }
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_call_or_stream_that_raises_what_breaks_its_worker_taints_it() {
    let py = start([pool("p", 2)]).await;
    let raising = |error: &str| format!("def poison():\n    raise {error}\n    yield\n");
    for (error, reason) in [
        ("MemoryError('none left')", "a call raised MemoryError: none left"),
        ("RuntimeError('CUDA error: out of memory')", "a call raised RuntimeError: CUDA error: out of memory"),
    ] {
        let session = py.session("s");
        session.exec(raising(error)).await.unwrap();
        for is_stream in [false, true] {
            let failed = if is_stream {
                let mut items = session.eval("poison()").stream::<i64>().await.unwrap();
                within("the end", items.next()).await.unwrap().unwrap_err()
            } else {
                session.eval("next(poison())").await.unwrap_err()
            };
            assert_eq!(failed.code(), "python");
            until("the taint", || async { py.workers().await.iter().any(|worker| worker.tainted.is_some()) }).await;
            let tainted = py.workers().await.into_iter().find(|worker| worker.tainted.is_some()).unwrap();
            let taint = tainted.tainted.unwrap();
            assert_eq!(taint.reason, reason);
            let left = taint.until.duration_since(std::time::SystemTime::now()).unwrap();
            assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");
            py.clear_taint(&tainted.id).await.unwrap();
        }
        session.release().await.unwrap();
    }
    py.call("builtins", "int", ("x",)).discard().await.unwrap_err();
    assert!(py.workers().await.iter().all(|worker| worker.tainted.is_none()));
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_breaks_a_worker_taints_it_though_the_caller_has_left() {
    let py = start([pool("p", 1)]).await;
    let late = "import time\ntry: time.sleep(60)\nexcept BaseException: raise MemoryError('late') from None";
    let left = py.session("s").exec(late).timeout(Duration::from_millis(50)).await;
    assert_eq!(left.unwrap_err().code(), "timeout");
    until("the taint", || async {
        let workers = py.workers().await;
        workers.iter().any(|worker| worker.tainted.as_ref().is_some_and(|taint| taint.reason.contains("late")))
    })
    .await;
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_worker_whose_cuda_context_is_broken_is_replaced_and_takes_nothing_until_then() {
    let py = start([pool("p", 1)]).await;
    let broken = py.workers().await[0].id.clone();
    let raises = "raise RuntimeError('CUDA error: an illegal memory access was encountered')";
    assert_eq!(py.session("s").exec(raises).await.unwrap_err().code(), "python");
    // Behind the taint, and served by the replacement.
    let next = py.call("math", "sqrt", (4,)).session("other");
    within("the next call", next.discard()).await.unwrap();
    assert_ne!(py.session("other").home("p").await.unwrap(), broken);
    py.shutdown().await.unwrap();
}
