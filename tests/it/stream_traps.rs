//! Streams over what is awkward in Python.

use crate::support::{Dir, pool, start, until, within};
use futures::{StreamExt, TryStreamExt};
use snakebridge::{PyRef, SessionOptions};

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
