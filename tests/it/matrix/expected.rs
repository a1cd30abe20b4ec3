//! The cells of the matrix, and what the table says of each.

use snakebridge::Affinity;
use std::fmt;

const TABLE: &str = include_str!("expected.txt");

pub(super) const PHASES: [&str; 10] =
    ["granted", "unread", "read", "begun", "user", "done", "pickling", "pickled", "replied", "counted"];
/// Each death, and what the host says of it where it says why a worker crashed.
pub(super) const DEATHS: [(&str, &str); 7] = [
    ("kill", "signal 9 (SIGKILL)"),
    ("segv", "signal 11 (SIGSEGV)"),
    ("exit0", "exit status 0"),
    ("exit1", "exit status 1"),
    // The host kills who closes its socket.
    ("closed", "killed, it had closed its channel"),
    ("garbage", "it broke the protocol"),
    ("stop", ""),
];
pub(super) const CALLS: [&str; 4] = ["plain", "ref", "opening", "batch"];

/// One death.
#[derive(Clone, Copy)]
pub(super) struct Cell {
    pub(super) phase: &'static str,
    pub(super) death: &'static str,
    pub(super) says: &'static str,
    pub(super) call: &'static str,
    pub(super) affinity: Affinity,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.phase, self.death, self.call, self.affinity)
    }
}

/// All cells of that affinity.
pub(super) fn cells(affinity: Affinity) -> Vec<Cell> {
    let mut cells = Vec::new();
    for phase in PHASES {
        for (death, says) in DEATHS {
            for call in CALLS {
                // The reader of a stream has asked for the second batch before it sees the first.
                if (phase, call) != ("granted", "batch") {
                    cells.push(Cell { phase, death, says, call, affinity });
                }
            }
        }
    }
    cells
}

/// What must come of a cell.
#[derive(Debug)]
pub(super) struct Expected {
    /// `value`, or code and `ran()`.
    pub(super) outcome: &'static str,
    pub(super) runs: usize,
    pub(super) dies: bool,
}

/// What the table says.
pub(super) fn expected(cell: &Cell) -> Expected {
    let mut found = Vec::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).skip(1) {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [phases, deaths, calls, affinities, outcome, runs, worker] = columns[..] else {
            panic!("a line of seven columns: {line}")
        };
        let deaths = match deaths {
            "mortal" => cell.death != "stop",
            "crash" => !matches!(cell.death, "stop" | "garbage"),
            one => one == cell.death,
        };
        let affinities = match affinities {
            "any" => true,
            "hint" => cell.affinity == Affinity::Hint,
            "strict" => cell.affinity != Affinity::Hint,
            other => panic!("an affinity: {other}"),
        };
        let has = |words: &str, word: &str| words.split_whitespace().any(|one| one == word);
        if deaths && affinities && has(phases, cell.phase) && has(calls, cell.call) {
            let runs = runs.parse().expect("how often it ran");
            found.push(Expected { outcome, runs, dies: worker == "dies" });
        }
    }
    assert_eq!(found.len(), 1, "{cell} is matched by one line, and not by {found:?}");
    found.remove(0)
}

#[test]
fn a_cell_that_is_chosen_is_one_of_the_matrix() {
    let Ok(choice) = std::env::var(super::CHOICE) else { return };
    let all = [Affinity::Hint, Affinity::StrictQueue, Affinity::StrictFailFast].into_iter().flat_map(cells);
    assert!(all.map(|cell| cell.to_string()).any(|cell| cell == choice), "no cell {choice}");
}

#[test]
fn every_cell_is_matched_by_exactly_one_line() {
    for affinity in [Affinity::Hint, Affinity::StrictQueue, Affinity::StrictFailFast] {
        for cell in cells(affinity) {
            expected(&cell);
        }
    }
}
