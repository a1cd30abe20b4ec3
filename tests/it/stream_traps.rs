//! Streams over what is awkward in Python.

use crate::support::{Dir, pool, start, until, within};
use futures::{StreamExt, TryStreamExt};

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
