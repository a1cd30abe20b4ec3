//! What only the crate itself can do to a real bridge.

mod crossing;
mod panics;
mod told_once;

use crate::config::PoolConfig;
use crate::error::{Error, Ran, Result};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Tells a hang from an answer.
const SOON: Duration = Duration::from_secs(20);

fn pool(name: &str) -> PoolConfig {
    let helpers = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/py");
    PoolConfig::new(name).size(1).python_path(helpers).shutdown_grace(Duration::from_millis(300))
}

fn outcome<T>(outcome: Result<T>) -> Result<T, (&'static str, Ran)> {
    outcome.map_err(|error: Error| (error.code(), error.ran()))
}

async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("{what} did not end within {SOON:?}"))
}

async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let deadline = Instant::now() + SOON;
    while !ask().await {
        assert!(Instant::now() < deadline, "{what} did not come about within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Whether a process is there and no zombie.
fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, Some('Z' | 'X') | None)
}
