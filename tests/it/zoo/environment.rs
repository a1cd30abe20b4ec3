//! The environment in which Python is started, a row each: the bridge starts and works, or says why it does not.

use super::keeper::{Belongings, Checked, apart, come_about, left_over, ok, soon};
use super::row::{chosen, sections};
use crate::support::{Dir, pool};
use serde::Deserialize;
use snakebridge::{SnakeBridge, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// A section of the table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    #[serde(default)]
    files: BTreeMap<String, String>,
    /// Whether the folder of the files is the working directory of the host.
    #[serde(default)]
    here: bool,
    /// And is it gone.
    #[serde(default)]
    deleted: bool,
    /// `FOLDER` stands for that of the files.
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    preload: Vec<String>,
    #[serde(default = "five")]
    call: String,
    /// `value` and the value of the call, or the code of the error of the start and a part of its text; ` | `
    /// stands between what different versions of Python do.
    outcome: String,
}

fn five() -> String {
    "5".to_owned()
}

#[test]
fn a_bridge_starts_in_any_environment_or_says_why_it_does_not() {
    let mut rows: BTreeMap<String, Start> = sections("environment");
    rows.retain(|name, _| chosen(name));
    if rows.is_empty() {
        return;
    }
    apart("zoo::environment::a_bridge_starts_in_any_environment_or_says_why_it_does_not", || {
        let home = std::env::current_dir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut failures = Vec::new();
        for (name, row) in &rows {
            if let Err(why) = runtime.block_on(row.play()) {
                failures.push(format!("row {name}: {why}\n    SNAKEBRIDGE_ZOO={name} cargo test --test it zoo"));
            }
            std::env::set_current_dir(&home).unwrap();
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    });
}

impl Start {
    async fn play(&self) -> Checked {
        let before = Belongings::now();
        let dir = Dir::new();
        for (name, text) in &self.files {
            std::fs::write(dir.0.join(name), text).unwrap();
        }
        let folder = dir.0.to_str().unwrap().to_owned();
        let mut config = pool("p", 1)
            .preload(self.preload.clone())
            .start_timeout(Duration::from_secs(10))
            .restart_budget(3, Duration::from_secs(60))
            .restart_backoff(Duration::ZERO, Duration::ZERO);
        for (name, value) in &self.env {
            config = config.env(name, value.replace("FOLDER", &folder));
        }
        if self.here {
            std::env::set_current_dir(&folder).unwrap();
        } else {
            config = config.python_path(&folder);
        }
        let dir = (!self.deleted).then_some(dir);
        let wanted: Vec<_> = self.outcome.split(" | ").map(|said| said.split_once(' ').unwrap_or((said, ""))).collect();
        match soon("the start", SnakeBridge::builder().pool(config).start()).await? {
            Ok(py) => {
                let value = wanted.iter().find(|(code, _)| *code == "value");
                let used = match value {
                    Some((_, value)) => self.used(&py, value).await,
                    None => Err(format!("it should not start: {}", self.outcome)),
                };
                ok("the shutdown", py.shutdown()).await?;
                used?;
            }
            Err(error) => {
                let text = error.to_string();
                if !wanted.iter().any(|(code, part)| error.code() == *code && text.contains(part)) {
                    return Err(format!("it did not start: {} {text}", error.code()));
                }
            }
        }
        drop(dir);
        come_about(async || left_over()).await?;
        come_about(async || before.same_as(&Belongings::now())).await
    }

    /// A call, a death, and a call to the next worker.
    async fn used(&self, py: &SnakeBridge, expected: &str) -> Checked {
        for generation in 1..=2 {
            let value: Value = ok("the call", py.session("s").eval(self.call.as_str())).await?;
            if value.to_string() != expected {
                return Err(format!("generation {generation} says {value}"));
            }
            ok("the release", py.session("s").release()).await?;
            if generation == 1 {
                let died = soon("the death", py.session("dies").call("os", "_exit", (3,)).discard()).await?;
                if !died.as_ref().is_err_and(|error| error.code() == "worker_crashed") {
                    return Err(format!("the death came to {died:?}"));
                }
            }
        }
        Ok(())
    }
}
