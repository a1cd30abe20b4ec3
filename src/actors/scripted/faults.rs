//! What goes wrong in a world.

use super::world::World;
use crate::api::SnakeBridge;
use crate::rules::sim::random::Random;
use crate::rules::sim::reach::hit;
use std::sync::Arc;
use std::time::Duration;

/// What goes wrong in this one.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// Workers die: from outside, in any phase of a call, and while they start.
    pub(super) kills: bool,
    pub(super) deaths: bool,
    pub(super) failed_starts: bool,
    pub(super) failed_zygotes: bool,
    pub(super) zygote_deaths: bool,
    /// They stop for a while, or run for ever, and may not heed that they are to end.
    pub(super) stops: bool,
    pub(super) long_calls: bool,
    pub(super) deafness: bool,
    /// They say what they must not, or close their channel.
    pub(super) violations: bool,
    /// What ends is told late, or in another order.
    pub(super) late_news: bool,
    pub(super) orphans: bool,
    pub(super) no_fence: bool,
    pub(super) taints: bool,
    pub(super) renewals: bool,
    pub(super) restarts: bool,
    pub(super) resizes: bool,
    pub(super) reloads: bool,
    pub(super) resets: bool,
    pub(super) releases: bool,
    pub(super) give_ups: bool,
    pub(super) deadlines: bool,
    pub(super) shutdown: bool,
}

impl Faults {
    pub(super) fn choose(random: &mut Random) -> Self {
        if random.one_in(8) {
            return Self::default();
        }
        let mut fault = |n| random.one_in(n);
        Self {
            kills: fault(3),
            deaths: fault(3),
            failed_starts: fault(4),
            failed_zygotes: fault(4),
            zygote_deaths: fault(4),
            stops: fault(4),
            long_calls: fault(3),
            deafness: fault(3),
            violations: fault(4),
            late_news: fault(2),
            orphans: fault(4),
            no_fence: fault(8),
            taints: fault(3),
            renewals: fault(3),
            restarts: fault(4),
            resizes: fault(4),
            reloads: fault(6),
            resets: fault(3),
            releases: fault(3),
            give_ups: fault(2),
            deadlines: fault(2),
            shutdown: fault(4),
        }
    }

    pub(super) fn are_none(&self) -> bool {
        format!("{self:?}") == format!("{:?}", Self::default())
    }

    /// Strict calls find their state where it was, or are refused.
    pub(super) fn homes_are_kept(&self) -> bool {
        !(self.zygote_deaths
            || self.renewals
            || self.restarts
            || self.resizes
            || self.reloads
            || self.resets
            || self.releases)
    }
}

/// Does what goes wrong from outside, until the world is calm.
pub(super) async fn nemesis(world: Arc<World>, py: SnakeBridge) {
    let faults = &world.faults;
    loop {
        world.pause(25).await;
        if world.is_calm() {
            break;
        }
        let worker = world.some_worker();
        match (world.below(10), worker) {
            (0 | 1, Some((_, process))) if faults.kills => {
                hit("killed from outside".into());
                process.kill.notify_one();
            }
            (2, _) if faults.zygote_deaths => world.kill_a_zygote(),
            (3, Some((_, process))) if faults.stops => {
                hit("stopped".into());
                let how_long = if world.one_in(2) { 1_000 } else { 40 };
                process.stop_for(Duration::from_millis(world.below(how_long)));
            }
            (4, Some((id, _))) if faults.taints => {
                let how_long = Duration::from_millis(world.below(60));
                let tainted = py.taint(&id, how_long, "on a whim").await;
                world.note(|| format!("taint {id}: {}", said(&tainted)));
            }
            (5, Some((id, _))) if faults.taints => {
                let cleared = py.clear_taint(&id).await;
                world.note(|| format!("clear {id}: {}", said(&cleared)));
            }
            (6, Some((id, _))) if faults.restarts => world.in_background("restarted", py.restart_worker(&id)),
            (7, _) if faults.resizes => {
                let size = world.between(1, 3) as usize;
                world.set_size(size);
                world.in_background("resized", py.resize("p", size));
            }
            (8, _) if faults.reloads => world.in_background("reloaded", py.reload("p")),
            (9, _) if faults.shutdown && world.one_in(2) => {
                hit("shut down at any moment".into());
                world.begin_shutdown();
                world.in_background("shut down", py.shutdown());
            }
            _ => {}
        }
    }
    while !world.is_over() {
        clear_taints(&py).await;
        world.pause(25).await;
    }
}

/// That of one whose call has raised `MemoryError` would last for a minute.
pub(super) async fn clear_taints(py: &SnakeBridge) {
    for worker in py.workers().await {
        if worker.tainted.is_some() {
            let _gone = py.clear_taint(&worker.id).await;
        }
    }
}

pub(super) fn said<T>(outcome: &crate::error::Result<T>) -> &'static str {
    outcome.as_ref().map_or_else(|error| error.code(), |_| "done")
}
