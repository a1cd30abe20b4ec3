//! The host of snakebridge in `peers.py`, which has the table of who loses, hangs or leaves what.
//!
//! Plays one case with a pool of two workers, and says in a line of JSON what became of its calls.

use futures::future::join_all;
use serde_json::{Map, Value, json};
use snakebridge::{Call, PoolConfig, Result, SnakeBridge};
use std::path::Path;
use std::time::{Duration, Instant};

/// A call that has not answered by then is taken for lost.
const PATIENCE: Duration = Duration::from_secs(10);

#[actix::main]
async fn main() -> Result<()> {
    let Some(case) = std::env::args().skip(1).find(|argument| !argument.starts_with("--")) else {
        return Ok(());
    };
    let tasks = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/deaths");
    let py = SnakeBridge::builder().pool(PoolConfig::new("p").size(2).python_path(tasks)).start().await?;
    let call = |name: &str| py.call("tasks", name, ());
    let sleep = |seconds: f64| py.call("tasks", "sleep", (seconds,));
    let mut say = Map::new();
    match case.as_str() {
        "exits" | "segfaults" | "leaves" | "raises_what_does_not_unpickle" | "returns_what_does_not_pickle" => {
            let victim = outcome(py.call("tasks", case.as_str(), (0.5,)));
            let beside = outcome(sleep(1.5));
            let waiting = outcome(py.call("tasks", "value", (1,)));
            let (victim, beside, waiting) = futures::join!(victim, beside, waiting);
            say.extend([("victim".into(), victim), ("beside".into(), beside), ("waiting".into(), waiting)]);
            say.insert("next".into(), outcome(py.call("tasks", "value", (2,))).await);
        }
        "kill_idle" | "stop_idle" => {
            let signal =
                if case == "kill_idle" { rustix::process::Signal::KILL } else { rustix::process::Signal::STOP };
            let pid = py.workers().await[0].pid;
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a worker has a pid");
            rustix::process::kill_process(pid, signal).expect("it lives");
            tokio::time::sleep(Duration::from_millis(300)).await;
            say.insert("next".into(), worst(join_all((0..4).map(|_| outcome(sleep(0.2)))).await));
        }
        "endless" => {
            let _given_up = tokio::time::timeout(Duration::from_secs(1), call("endless").discard()).await;
            tokio::time::sleep(Duration::from_secs(4)).await;
            let begin = Instant::now();
            let both = worst(join_all((0..2).map(|_| outcome(sleep(1.0)))).await);
            let took = begin.elapsed().as_secs_f64();
            let one_less = both["how"] == "value" && took > 1.8;
            say.insert(
                "next".into(),
                if one_less { json!({"how": "**one worker less**", "after": took}) } else { both },
            );
        }
        "child" => call("starts_a_child").discard().await?,
        "daemon" | "host_daemon" => call("starts_a_daemon").discard().await?,
        "host_busy" => {
            for _ in 0..2 {
                actix_rt::spawn(call("endless").discard());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        "host_idle" => {}
        other => panic!("there is no case {other}"),
    }
    line(&Value::Object(say).to_string());
    if case.starts_with("host_") {
        std::future::pending::<()>().await;
    }
    py.shutdown().await?;
    line("closed");
    Ok(())
}

async fn outcome(call: Call) -> Value {
    let begin = Instant::now();
    let how = match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(_)) => "value".to_owned(),
        Ok(Err(error)) => error.python().map_or(error.code(), |raised| raised.type_name()).to_owned(),
        Err(_) => "none".to_owned(),
    };
    json!({"how": how, "after": begin.elapsed().as_secs_f64()})
}

fn worst(outcomes: Vec<Value>) -> Value {
    outcomes.into_iter().max_by_key(|outcome| outcome["how"] != "value").unwrap_or_default()
}

#[expect(clippy::print_stdout, reason = "what became of the calls is what it is for")]
fn line(text: &str) {
    println!("{text}");
}
