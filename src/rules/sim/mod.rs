//! Test only: the rules composed with simulated actors, workers and time, for as many seeds as one asks.
//!
//! A seed chooses a pool, sessions, calls, which faults there are, and every delay. First all goes wrong
//! that may (*safety*), then nothing any more, and everything must come to rest (*liveness*).
//! `SNAKEBRIDGE_SIM_SEEDS` sets how many seeds, `SNAKEBRIDGE_SIM_SEED` a single one.

mod actors;
mod callbacks;
mod interrupts;
mod process;
pub(crate) mod random;
pub(crate) mod reach;
mod threads;
mod witness;
mod world;

use world::World;

const SEEDS: u64 = 2_000;

#[test]
fn every_seed_keeps_every_promise_and_comes_to_rest() {
    if let Some(seed) = setting("SNAKEBRIDGE_SIM_SEED") {
        World::run(seed);
        return;
    }
    let seeds = setting("SNAKEBRIDGE_SIM_SEEDS").unwrap_or(SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let reached = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads).map(|part| scope.spawn(move || run_part(part, threads, seeds))).collect();
        let joined = parts.into_iter().map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.fold(reach::Reached::default(), reach::Reached::and)
    });
    if seeds >= SEEDS {
        reached.check();
    }
}

fn run_part(part: u64, parts: u64, seeds: u64) -> reach::Reached {
    for seed in (part..seeds).step_by(parts as usize) {
        let trace = on_failure(seed, || World::run(seed));
        if seed % 100 == 0 {
            let again = on_failure(seed, || World::run(seed));
            assert_eq!(trace, again, "seed {seed} does not repeat itself");
        }
    }
    reach::take()
}

fn on_failure<T>(seed: u64, run: impl FnOnce() -> T) -> T {
    struct Tell(u64);
    impl Drop for Tell {
        fn drop(&mut self) {
            if std::thread::panicking() {
                #[expect(clippy::print_stderr, reason = "a failure prints the command that repeats it")]
                {
                    eprintln!("repeat with: SNAKEBRIDGE_SIM_SEED={} cargo test --lib rules::sim", self.0);
                }
            }
        }
    }
    let tell = Tell(seed);
    let result = run();
    drop(tell);
    result
}

#[expect(clippy::disallowed_methods, reason = "the simulation is told by whoever runs it")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
