//! Streams: batches, credit, turns, ends.

use crate::support::{Gate, SOON, code, pool, start, until, within};
use futures::{StreamExt, TryStreamExt};
use snakebridge::{Affinity, Error, PyRef, PyStream, SessionOptions, SnakeBridge, Value};
use std::time::Duration;

async fn opened<T: serde::de::DeserializeOwned + Send + 'static>(
    py: &SnakeBridge,
    function: &str,
    args: impl snakebridge::IntoArgs,
) -> PyStream<T> {
    within("an opening", py.call("open_helpers", function, args).stream()).await.expect("a free worker")
}

async fn ask<T: serde::de::DeserializeOwned + Send + 'static>(py: &SnakeBridge, function: &str) -> T {
    let session = py.session("asking");
    within("an answer", session.call("open_helpers", function, ()).extract()).await.expect("an answer")
}

#[actix::test]
async fn whatever_python_can_iterate_is_streamed_in_order_to_its_end() {
    let py = start([pool("p", 1)]).await;
    let all: Vec<u32> = opened::<u32>(&py, "numbers", (3_000,)).await.try_collect().await.unwrap();
    assert!(all.into_iter().eq(0..3_000));
    let listed: Vec<u32> =
        py.call("builtins", "list", ((1, 2),)).stream::<u32>().await.unwrap().try_collect().await.unwrap();
    assert_eq!(listed, [1, 2]);
    let ticks: Vec<u32> = opened::<u32>(&py, "ticks", (700,)).await.try_collect().await.unwrap();
    assert!(ticks.into_iter().eq(0..700));
    let awaited: Vec<u32> = opened::<u32>(&py, "listed", ()).await.try_collect().await.unwrap();
    assert_eq!(awaited, [1, 2]);
    let none: Vec<u32> = opened::<u32>(&py, "numbers", (0,)).await.try_collect().await.unwrap();
    assert!(none.is_empty());

    let path = py.call("pathlib", "PurePath", ("/a/b",)).into_ref().await.unwrap();
    let parts: Vec<String> = path.getattr("parts").stream::<String>().await.unwrap().try_collect().await.unwrap();
    assert_eq!(parts, ["/", "a", "b"]);
    let error = within("a refusal", path.stream::<Value>()).await.unwrap_err();
    assert_eq!(error.python().unwrap().type_name(), "TypeError");
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn an_iterator_inside_a_value_is_a_handle_that_opens_a_stream() {
    let py = start([pool("p", 1)]).await;
    let value = py.call("builtins", "dict", ()).kwarg("rest", vec![1, 2]).await.unwrap();
    assert_eq!(value["rest"], Value::from(vec![1, 2]));
    let map = py.get("builtins", "map").into_ref().await.unwrap();
    let str = py.get("builtins", "str").into_ref().await.unwrap();
    let Value::Stream(handle) = map.call((&str, vec![1, 2])).await.unwrap() else { panic!("an iterator") };
    let texts: Vec<String> = handle.stream::<String>().await.unwrap().try_collect().await.unwrap();
    assert_eq!(texts, ["1", "2"]);
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn what_the_iterator_raises_comes_behind_its_items_and_ends_the_stream() {
    let py = start([pool("p", 1)]).await;
    let mut items: PyStream<u32> = opened(&py, "fails_after", (300,)).await;
    for expected in 0..300 {
        assert_eq!(items.next().await.unwrap().unwrap(), expected);
    }
    let error = items.next().await.unwrap().unwrap_err();
    assert_eq!(error.python().unwrap().message(), "after 300");
    assert!(items.next().await.is_none());
    assert!(items.next().await.is_none(), "and it stays at its end");
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn an_item_that_does_not_fit_is_an_error_in_its_place() {
    let py = start([pool("p", 1)]).await;
    let items: PyStream<u8> = opened(&py, "one_of_them", ("two",)).await;
    let items: Vec<_> = items.map(|item| item.map_err(|error| error.to_string())).collect().await;
    assert_eq!(items, [Ok(1), Err("result: expected u8, found str 'two'".to_owned()), Ok(3)]);
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn the_items_before_one_that_cannot_be_sent_are_not_lost() {
    let py = start([pool("p", 1)]).await;
    let mut items: PyStream<Value> = opened(&py, "unsendable", ()).await;
    assert_eq!(items.next().await.unwrap().unwrap(), Value::from(1));
    assert_eq!(items.next().await.unwrap().unwrap(), Value::from(2));
    let error = items.next().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("nested more than"), "{error}");
    assert!(items.next().await.is_none());
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn objects_in_a_stream_are_refs_that_are_freed_as_others_are() {
    let py = start([pool("p", 1)]).await;
    let objects: Vec<PyRef> = opened::<PyRef>(&py, "objects", (40,)).await.try_collect().await.unwrap();
    assert_eq!(objects.len(), 40);
    let live = || async { py.call("bridge_helpers", "tracked_live", ()).extract::<u32>().await.unwrap() };
    assert_eq!(live().await, 40);
    drop(objects);
    until("freed objects", || async { live().await == 0 }).await;
    // So slow that the thread which looks after streams sees each batch.
    let objects: Vec<PyRef> = opened::<PyRef>(&py, "objects", (5, 0.02)).await.try_collect().await.unwrap();
    assert_eq!(live().await, 5);
    drop(objects);
    until("freed objects", || async { live().await == 0 }).await;
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn objects_past_the_limit_of_its_session_end_a_stream() {
    let py = start([pool("p", 1)]).await;
    let session = py.session_with("a", SessionOptions::new().max_refs(10));
    let mut items = session.call("open_helpers", "objects", (40,)).stream::<PyRef>().await.unwrap();
    let mut kept = Vec::new();
    let error = loop {
        match within("an item", items.next()).await.unwrap() {
            Ok(object) => kept.push(object),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), "ref_limit");
    assert!(!kept.is_empty() && kept.len() < 10, "the stream itself is one: {}", kept.len());
    assert!(items.next().await.is_none());
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn a_reader_that_stops_stops_the_producer_within_its_credit() {
    let py = start([pool("p", 1).stream_credit(64, 1 << 20)]).await;
    let mut items: PyStream<u64> = opened(&py, "numbers", ()).await;
    for expected in 0..200 {
        assert_eq!(items.next().await.unwrap().unwrap(), expected);
        let made: u64 = ask(&py, "made_so_far").await;
        assert!(made <= expected + 1 + 64, "{made} made, {expected} read");
    }
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn large_items_are_bounded_by_their_bytes() {
    let py = start([pool("p", 1).stream_credit(1_024, 1 << 20)]).await;
    let mut items: PyStream<snakebridge::Bytes> = opened(&py, "blocks", (300_000, 50)).await;
    let mut count = 0;
    while let Some(item) = items.next().await {
        assert_eq!(item.unwrap().len(), 300_000);
        count += 1;
    }
    assert_eq!(count, 50);
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn an_opening_never_waits_also_under_strict_queue() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue)]).await;
    let (session, gate) = (py.session("a"), Gate::new());
    let held = tokio::spawn(session.call("bridge_helpers", "hold", (gate.path(),)).discard());
    gate.held().await;
    let opening = session.call("open_helpers", "numbers", (3,)).stream::<u32>();
    assert_eq!(code(within("a refusal", opening).await), "worker_busy");
    gate.open();
    within("the held call", held).await.unwrap().unwrap();
    let items = session.call("open_helpers", "numbers", (3,)).stream::<u32>().await.unwrap();
    assert_eq!(items.try_collect::<Vec<_>>().await.unwrap(), [0, 1, 2]);
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn a_loop_over_a_stream_calls_its_own_strict_session_for_each_item() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue)]).await;
    let session = py.session("a");
    let mut items = session.call("open_helpers", "numbers", (300,)).stream::<u32>().await.unwrap();
    let mut read = 0;
    while let Some(item) = within("an item", items.next()).await {
        let doubled: u32 =
            within("a call", session.call("operator", "add", (item.clone().unwrap(), read)).extract()).await.unwrap();
        assert_eq!(doubled, 2 * read);
        read += 1;
    }
    assert_eq!(read, 300);
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn an_endless_stream_leaves_other_sessions_their_turns() {
    let py = start([pool("p", 1).affinity(Affinity::StrictQueue)]).await;
    let mut items: PyStream<u64> = opened(&py, "numbers", ()).await;
    let reader = tokio::spawn(async move {
        while let Some(item) = items.next().await {
            item.unwrap();
        }
    });
    let other = py.session("other");
    for _ in 0..200 {
        within("a call beside the stream", other.call("math", "sqrt", (4,)).discard()).await.unwrap();
    }
    reader.abort();
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn a_dropped_stream_closes_its_generator_and_frees_its_worker() {
    let py = start([pool("p", 1)]).await;
    let mut items: PyStream<u64> = opened(&py, "numbers", ()).await;
    assert_eq!(items.next().await.unwrap().unwrap(), 0);
    drop(items);
    until("a closed generator", || async { ask::<Vec<u64>>(&py, "closings").await.len() == 1 }).await;
    let mut ticks: PyStream<u64> = opened(&py, "ticks", (5_000,)).await;
    assert_eq!(ticks.next().await.unwrap().unwrap(), 0);
    drop(ticks);
    let closed = || async { ask::<Vec<Value>>(&py, "closings").await.contains(&Value::from("ticks 5000")) };
    until("a closed asynchronous generator", closed).await;
    until("no refs", || async { py.workers().await.iter().all(|worker| worker.refs == 0) }).await;
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn a_generator_that_does_not_let_itself_be_closed_is_ended_with_its_worker() {
    let py = start([pool("p", 1).cancel_grace(Duration::from_millis(50))]).await;
    let mut items: PyStream<u64> = opened(&py, "stubborn", ()).await;
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    let before = py.workers().await[0].pid;
    drop(items);
    until("a new worker", || async { py.workers().await.iter().any(|worker| worker.pid != before) }).await;
    within("a call", py.call("math", "sqrt", (4,)).discard()).await.unwrap();
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn the_end_of_its_session_ends_a_stream_with_cancelled() {
    let py = start([pool("p", 1)]).await;
    let session = py.session("a");
    let mut items = session.call("open_helpers", "numbers", ()).stream::<u64>().await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 0);
    within("a release", session.release()).await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap_err().code(), "cancelled");
    assert!(items.next().await.is_none());
    until("a closed generator", || async { !ask::<Vec<u64>>(&py, "closings").await.is_empty() }).await;
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn the_end_of_its_bridge_ends_a_stream_with_shutting_down() {
    let py = start([pool("p", 1)]).await;
    let mut items: PyStream<u64> = opened(&py, "numbers", ()).await;
    assert_eq!(items.next().await.unwrap().unwrap(), 0);
    within("a shutdown", py.shutdown()).await.unwrap();
    assert_eq!(within("an end", items.next()).await.unwrap().unwrap_err().code(), "shutting_down");
    assert!(items.next().await.is_none());
}

#[actix::test]
async fn the_death_of_its_worker_ends_a_stream_with_worker_crashed() {
    let py = start([pool("p", 1)]).await;
    let mut items: PyStream<u64> = opened(&py, "dies_after", (1,)).await;
    let error = loop {
        match within("an item", items.next()).await.unwrap() {
            Ok(item) => assert_eq!(item, 0),
            Err(error) => break error,
        }
    };
    let Error::WorkerCrashed(crash) = &error else { panic!("{error}") };
    assert_eq!(&crash.worker, items.worker());
    assert!(items.next().await.is_none());

    // Between two batches: what it was running in is gone all the same.
    until("a new worker", || async { py.await_ready(SOON).await.is_ok() }).await;
    let mut items = py.call("open_helpers", "numbers", ()).stream::<u64>().await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 0);
    py.session("b").call("os", "_exit", (3,)).discard().await.unwrap_err();
    let error = loop {
        match within("an item", items.next()).await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), "worker_crashed");
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn taint_and_reset_leave_open_streams() {
    let py = start([pool("p", 1)]).await;
    let session = py.session("a");
    let mut items = session.call("open_helpers", "numbers", (2_000,)).stream::<u64>().await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 0);
    py.taint(items.worker(), SOON, "a test").await.unwrap();
    session.reset().await.unwrap();
    let rest: Vec<u64> = within("the rest", items.try_collect()).await.unwrap();
    assert!(rest.into_iter().eq(1..2_000));
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn a_timeout_holds_for_each_wait() {
    let py = start([pool("p", 1).cancel_grace(Duration::from_millis(50))]).await;
    let calm = py.call("open_helpers", "slow", (0.05, 6)).timeout(SOON).stream::<u32>().await.unwrap();
    assert_eq!(within("all items", calm.try_collect::<Vec<_>>()).await.unwrap().len(), 6);
    let gate = Gate::new();
    let call = py.call("open_helpers", "held", (gate.path(),)).timeout(Duration::from_millis(300));
    let mut items = call.stream::<u32>().await.unwrap();
    assert_eq!(within("the first item", items.next()).await.unwrap().unwrap(), 1);
    assert_eq!(within("the end of a wait", items.next()).await.unwrap().unwrap_err().code(), "timeout");
    assert!(items.next().await.is_none());
    gate.open();
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn a_worker_that_retires_stays_until_its_stream_has_ended() {
    let py = start([pool("p", 1)]).await;
    let mut items = py.call("open_helpers", "numbers", (2_000,)).stream::<u64>().await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 0);
    let old = items.worker().clone();
    py.restart_worker(&old).await.unwrap();
    within("the replacement", py.await_ready(SOON)).await.unwrap();
    assert!(py.workers().await.iter().any(|worker| worker.id == old));
    let rest: Vec<u64> = within("the rest", items.try_collect()).await.unwrap();
    assert_eq!(rest.len(), 1_999);
    until("the exit of the old one", || async { py.workers().await.iter().all(|worker| worker.id != old) }).await;
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn many_streams_at_once_end_with_nothing_left() {
    let py = start([pool("p", 2).concurrency(4).affinity(Affinity::Hint)]).await;
    let streams = (0..8).map(|n| {
        let session = py.session(format!("s{n}"));
        async move {
            let function = if n % 2 == 0 { "numbers" } else { "ticks" };
            let items = session.call("open_helpers", function, (2_000,)).stream::<u32>().await.unwrap();
            items.try_collect::<Vec<_>>().await.unwrap()
        }
    });
    for all in within("all streams", futures::future::join_all(streams)).await {
        assert!(all.into_iter().eq(0..2_000));
    }
    until("no refs", || async { py.workers().await.iter().all(|worker| worker.refs == 0) }).await;
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn what_a_producer_gave_is_there_though_its_next_item_is_slow() {
    let py = start([pool("p", 1)]).await;
    let gate = Gate::new();
    let mut items: PyStream<u64> = opened(&py, "burst", (1_000, gate.path())).await;
    for expected in 0..1_000 {
        assert_eq!(within("an item before the gate", items.next()).await.unwrap().unwrap(), expected);
    }
    gate.open();
    let rest: Vec<u64> = within("the rest", items.try_collect()).await.unwrap();
    assert_eq!(rest, [1_000]);
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn refs_that_come_before_their_batch_is_over_are_refs_as_others_are() {
    let py = start([pool("p", 1)]).await;
    let gate = Gate::new();
    let mut items: PyStream<(PyRef,)> = opened(&py, "tracked_burst", (7, gate.path())).await;
    let mut objects = Vec::new();
    for _ in 0..7 {
        objects.push(within("an object before the gate", items.next()).await.unwrap().unwrap());
    }
    assert_eq!(py.workers().await[0].refs, 8, "they and the stream");
    gate.open();
    assert!(within("the end", items.next()).await.is_none());
    let name: String = objects[6].0.getattr("__class__.__name__").extract().await.unwrap();
    assert_eq!(name, "Tracked");
    drop((objects, items));
    until("no refs", || async { py.workers().await.iter().all(|worker| worker.refs == 0) }).await;
    let old = py.workers().await[0].id.clone();
    py.restart_worker(&old).await.unwrap();
    until("the exit of the old worker", || async { py.workers().await.iter().all(|worker| worker.id != old) }).await;
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn an_object_that_the_producer_changes_arrives_as_it_was_given() {
    let py = start([pool("p", 1)]).await;
    let lists: Vec<(u8,)> = opened::<(u8,)>(&py, "reused", ("list",)).await.try_collect().await.unwrap();
    assert_eq!(lists, [(0,), (1,), (2,), (3,), (4,)]);
    let dicts: Vec<Value> = opened::<Value>(&py, "reused", ("dict",)).await.try_collect().await.unwrap();
    assert!(dicts.iter().map(|row| &row["n"]).eq(&(0..5).map(Value::from).collect::<Vec<_>>()));
    let nested: Vec<Vec<Vec<u8>>> =
        opened::<Vec<Vec<u8>>>(&py, "reused", ("nested",)).await.try_collect().await.unwrap();
    assert_eq!(nested, [[[0]], [[1]], [[2]], [[3]], [[4]]]);
    let bytes: Vec<snakebridge::Bytes> =
        opened::<snakebridge::Bytes>(&py, "reused", ("bytes",)).await.try_collect().await.unwrap();
    assert!(bytes.iter().map(|row| row[0]).eq(0..5));
    py.shutdown().await.unwrap();
}
