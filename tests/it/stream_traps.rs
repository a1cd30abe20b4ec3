//! Streams over what is awkward in Python.

use crate::support::{Dir, pool, start, until, within};
use futures::{StreamExt, TryStreamExt};
use snakebridge::{PyRef, SessionOptions};
use std::task::Poll;
use std::time::Duration;

#[actix::test]
async fn an_iteration_is_begun_once_as_by_for() {
    let py = start([pool("p", 1)]).await;
    for class in ["Restarting", "Bare", "RestartingTicks"] {
        let items = py.call("open_helpers", class, (10,)).stream::<u32>().await.unwrap();
        let items: Vec<u32> = within("all", items.take(100).try_collect()).await.unwrap();
        assert_eq!(items, (1..=10).collect::<Vec<_>>(), "{class}");
    }
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn a_generator_that_forks_goes_on() {
    let py = start([pool("p", 1)]).await;
    let items = py.call("open_helpers", "forks", ()).stream::<u32>().await.unwrap();
    assert_eq!(within("all", items.try_collect::<Vec<_>>()).await.unwrap(), [1, 2, 3]);
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn whatever_is_raised_inside_is_its_error() {
    let py = start([pool("p", 1)]).await;
    for name in ["KeyboardInterrupt", "SystemExit", "GeneratorExit", "MemoryError"] {
        let mut items = py.call("open_helpers", "raises", (name,)).stream::<u32>().await.unwrap();
        assert_eq!(within("an item", items.next()).await.unwrap().unwrap(), 1);
        let error = within("an end", items.next()).await.unwrap().unwrap_err();
        assert_eq!(error.python().unwrap().type_name(), name);
        assert!(items.next().await.is_none());
    }
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn the_last_handle_of_a_bridge_closes_its_generator() {
    let (dir, py) = (Dir::new(), start([pool("p", 1)]).await);
    let mark = dir.0.join("mark");
    let mut items = py.call("open_helpers", "marks", (mark.to_str().unwrap(),)).stream::<u32>().await.unwrap();
    assert_eq!(within("an item", items.next()).await.unwrap().unwrap(), 1);
    drop(py);
    std::thread::spawn(move || drop(items)).join().unwrap();
    until("a mark", || async { mark.exists() }).await;
}

#[actix::test]
async fn after_a_shutdown_a_stream_says_so() {
    let py = start([pool("p", 1)]).await;
    let mut items = py.call("open_helpers", "numbers", ()).stream::<u32>().await.unwrap();
    assert_eq!(within("an item", items.next()).await.unwrap().unwrap(), 0);
    py.shutdown().await.unwrap();
    let error = loop {
        match within("an end", items.next()).await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), "shutting_down", "{error}");
}

#[actix::test]
async fn an_opening_that_is_dropped_leaves_nothing() {
    let py = start([pool("p", 1)]).await;
    for polls in 0..200_u32 {
        let mut opening = Box::pin(py.call("open_helpers", "numbers", ()).stream::<u32>());
        for _ in 0..polls % 20 {
            if futures::poll!(&mut opening).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(opening);
    }
    until("no refs", || async { py.workers().await.iter().all(|worker| worker.refs == 0) }).await;
    within("a call", py.call("math", "sqrt", (4,)).discard()).await.unwrap();
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn items_that_share_an_object_are_read_one_by_one() {
    let py = start([pool("p", 1)]).await;
    let items = py.call("open_helpers", "shared", (1_000, 3_000)).stream::<Vec<u8>>().await.unwrap();
    let items: Vec<Vec<u8>> = within("all", items.try_collect()).await.unwrap();
    assert_eq!(items.len(), 3_000);
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn an_asynchronous_stream_runs_where_its_object_was_made() {
    let py = start([pool("p", 1)]).await;
    let client = within("a client", py.call("open_helpers", "connected", ()).into_ref()).await.unwrap();
    let rows = client.call_method("rows", (5,)).stream::<u32>().await.unwrap();
    assert_eq!(within("all", rows.try_collect::<Vec<_>>()).await.unwrap(), [0, 1, 2, 3, 4]);
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn a_reader_that_lets_go_of_each_object_stays_within_the_limit_of_refs() {
    let py = start([pool("p", 1)]).await;
    let session = py.session_with("a", SessionOptions::new().max_refs(50));
    let items = session.call("open_helpers", "objects", (400,)).stream::<PyRef>().await.unwrap();
    let count = within("all", items.try_fold(0, |count, _| async move { Ok(count + 1) })).await.unwrap();
    assert_eq!(count, 400);
    py.shutdown().await.unwrap();
}

const SLOW_THIRD: &str = r"
import time
def items():
    yield 0
    yield 1
    time.sleep(0.03)
    yield 2
";

/// Has the batch under way end while nothing here runs: a part and the answer behind it lie there together.
async fn let_it_end_unread() {
    // Until the batch is with the worker.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    std::thread::sleep(Duration::from_millis(200));
}

#[actix::test]
async fn a_part_and_the_answer_behind_it_are_read_in_one_go() {
    let py = start([pool("p", 1)]).await;
    let session = py.session("s");
    session.exec(SLOW_THIRD).await.unwrap();
    for _ in 0..3 {
        let mut items = session.eval("items()").stream::<u32>().await.unwrap();
        assert_eq!(within("an item", items.next()).await.unwrap().unwrap(), 0);
        let mut rest: Vec<u32> = match futures::poll!(items.next()) {
            Poll::Ready(item) => item.into_iter().map(|item| item.unwrap()).collect(),
            Poll::Pending => Vec::new(),
        };
        let_it_end_unread().await;
        rest.extend(within("the rest", items.try_collect::<Vec<_>>()).await.unwrap());
        assert_eq!(rest, [1, 2]);
    }
    py.shutdown().await.unwrap();
}

#[actix::test]
async fn the_same_of_a_stream_that_is_over_for_its_reader_and_its_worker_lives() {
    let grace = Duration::from_millis(300);
    let py = start([pool("p", 1).cancel_grace(grace)]).await;
    let session = py.session("s");
    session.exec(SLOW_THIRD).await.unwrap();
    let mut items = session.eval("items()").stream::<u32>().await.unwrap();
    assert_eq!(within("an item", items.next()).await.unwrap().unwrap(), 0);
    let _pending = futures::poll!(items.next());
    let release = actix::spawn(session.release());
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    drop(items);
    let_it_end_unread().await;
    within("the release", release).await.unwrap().unwrap();
    // What had ended in time is not what it is killed for.
    tokio::time::sleep(3 * grace).await;
    assert_eq!(py.workers().await[0].id.generation(), 1);
    py.shutdown().await.unwrap();
}
