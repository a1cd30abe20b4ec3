//! A worker dies in every phase of a call, in every way, under every affinity: `expected.txt` says what comes of it.
//!
//! Patches of the worker's loop call `bridge_faults.at` where one phase gives way to the next; a call before the
//! one that is to suffer arms it in that worker alone. What ran is told by the Python functions themselves, which
//! write it to a file. One cell again: `SNAKEBRIDGE_CELL=read/kill/plain/hint cargo test --test it matrix`.

mod expected;

use crate::support::{Dir, SOON, is_alive, pool, start, until, within};
use expected::{Cell, cells, expected};
use futures::StreamExt;
use snakebridge::{Affinity, Call, PoolConfig, PyRef, PyStream, Result, Session, SnakeBridge, Value, WorkerState};
use std::path::Path;
use std::time::{Duration, Instant};

/// The name of the cell to play.
const CHOICE: &str = "SNAKEBRIDGE_CELL";
/// Of calls whose worker is stopped. A cell counts only if the worker was stopped well before.
const DEADLINE: Duration = Duration::from_millis(60);
const WELL_BEFORE: Duration = Duration::from_millis(10);
const GRACE: Duration = Duration::from_millis(100);
/// How often the machine may be too busy for that.
const ATTEMPTS: usize = 50;
/// More wrong cells say nothing new.
const MOST_TOLD: usize = 10;
const FOREVER: Duration = Duration::from_secs(3_600);

#[test]
fn a_death_in_any_phase_has_the_outcome_of_the_table_under_hint() {
    matrix(Affinity::Hint);
}

#[test]
fn a_death_in_any_phase_has_the_outcome_of_the_table_under_strict_queue() {
    matrix(Affinity::StrictQueue);
}

#[test]
fn a_death_in_any_phase_has_the_outcome_of_the_table_under_strict_fail_fast() {
    matrix(Affinity::StrictFailFast);
}

/// On one thread with the bridge, which sees nothing of a death while a cell waits for that.
fn matrix(affinity: Affinity) {
    let only = std::env::var(CHOICE).ok();
    let cells = cells(affinity).into_iter().filter(|cell| only.as_ref().is_none_or(|only| *only == cell.to_string()));
    actix_rt::System::new().block_on(async {
        let mut bench = Bench::start().await;
        let mut wrong = Vec::new();
        for cell in cells {
            let began = Instant::now();
            if let Err(what) = bench.run(&cell).await {
                wrong.push(format!("{what}\n    {CHOICE}={cell} cargo test --test it matrix"));
                // One that hangs is enough; else the next begins anew, whatever this one has left.
                if began.elapsed() >= SOON || wrong.len() == MOST_TOLD {
                    break;
                }
                bench = Bench::start().await;
            }
        }
        bench.py.shutdown().await.unwrap();
        assert!(wrong.is_empty(), "{} cells are wrong at least:\n{}", wrong.len(), wrong.join("\n"));
    });
}

fn config() -> PoolConfig {
    let file = "snakebridge_worker/loop.py";
    let before = |config: PoolConfig, text: &str, phase: &str| {
        let indent = &text[..text.len() - text.trim_start().len()];
        config.patched_for_tests(file, text, format!("{indent}in_phase({phase:?})\n{text}"))
    };
    let after = |config: PoolConfig, text: &str, phase: &str| {
        let indent = &text[..text.len() - text.trim_start().len()];
        config.patched_for_tests(file, text, format!("{text}\n{indent}in_phase({phase:?})"))
    };
    let import = "import importlib\nimport os\n";
    let take = "    while readv(channel, buffers):\n";
    let config = pool("p", 2)
        .cancel_grace(GRACE)
        .restart_budget(usize::MAX, FOREVER)
        .restart_backoff(Duration::ZERO, Duration::ZERO)
        .patched_for_tests(file, import, format!("{import}from bridge_faults import at as in_phase\n"))
        .patched_for_tests(
            file,
            take,
            "    while in_phase(\"idle\", words, received + receiver.received) or readv(channel, buffers):\n",
        );
    let config =
        after(config, "        seq, deadline, place, block, length, count, plan_length = unpack(view)", "read");
    let config = before(config, "        if revoked[seq % REVOKE_WORDS] == seq:", "begun");
    let config = before(config, "                atom = plan.atoms.get(type(value))", "done");
    let codec = "snakebridge_worker/codec.py";
    let reduce = "        reduce = kinds.REDUCERS.get(kind)\n";
    let add = "        ref_id = self._table.add(obj, made)\n";
    let import = "import pickle\n";
    let config = config
        .patched_for_tests(codec, reduce, format!("{reduce}        in_phase(\"pickling\")\n"))
        .patched_for_tests(codec, add, format!("{add}        in_phase(\"pickling\")\n"))
        .patched_for_tests(codec, import, format!("{import}from bridge_faults import at as in_phase\n"));
    let config =
        before(config, "        if type(body) is bytes and not lent and not refs and len(body) <= most:", "pickled");
    let config = after(config, "            write(channel, pack(value_kind, seq, ended, len(body)) + body)", "replied");
    let config = after(
        config,
        "        os.writev(shared.channel, [wire.reply(seq, ended, wire.INLINE, 0, length, released, refs), body])",
        "replied",
    );
    let config = before(config, "        # What is idle must not keep the last call's values alive.", "counted");
    // A batch is over when it is full, or at its end, and not because the machine is slow.
    config.patched_for_tests("snakebridge_worker/streams.py", "SLICE = 0.002", "SLICE = 3600.0")
}

