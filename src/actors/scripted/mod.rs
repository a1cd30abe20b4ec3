//! Test only: the real actors and the real wire code on a clock that stands still, without any Python.
//!
//! At the far ends of their sockets and pages, in the same thread, sit a zygote and workers that do what a
//! seed says; clients use the bridge as programs do. First all goes wrong that may, then nothing any more,
//! and everything must come to rest. `SNAKEBRIDGE_ACTOR_SEEDS` sets how many seeds, `SNAKEBRIDGE_ACTOR_SEED`
//! a single one.

mod calls;
mod clients;
mod faults;
mod reach;
mod witness;
mod worker;
mod world;
mod zygote;

use crate::rules::sim::reach::Reached;
use world::World;

const SEEDS: u64 = 200;
/// With so many every mark must be reached.
const ENOUGH_SEEDS: u64 = 2_000;

#[test]
fn every_seed_keeps_every_promise_and_leaves_nothing_behind() {
    if let Some(seed) = setting("SNAKEBRIDGE_ACTOR_SEED") {
        World::run(seed);
        return;
    }
    let seeds = setting("SNAKEBRIDGE_ACTOR_SEEDS").unwrap_or(SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let reached = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads).map(|part| scope.spawn(move || run_part(part, threads, seeds))).collect();
        let joined = parts.into_iter().map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.fold(Reached::default(), Reached::and)
    });
    if seeds >= ENOUGH_SEEDS {
        reach::check(&reached);
    }
}

fn run_part(part: u64, parts: u64, seeds: u64) -> Reached {
    for seed in (part..seeds).step_by(parts as usize) {
        let story = World::run(seed);
        if seed % 100 == 0 {
            assert_eq!(story, World::run(seed), "seed {seed} does not repeat itself");
        }
    }
    crate::rules::sim::reach::take()
}

#[expect(clippy::disallowed_methods, reason = "the script is told by whoever runs it")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
