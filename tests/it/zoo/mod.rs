//! Hostile Python, a row each, and after each the same strict look at what is left of the bridge.
//!
//! The rows are the sections of the tables beside this file, which can be read without Rust; `row.rs` says what
//! each word means. A row is run in a session of its own, beside a session that lives in another worker of the
//! pool. Then the outcome is as the row says; the other session has all its state and answers, and so has this
//! one if its worker lives; the pool is whole; there are exactly the processes of the bridge, and in the host
//! exactly the descriptors, threads and shared mappings that there were. All rows are played twice, and in the
//! second round the host's memory does not grow. At last the shutdown leaves nothing.
//!
//! `SNAKEBRIDGE_ZOO=<row> cargo test --test it zoo` plays one row.

mod environment;
mod host;
mod keeper;
mod row;

use keeper::play;
use row::{CHOICE, sections};
use serde::de::IgnoredAny;

const TABLES: [&str; 9] =
    ["death", "stuck", "leftovers", "resources", "output", "values", "exceptions", "sabotage", "environment"];

#[test]
fn a_row_that_is_chosen_is_one_of_the_zoo() {
    let Ok(choice) = std::env::var(CHOICE) else { return };
    let is_known = TABLES.iter().any(|table| sections::<IgnoredAny>(table).contains_key(&choice));
    assert!(is_known || host::HOSTS.contains(&choice.as_str()), "no row {choice}");
}

#[test]
fn a_worker_that_dies_in_any_way_takes_nothing_with_it() {
    play("zoo::a_worker_that_dies_in_any_way_takes_nothing_with_it", "death");
}

#[test]
fn a_call_that_does_not_end_is_interrupted_or_killed() {
    play("zoo::a_call_that_does_not_end_is_interrupted_or_killed", "stuck");
}

#[test]
fn what_a_call_leaves_running_ends_with_its_worker() {
    play("zoo::what_a_call_leaves_running_ends_with_its_worker", "leftovers");
}

#[test]
fn a_worker_that_runs_out_of_memory_descriptors_or_disk_harms_itself_alone() {
    play("zoo::a_worker_that_runs_out_of_memory_descriptors_or_disk_harms_itself_alone", "resources");
}

#[test]
fn output_of_any_kind_and_amount_holds_up_nobody() {
    play("zoo::output_of_any_kind_and_amount_holds_up_nobody", "output");
}

#[test]
fn a_result_that_means_ill_is_a_value_a_ref_or_an_error() {
    play("zoo::a_result_that_means_ill_is_a_value_a_ref_or_an_error", "values");
}

#[test]
fn an_exception_that_means_ill_is_described() {
    play("zoo::an_exception_that_means_ill_is_described", "exceptions");
}

#[test]
fn a_worker_whose_interpreter_is_sabotaged_harms_itself_alone() {
    play("zoo::a_worker_whose_interpreter_is_sabotaged_harms_itself_alone", "sabotage");
}
