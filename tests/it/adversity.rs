//! What a stuck or hostile process may not do: keep anyone waiting, or reach another session.

use crate::support::{Dir, Gate, pool, start, within};
use snakebridge::Ran;
use std::time::Duration;

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
