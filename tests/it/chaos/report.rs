//! How fast the dead are replaced, under load. A report: times are printed, and none is asserted.

use super::history::{Entry, History, How, Ns, Worker};
use super::nemesis::DEATHS;
use super::{print, run};
use crate::support::until;
use snakebridge::Fact;
use std::collections::BTreeMap;
use std::time::Duration;

const TEST: &str = "chaos::report::how_fast_the_dead_are_replaced_and_what_dies_with_them";
const DEATHS_COUNTED: u64 = 200;

#[test]
#[ignore = "a report, for a machine that does nothing else"]
fn how_fast_the_dead_are_replaced_and_what_dies_with_them() {
    let history = run(TEST, 0, (usize::MAX, Duration::from_secs(60)), async |chaos, nemesis| {
        while nemesis.kills < DEATHS_COUNTED {
            let kills = nemesis.kills;
            nemesis.strike(DEATHS, Duration::from_millis(50)).await;
            // One after the other: a start that waits for another is not what is measured.
            until("the replacement", async || {
                chaos.py.stats().await.pools.iter().all(|pool| pool.ready == pool.size) || nemesis.kills == kills
            })
            .await;
        }
    });
    if let Some(history) = history {
        tell(&history);
    }
}

fn tell(history: &History) {
    let mut exited: BTreeMap<Worker, Ns> = BTreeMap::new();
    let mut ready: BTreeMap<Worker, Ns> = BTreeMap::new();
    for told in &history.told {
        match &told.fact {
            Fact::WorkerExited { worker, .. } => drop(exited.insert(worker.into(), told.at)),
            Fact::WorkerReady { worker } => drop(ready.insert(worker.into(), told.at)),
            _ => {}
        }
    }
    exited.retain(|worker, _| history.killed.contains_key(worker));
    let seen_after = exited.iter().map(|(worker, exit)| exit.saturating_sub(history.killed[worker])).collect();
    let next_of = |worker: &Worker| Worker { generation: worker.generation + 1, ..*worker };
    let ready_since = |from: &BTreeMap<Worker, Ns>| {
        let times = from.iter().filter_map(|(worker, at)| Some(ready.get(&next_of(worker))?.saturating_sub(*at)));
        times.collect::<Vec<_>>()
    };
    percentiles("from a kill to the exit being seen", seen_after);
    percentiles("from the exit to its replacement being ready", ready_since(&exited));
    percentiles("from a kill to its replacement being ready", ready_since(&history.killed));
    let mut crashed: BTreeMap<Worker, u64> = exited.keys().map(|worker| (*worker, 0)).collect();
    for entry in &history.entries {
        if let Entry::Outcome(outcome) = entry
            && let How::Failed { code: "worker_crashed", worker: Some(worker), .. } = outcome.how
        {
            *crashed.entry(worker).or_default() += 1;
        }
    }
    let most = crashed.values().max().copied().unwrap_or_default();
    print(&format!("chaos: {} deaths; calls that crashed with one: {most} at most", exited.len()));
}

fn percentiles(what: &str, mut times: Vec<Ns>) {
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
    let ms = |percent| at(percent).map_or(f64::NAN, |ns| *ns as f64 / 1e6);
    let (p50, p90, p99, most) = (ms(50), ms(90), ms(99), ms(100));
    print(&format!("chaos: {what}, ms: p50 {p50:.2}, p90 {p90:.2}, p99 {p99:.2}, most {most:.2}"));
}
