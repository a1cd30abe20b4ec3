//! One world after the other, on every processor, for as many seeds as one asks.

use super::reach::{self, Reached};
use std::fmt::Debug;
use std::ops::Range;

/// A layer of tests that lives through seeds.
pub(crate) struct Layer {
    /// As in `SNAKEBRIDGE_<NAME>_SEEDS` (how many, or `from..to`) and `SNAKEBRIDGE_<NAME>_SEED` (that one alone).
    pub(crate) name: &'static str,
    /// What `cargo test --lib` calls it.
    pub(crate) filter: &'static str,
    /// As many as nobody minds to wait for.
    pub(crate) seeds: u64,
    /// From so many on every mark must be reached.
    pub(crate) enough: u64,
}

impl Layer {
    /// Runs the seeds that the environment asks for, one in a hundred twice: it must live through the same again.
    /// What the seeds have reached, if they were enough to reach all.
    pub(crate) fn run<T: PartialEq + Debug>(&self, world: impl Fn(u64) -> T + Sync) -> Option<Reached> {
        if let Some(seed) = setting(&format!("SNAKEBRIDGE_{}_SEED", self.name)) {
            world(seed.parse().expect("a seed is a number"));
            return None;
        }
        let asked = setting(&format!("SNAKEBRIDGE_{}_SEEDS", self.name));
        let seeds = asked.map_or(0..self.seeds, |asked| range(&asked));
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let part = |first: u64| {
            for seed in (seeds.start + first..seeds.end).step_by(threads) {
                self.run_one(seed, &world);
            }
            reach::take()
        };
        let reached = std::thread::scope(|scope| {
            let parts: Vec<_> = (0..threads as u64).map(|first| scope.spawn(move || part(first))).collect();
            let joined = parts.into_iter().map(|part| part.join().unwrap_or_else(|it| std::panic::resume_unwind(it)));
            joined.fold(Reached::default(), Reached::and)
        });
        (seeds.end - seeds.start >= self.enough).then_some(reached)
    }

    fn run_one<T: PartialEq + Debug>(&self, seed: u64, world: impl Fn(u64) -> T) {
        let tell = Tell { layer: self, seed };
        let story = world(seed);
        if seed.is_multiple_of(100) {
            assert_eq!(story, world(seed), "seed {seed} does not repeat itself");
        }
        drop(tell);
    }
}

struct Tell<'a> {
    layer: &'a Layer,
    seed: u64,
}

impl Drop for Tell<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (Layer { name, filter, .. }, seed) = (self.layer, self.seed);
            #[expect(clippy::print_stderr, reason = "a failure prints the command that repeats it")]
            {
                eprintln!("repeat with: SNAKEBRIDGE_{name}_SEED={seed} cargo test --lib {filter}");
            }
        }
    }
}

fn range(asked: &str) -> Range<u64> {
    let (from, to) = asked.split_once("..").unwrap_or(("0", asked));
    match (from.parse(), to.parse()) {
        (Ok(from), Ok(to)) => from..to,
        (_, _) => panic!("`{asked}` is neither a number of seeds nor `from..to`"),
    }
}

#[expect(clippy::disallowed_methods, reason = "the tests are told by whoever runs them")]
pub(super) fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
