//! The options of one session.

use super::OnWorkerLost;
use crate::actors::hold::OnHome;
use std::time::Duration;

/// How a session differs from the defaults of its bridge.
///
/// ```
/// use snakebridge::{OnWorkerLost, SessionOptions};
/// use std::time::Duration;
///
/// let options = SessionOptions::new().ttl(Duration::from_secs(60)).on_worker_lost(OnWorkerLost::Rehome);
/// ```
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    pub(crate) ttl: Option<Duration>,
    pub(crate) max_refs: Option<usize>,
    pub(crate) on_worker_lost: Option<OnWorkerLost>,
    pub(crate) on_home: Option<OnHome>,
}

impl SessionOptions {
    /// The defaults of the bridge.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the session lives after its last use, once nothing holds it. Default: that of the
    /// bridge, 1 hour.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// How many refs it may hold at once; a call that would make one more gets `RefLimit`. Default:
    /// that of the bridge, 10,000.
    pub fn max_refs(mut self, limit: usize) -> Self {
        self.max_refs = Some(limit);
        self
    }

    /// What becomes of it when a home is lost, in whichever pool. Default: as the pool says.
    pub fn on_worker_lost(mut self, then: OnWorkerLost) -> Self {
        self.on_worker_lost = Some(then);
        self
    }
}
