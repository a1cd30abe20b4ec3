//! Test only: the rules composed with simulated actors, workers and time, for as many seeds as one asks.
//!
//! A seed chooses a pool, sessions, calls, which faults there are, and every delay. First all goes wrong
//! that may (*safety*), then nothing any more, and everything must come to rest (*liveness*).
//! `SNAKEBRIDGE_SIM_SEEDS` sets how many seeds, or `from..to`, `SNAKEBRIDGE_SIM_SEED` a single one.

mod actors;
mod callbacks;
mod interrupts;
mod process;
pub(crate) mod random;
pub(crate) mod reach;
mod replay;
pub(crate) mod seeds;
mod sessions;
mod threads;
mod witness;
mod world;

use self::seeds::Layer;
use crate::id::SessionKey;
use world::World;

/// An own name for each, since events name sessions by that.
fn session_key(number: u64) -> SessionKey {
    SessionKey::new(format!("s{number}").into(), number)
}

#[test]
fn every_seed_keeps_every_promise_and_comes_to_rest() {
    let layer = Layer { name: "SIM", filter: "rules::sim", seeds: 2_000, enough: 2_000 };
    if let Some(reached) = layer.run(World::run) {
        reached.check();
    }
}
