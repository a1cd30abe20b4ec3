//! Every decision, as pure state machines: no clock, no I/O, no random source, no look into a body.
//!
//! Each machine has the same face: `handle_*(…, now)` for what happened, plain verbs for what is
//! wanted, `handle_timeout(now)` when the moment of `poll_timeout()` has come, and `poll_action()`
//! for what is to be done. The shells in `actors/` feed and drain them and decide nothing.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// Notes in test builds that a row of a table was reached; the simulation fails for a row that never was.
macro_rules! reach {
    ($event:expr) => {
        #[cfg(test)]
        crate::rules::sim::reach::hit($event.to_owned());
    };
    ($row:expr, $affinity:expr) => {
        #[cfg(test)]
        crate::rules::sim::reach::hit(format!("{} / {}", $row, $affinity));
    };
}

pub(crate) mod address;
pub(crate) mod forgetting;
pub(crate) mod heartbeat;
pub(crate) mod lane;
pub(crate) mod memory;
pub(crate) mod pending;
pub(crate) mod poison;
pub(crate) mod pool;
pub(crate) mod refs;
pub(crate) mod restart;
pub(crate) mod session;
pub(crate) mod stall;

#[cfg(test)]
pub(crate) mod sim;

#[cfg(test)]
mod tests {
    #[test]
    fn the_rules_import_std_id_config_event_and_each_other_and_nothing_else() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rules");
        let mut files = vec![root];
        let mut read = 0;
        while let Some(path) = files.pop() {
            if path.is_dir() {
                let entries = std::fs::read_dir(&path).expect("the sources are there");
                files.extend(entries.map(|entry| entry.expect("the sources are there").path()));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("the sources are there");
                read += 1;
                let code = text.lines().take_while(|line| *line != "mod tests {");
                for line in code.filter(|line| !line.trim_start().starts_with("//")) {
                    for path_in_line in paths(line) {
                        assert!(is_allowed(&path_in_line), "{}: {line}", path.display());
                    }
                }
            }
        }
        assert!(read > 10, "only {read} files were read");
    }

    #[test]
    fn the_reader_of_imports_sees_what_is_not_allowed() {
        for line in
            ["use crate::actors::Pool;", "    crate::process::fork();", "use tokio::sync::oneshot;", "use std::fs;"]
        {
            assert!(paths(line).iter().any(|path| !is_allowed(path)), "{line}");
        }
    }

    /// What a line imports, and every path of this crate that it names.
    fn paths(line: &str) -> Vec<String> {
        let end = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len());
        let imported = line.trim_start().trim_start_matches("pub(crate) ").strip_prefix("use ");
        let named = line.match_indices("crate::").map(|(at, _)| &line[at..]);
        imported.into_iter().chain(named).map(|text| text[..end(text)].to_owned()).collect()
    }

    fn is_allowed(path: &str) -> bool {
        const OWN: &[&str] = &["crate::id", "crate::config", "crate::event", "crate::rules", "self", "super"];
        const STD: &[&str] =
            &["std::cell", "std::cmp", "std::collections", "std::fmt", "std::ops", "std::sync", "std::time"];
        let is_of = |root: &str| path == root || path.starts_with(&format!("{root}::"));
        // A child of the module that imports it is named without a root.
        OWN.iter().chain(STD).chain(CHILDREN).any(|root| is_of(root))
    }

    const CHILDREN: &[&str] = &[
        "action", "call", "check", "observe", "queue", "renew", "session", "slot", "ticket", "timer", "worker", "world",
    ];
}