/// A bridge whose workers die, one cell after the other.
struct Bench {
    py: SnakeBridge,
    dir: Dir,
    cells: usize,
}

impl Bench {
    async fn start() -> Self {
        Self { py: start([config()]).await, dir: Dir::new(), cells: 0 }
    }

    async fn run(&mut self, cell: &Cell) -> Result<(), String> {
        for _ in 0..ATTEMPTS {
            self.cells += 1;
            let session = self.py.session(format!("{cell} {}", self.cells));
            let journal = Journal(self.dir.0.join(self.cells.to_string()).to_str().unwrap().to_owned());
            let done = tokio::time::timeout(SOON, self.attempt(cell, &session, &journal)).await;
            match done.unwrap_or_else(|_| Err(format!("nothing within {SOON:?}"))) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(what) => return Err(format!("{cell}: {what}")),
            }
        }
        Err(format!("{cell}: the machine was too busy in {ATTEMPTS} attempts"))
    }

    /// Whether it counts.
    async fn attempt(&self, cell: &Cell, session: &Session, journal: &Journal) -> Result<bool, String> {
        let expected = expected(cell);
        let thing = session.call("bridge_faults", "Thing", ()).into_ref().await.map_err(|error| error.to_string())?;
        // The second batch is the third call.
        let nth = if cell.call == "batch" { 3 } else { 1 };
        let arm = session.call("bridge_faults", "arm", (&journal.0, cell.phase, cell.death, nth));
        let pid = arm.extract::<u32>().await.map_err(|error| error.to_string())?;
        let home = thing.worker().clone();

        let began = now();
        if cell.phase == "granted" {
            journal.open_gate();
            wait_for(cell.death, pid, journal);
        }
        let outcome = self.suffer(cell, session, &thing, journal, pid).await;
        if cell.death == "stop" {
            // A value comes before the worker notes where it is.
            if outcome.is_ok() {
                until("the worker to stop", || async { journal.reached().is_some() }).await;
            } else if journal.reached().is_none_or(|at| at + WELL_BEFORE > began + DEADLINE) {
                self.whole(Some(pid)).await;
                session.release().await.map_err(|error| error.to_string())?;
                return Ok(false);
            }
        }
        journal.go_on();
        let resumed = (cell.death == "stop" && !expected.dies).then_some(pid);
        let found = match &outcome {
            Ok((values, _)) => {
                let all: &[Value] = match cell.call {
                    "opening" => &[],
                    "batch" => &[decimal(0), decimal(1)],
                    _ => &[decimal(1)],
                };
                if values != all {
                    return Err(format!("the value is {values:?}"));
                }
                "value".to_owned()
            }
            Err((error, seen)) => {
                // What was there before stays a prefix.
                if cell.call == "batch" && *seen != [decimal(0)] {
                    return Err(format!("the items before the error are {seen:?}"));
                }
                if error.code() == "worker_crashed" && !error.to_string().contains(cell.says) {
                    return Err(format!("the cause is {error}, and not {}", cell.says));
                }
                format!("{} {:?}", error.code(), error.ran())
            }
        };
        if found != expected.outcome {
            return Err(format!("it ended with {found}, and not with {}: {outcome:?}", expected.outcome));
        }
        if expected.dies {
            until("the end of its worker", || async { self.py.workers().await.iter().all(|worker| worker.id != home) })
                .await;
        }
        self.whole(resumed).await;
        if !expected.dies && self.py.workers().await.iter().all(|worker| worker.id != home) {
            return Err("its worker is gone".to_owned());
        }
        self.afterwards(cell, session, &thing, expected.dies).await?;
        let runs = journal.lines("ran");
        if runs != expected.runs {
            return Err(format!("it ran {runs} times, and not {}", expected.runs));
        }
        drop((thing, outcome));
        session.release().await.map_err(|error| error.to_string())?;
        self.whole(None).await;
        Ok(true)
    }

    /// The call whose worker dies.
    async fn suffer(
        &self,
        cell: &Cell,
        session: &Session,
        thing: &PyRef,
        journal: &Journal,
        pid: u32,
    ) -> Result<(Vec<Value>, Option<PyStream<Value>>), (snakebridge::Error, Vec<Value>)> {
        let args = (&journal.0,);
        let set = |call: Call| {
            let call = call.affinity(cell.affinity);
            if cell.death == "stop" { call.timeout(DEADLINE) } else { call }
        };
        let whole = |outcome: Result<Vec<Value>>| match outcome {
            Ok(value) => Ok((value, None)),
            Err(error) => Err((error, Vec::new())),
        };
        let is_after_reply = matches!(cell.phase, "replied" | "counted") && cell.death != "stop";
        match cell.call {
            "plain" if is_after_reply => {
                let call = set(session.call("bridge_faults", "run", (&journal.0, true))).extract();
                let call = actix_rt::spawn(call);
                until("the call to run", || async { journal.lines("ran") == 1 }).await;
                journal.open_gate();
                // When the bridge looks again, the reply and the death are both there.
                wait_for(cell.death, pid, journal);
                whole(call.await.expect("the task of the call"))
            }
            "plain" => whole(set(session.call("bridge_faults", "run", args)).extract().await),
            "ref" => whole(set(thing.call_method("run", args)).extract().await),
            call => {
                let opening = set(session.call("bridge_faults", "items", args)).stream();
                let mut stream: PyStream<Value> = opening.await.map_err(|error| (error, Vec::new()))?;
                let mut seen = Vec::new();
                if call == "opening" {
                    return Ok((seen, Some(stream)));
                }
                while let Some(item) = stream.next().await {
                    match item {
                        Ok(item) => seen.push(item),
                        Err(error) => return Err((error, seen)),
                    }
                }
                Ok((seen, None))
            }
        }
    }

    /// The pool is at its size, and idle; a worker that was stopped is made to go on.
    async fn whole(&self, stopped: Option<u32>) {
        until("two free workers", || async {
            if let Some(pid) = stopped.and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
                // Again and again: it may be about to stop.
                let _gone = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
            }
            let workers = self.py.workers().await;
            workers.len() == 2 && workers.iter().all(|worker| worker.state == WorkerState::Free)
        })
        .await;
    }

    /// Other sessions know nothing of it; the next call of the session, and its object, fare as they must.
    async fn afterwards(&self, cell: &Cell, session: &Session, thing: &PyRef, dies: bool) -> Result<(), String> {
        let other = self.py.call("math", "sqrt", (4,)).session("bystander").extract::<f64>().await;
        if other.as_ref().ok() != Some(&2.0) {
            return Err(format!("a call of another session: {other:?}"));
        }
        let next = || session.call("math", "sqrt", (4,)).affinity(cell.affinity).extract::<f64>();
        let ended = |outcome: Result<f64>| outcome.map_or_else(|error| error.code(), |_| "value");
        let must = if dies && cell.affinity != Affinity::Hint { "session_worker_unavailable" } else { "value" };
        let found = ended(next().await);
        if found != must {
            return Err(format!("the next call of the session ended with {found}, and not with {must}"));
        }
        session.reset().await.map_err(|error| error.to_string())?;
        next().await.map_err(|error| format!("after a reset: {error}"))?;
        let found = ended(thing.call_method("peek", ()).extract().await);
        let must = if dies { "ref_lost" } else { "value" };
        if found != must {
            return Err(format!("its object: {found}, and not {must}"));
        }
        Ok(())
    }
}

