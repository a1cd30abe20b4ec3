//! What a body may ask of the one who reads it.

/// The limits of one body. A body past one of them is refused before it costs more.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    /// Values, counted as often as they are reached.
    pub(crate) nodes: u64,
    /// Refs that one reply may make.
    pub(crate) refs: usize,
    /// Bytes of one integer.
    pub(crate) int_bytes: usize,
}

impl Budget {
    /// Containers in containers. CPython's own pickler stops at about 500 up to 3.11.
    pub(crate) const DEPTH: usize = super::ser::MAX_DEPTH;
    /// A body of n bytes describes at most 64 n + 1,000 values; without sharing it is one per byte.
    pub(super) const NODES_PER_BYTE: u64 = 64;
    pub(super) const NODES_FREE: u64 = 1_000;
}

impl Default for Budget {
    fn default() -> Self {
        Self { nodes: 10_000_000, refs: 10_000, int_bytes: 1 << 20 }
    }
}
