//! Test only: the real actors and the real wire code on a clock that stands still, without any Python.
//!
//! At the far ends of their sockets and pages, in the same thread, sit a zygote and workers that do what a
//! seed says; clients use the bridge as programs do. First all goes wrong that may, then nothing any more,
//! and everything must come to rest. `SNAKEBRIDGE_ACTOR_SEEDS` sets how many seeds, or `from..to`,
//! `SNAKEBRIDGE_ACTOR_SEED` a single one.

mod calls;
mod clients;
mod faults;
mod overruns;
mod reach;
mod witness;
mod worker;
mod world;
mod zygote;

use crate::rules::sim::seeds::Layer;
use std::process::Command;
use world::World;

/// Says that this process runs nothing else.
const ALONE: &str = "SNAKEBRIDGE_ACTORS_ALONE";

/// In a process of its own: what another test forks holds copies of all descriptors until it executes its program,
/// so that an end that was closed is not seen to be, while a clock that stands still goes on by seconds.
#[test]
fn every_seed_keeps_every_promise_and_leaves_nothing_behind() {
    #[expect(clippy::disallowed_methods, reason = "the child is told by its parent")]
    if std::env::var_os(ALONE).is_none() {
        let mut alone = Command::new(std::env::current_exe().expect("this program has a path"));
        let test = "actors::scripted::every_seed_keeps_every_promise_and_leaves_nothing_behind";
        let output = alone.args(["--exact", test, "--nocapture"]).env(ALONE, "1").output().expect("it can be started");
        let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
        return;
    }
    let layer = Layer { name: "ACTOR", filter: "actors::scripted", seeds: 200, enough: 2_000 };
    // What a process opens once, it has then.
    World::run(0);
    let before = descriptors();
    let reached = layer.run(World::run);
    assert_eq!(descriptors(), before, "descriptors are left");
    if let Some(reached) = reached {
        reach::check(&reached);
    }
}

/// Each with what it is of, but for the one that looks.
fn descriptors() -> Vec<String> {
    let open = std::fs::read_dir("/proc/self/fd").expect("there is /proc").filter_map(|entry| {
        let path = entry.ok()?.path();
        Some(format!("{}: {}", path.display(), std::fs::read_link(&path).ok()?.display()))
    });
    let mut open: Vec<String> = open.filter(|one| !one.contains(": /proc/")).collect();
    open.sort();
    open
}
