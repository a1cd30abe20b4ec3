//! Test only: the real actors and the real wire code on a clock that stands still, without any Python.
//!
//! At the far ends of their sockets and pages, in the same thread, sit a zygote and workers that do what a
//! seed says; clients use the bridge as programs do. First all goes wrong that may, then nothing any more,
//! and everything must come to rest. `SNAKEBRIDGE_ACTOR_SEEDS` sets how many seeds, or `from..to`,
//! `SNAKEBRIDGE_ACTOR_SEED` a single one.

mod calls;
mod clients;
mod faults;
mod reach;
mod witness;
mod worker;
mod world;
mod zygote;

use crate::rules::sim::seeds::Layer;
use world::World;

#[test]
fn every_seed_keeps_every_promise_and_leaves_nothing_behind() {
    let layer = Layer { name: "ACTOR", filter: "actors::scripted", seeds: 200, enough: 2_000 };
    if let Some(reached) = layer.run(World::run) {
        reach::check(&reached);
    }
}
