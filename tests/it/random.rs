//! A generator whose stream follows from its seed.

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

pub(crate) struct Random(TestRng);

impl Random {
    /// One of several independent ones of a seed.
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        Self(TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn percent(&mut self, of_a_hundred: u64) -> bool {
        self.below(100) < of_a_hundred
    }

    /// From 0 up to the bound, each order of magnitude as likely as the other.
    pub(crate) fn log_uniform(&mut self, most: u64) -> u64 {
        let digits = u64::from(most.ilog2()) + 2;
        let bits = self.below(digits);
        if bits == 0 { 0 } else { ((1 << (bits - 1)) + self.below(1 << (bits - 1))).min(most) }
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}