fn decimal(digit: i64) -> Value {
    Value::Decimal(digit.to_string().into())
}

/// Of the monotonic clock, which Python reads too.
fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec.try_into().expect("less than a second"))
}

/// Blocks the thread, and with it the bridge, until the worker has died in that way.
fn wait_for(death: &str, pid: u32, journal: &Journal) {
    let deadline = Instant::now() + SOON;
    let has_died = || match death {
        "closed" | "garbage" => journal.lines("done") == 1,
        "stop" => std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T ")),
        _ => !is_alive(pid),
    };
    while !has_died() {
        assert!(Instant::now() < deadline, "the worker did not die");
        std::thread::yield_now();
    }
}

/// What the Python side wrote of a cell.
struct Journal(String);

impl Journal {
    fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap_or_default()
    }

    fn lines(&self, word: &str) -> usize {
        self.text().lines().filter(|line| *line == word).count()
    }

    /// When the worker came to where it died.
    fn reached(&self) -> Option<Duration> {
        self.text().lines().find_map(|line| line.strip_prefix("reached ")?.parse().ok().map(Duration::from_nanos))
    }

    /// What came unasked behind an awaited message may lie there until the next, so garbage is sent once more.
    fn go_on(&self) {
        std::fs::write(Path::new(&format!("{}.again", self.0)), b"").expect("a file");
    }

    fn open_gate(&self) {
        std::fs::write(Path::new(&format!("{}.gate", self.0)), b"").expect("a gate can be opened");
    }
}

#[tokio::test]
async fn a_patch_that_does_not_fit_fails_the_start_and_says_so() {
    for (file, from, says) in [
        ("snakebridge_worker/loop.py", "import", "times and not once"),
        ("snakebridge_worker/loop.py", "no such text", "0 times"),
        ("snakebridge_worker/none.py", "import", "no file of the workers"),
    ] {
        let config = pool("p", 1).patched_for_tests(file, from, "");
        let error = within("the start", SnakeBridge::builder().pool(config).start()).await.unwrap_err();
        assert_eq!(error.code(), "spawn");
        assert!(error.to_string().contains(says), "{error}");
    }
}
