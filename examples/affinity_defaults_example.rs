//! One pool: the affinity that its calls have by default, and what a single call may say instead.
//!
//! `cargo run --example affinity_defaults_example`
#![expect(clippy::print_stdout, reason = "an example talks")]

mod support;

use snakebridge::{Affinity, Config, PyRef, SnakeBridge};
use support::{Gate, code, part, until_waiting};

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    part("a pool whose default is strict_queue: calls wait for the home of their session");
    let config = Config::new().pool(support::pool("default", 2).affinity(Affinity::StrictQueue));
    let py = SnakeBridge::from_config(config).await?;
    let session = py.session("reader");
    let notebook: PyRef = session.call("workshop", "Notebook", ("reader",)).into_ref().await?;
    let home = session.home("default").await.expect("the first call has set it");
    let home_pid: u32 = session.call("workshop", "pid", ()).extract().await?;
    println!("session {} lives in {home}, process {home_pid}", session.id());

    let mut gate = Gate::new()?;
    let held = actix::spawn(notebook.call_method("add_when_told", (gate.path(), "first")).extract::<usize>());
    gate.held().await;
    let queued = actix::spawn(session.call("workshop", "pid", ()).extract::<u32>());
    until_waiting(&py, "default", 1).await;
    println!("the home is busy: the default waits in the queue");

    part("overrides, for one call each, while the home is busy");
    let refused = session.call("workshop", "pid", ()).affinity(Affinity::StrictFailFast);
    let refused = refused.extract::<u32>().await.expect_err("the home is busy");
    println!("strict_fail_fast: {refused}");
    assert_eq!(refused.code(), "worker_busy");
    assert!(refused.is_retryable());

    let elsewhere: u32 = session.call("workshop", "pid", ()).affinity(Affinity::Hint).extract().await?;
    println!("hint: answered by process {elsewhere}");
    assert_ne!(elsewhere, home_pid);
    assert_eq!(session.home("default").await, Some(home.clone()), "a fall-back never moves a home");

    // An object is in one worker only: no override sends a call to where it is not.
    assert_eq!(code(notebook.call_method("read", ()).affinity(Affinity::StrictFailFast).await), "worker_busy");
    let read = actix::spawn(notebook.call_method("read", ()).affinity(Affinity::Hint).extract::<Vec<String>>());
    until_waiting(&py, "default", 2).await;
    println!("hint on an object: waits for the worker that has it");

    gate.open();
    assert_eq!(held.await??, 1);
    assert_eq!(queued.await??, home_pid);
    assert_eq!(read.await??, ["first"]);
    println!("the gate is open: both came to process {home_pid}");
    py.shutdown().await?;

    part("a pool that is told nothing: the default is hint");
    let py = SnakeBridge::from_config(Config::new().pool(support::pool("default", 2))).await?;
    let session = py.session("reader");
    let mut gate = Gate::new()?;
    let held = actix::spawn(session.call("workshop", "hold", (gate.path(),)).extract::<u32>());
    gate.held().await;
    let elsewhere: u32 = session.call("workshop", "pid", ()).extract().await?;
    println!("the home is busy: answered by process {elsewhere}");
    let queued = session.call("workshop", "pid", ()).affinity(Affinity::StrictQueue).extract::<u32>();
    let queued = actix::spawn(queued);
    until_waiting(&py, "default", 1).await;
    gate.open();
    let home_pid = held.await??;
    assert_ne!(elsewhere, home_pid);
    assert_eq!(queued.await??, home_pid);
    println!("strict_queue for one call: waited for process {home_pid}");
    py.shutdown().await?;

    println!("\nall as it should be");
    Ok(())
}
