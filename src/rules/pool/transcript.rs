//! Runs the transcripts in `testdata/`: each line is a command and what the pool must say to it.
//!
//! A section starts with `# row: …`, the row and column of a table in the semantics that it shows, and
//! with a `pool` line. `-> nothing` is an answer too. The answers are the actions in their order, then
//! each call that came to wait for something else than before.

use super::call::{Stage, Target};
use super::{Action, Place, Pool, PoolRules, Purpose, Refusal, Ticket};
use crate::config::{Affinity, OnWorkerLost, PoolConfig};
use crate::event::Fact;
use crate::id::{CallId, SessionKey, WorkerId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const FILES: &[(&str, &str)] = &[
    ("hint.txt", include_str!("testdata/hint.txt")),
    ("strict_queue.txt", include_str!("testdata/strict_queue.txt")),
    ("strict_fail_fast.txt", include_str!("testdata/strict_fail_fast.txt")),
    ("happens.txt", include_str!("testdata/happens.txt")),
    ("queue.txt", include_str!("testdata/queue.txt")),
    ("send_ahead.txt", include_str!("testdata/send_ahead.txt")),
    ("retiring.txt", include_str!("testdata/retiring.txt")),
    ("renewal.txt", include_str!("testdata/renewal.txt")),
    ("restarts.txt", include_str!("testdata/restarts.txt")),
    ("streams.txt", include_str!("testdata/streams.txt")),
    ("rebuild.txt", include_str!("testdata/rebuild.txt")),
    ("namespace.txt", include_str!("testdata/namespace.txt")),
    ("callbacks.txt", include_str!("testdata/callbacks.txt")),
];

/// Every cell of the routing table from the rows of refs on, and of the table of what happens. The
/// rows above those are in `address.rs`.
const ROWS: &[(&str, &[&str])] = &[
    ("refs, worker gone", AFFINITIES),
    ("refs, worker tainted", AFFINITIES),
    ("refs, worker free", AFFINITIES),
    ("refs, worker busy", AFFINITIES),
    ("no namespace, a worker free", AFFINITIES),
    ("namespace elsewhere", AFFINITIES),
    ("namespace, worker gone", AFFINITIES),
    ("namespace, worker tainted", AFFINITIES),
    ("namespace, worker free", AFFINITIES),
    ("namespace, worker busy", AFFINITIES),
    ("no home, a worker free", AFFINITIES),
    ("no home, none free", AFFINITIES),
    ("home free", AFFINITIES),
    ("home busy", AFFINITIES),
    ("home tainted", AFFINITIES),
    ("home lost", AFFINITIES),
    ("home lost, rehome", AFFINITIES),
    ("queue full", AFFINITIES),
    ("degraded", AFFINITIES),
    ("queue timeout", &["hint", "strict_queue"]),
    ("taint", PLACES),
    ("death", PLACES),
    ("degraded and the last worker gone", &["waiting"]),
    ("reset", PLACES),
    ("release", PLACES),
    ("shutdown", PLACES),
    ("opening, the home busy", AFFINITIES),
];
const AFFINITIES: &[&str] = &["hint", "strict_queue", "strict_fail_fast"];
const PLACES: &[&str] = &["waiting", "ahead", "running"];

#[test]
fn every_transcript_holds() {
    let mut wrong = String::new();
    for (file, text) in FILES {
        let mut desk = None;
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let (command, expected) = line.split_once("->").unwrap_or((line, ""));
            let (command, expected) = (command.trim(), expected.trim());
            if let Some(pool) = command.strip_prefix("pool ") {
                desk = Some(Desk::new(pool));
                continue;
            }
            let desk = desk.as_mut().unwrap_or_else(|| panic!("{file}:{number}: no pool yet"));
            let said = desk.run(command);
            if said != expected {
                wrong += &format!("{file}:{number}: {command}\n  expected {expected}\n  said     {said}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn every_cell_of_the_tables_has_a_section() {
    let sections: Vec<&str> =
        FILES.iter().flat_map(|(_, text)| text.lines()).filter_map(|line| line.strip_prefix("# row: ")).collect();
    for (row, columns) in ROWS {
        for column in *columns {
            let cell = format!("{row} / {column}");
            assert!(sections.contains(&cell.as_str()), "no section `# row: {cell}`");
        }
    }
    for (file, text) in FILES {
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with("##")).collect();
        for pair in lines.windows(2).filter(|pair| pair[0].starts_with("# row: ")) {
            assert!(!pair[1].starts_with("# row: "), "{file}: `{}` shows nothing", pair[0]);
        }
    }
}

struct Desk {
    pool: Pool,
    now: Instant,
    calls: BTreeMap<String, CallId>,
    names: BTreeMap<CallId, String>,
    sessions: BTreeMap<String, SessionKey>,
    waits: BTreeMap<CallId, Target>,
}

impl Desk {
    fn new(settings: &str) -> Self {
        let settings = Options::read(settings);
        let mut config = PoolConfig::new("p").size(settings.number("size").unwrap_or(1));
        config = config.affinity(settings.affinity().unwrap_or_default());
        config = config.concurrency(settings.number("concurrency").unwrap_or(1));
        config = config.max_queue_size(settings.number("max_queue_size").unwrap_or(100));
        config = config.max_queue_bytes(settings.number("max_queue_bytes").unwrap_or(1000));
        if let Some(deaths) = settings.number("budget") {
            config = config.restart_budget(deaths, Duration::from_secs(60));
        }
        if settings.is_set("rehome") {
            config = config.on_worker_lost(OnWorkerLost::Rehome);
        }
        if let Some(calls) = settings.number("max_requests") {
            config = config.max_requests(calls);
        }
        if let Some(age) = settings.value("max_age") {
            config = config.max_age(duration(&age));
        }
        let mut rules = PoolRules::from(&config);
        rules.send_ahead = settings.number("send_ahead").unwrap_or(0);
        let mut desk = Self {
            pool: Pool::new(rules),
            now: now(),
            calls: BTreeMap::new(),
            names: BTreeMap::new(),
            sessions: BTreeMap::new(),
            waits: BTreeMap::new(),
        };
        if !settings.is_set("unstarted") {
            desk.pool.start(desk.now);
            for slot in 0..desk.pool.rules.size as u32 {
                desk.pool.handle_ready(&WorkerId::new("p".into(), slot, 1), desk.now);
            }
            desk.said();
        }
        desk
    }

    fn run(&mut self, command: &str) -> String {
        let options = Options::read(command);
        let words = &options.words;
        let (verb, at) = (words[0].as_str(), self.now);
        if verb != "settled?" {
            // That is of the step before.
            self.pool.take_settled();
        }
        match verb {
            "ticket" => self.ticket(&options),
            "over" => self.pool.handle_lease_over(self.calls[&words[1]], options.number("pins").unwrap_or(0), at),
            "withdraw" => {
                self.pool.handle_withdrawn(self.calls[&words[1]], at);
            }
            "taken_back" => self.pool.handle_taken_back(self.calls[&words[1]], at),
            "kept" => self.pool.handle_kept(self.calls[&words[1]], at),
            "passed" => self.pool.handle_passed(self.calls[&words[1]], &worker(&words[2]), at),
            "returned" => self.pool.handle_lease_returned(self.calls[&words[1]], &worker(&words[2]), at),
            "unpin" => {
                let session = self.session(&words[1]);
                self.pool.handle_unpinned(&session, &worker(&words[2]), options.number("pins").unwrap_or(1), at);
            }
            "callback" => self.pool.handle_callback(self.calls[&words[1]], at),
            "callback_over" => self.pool.handle_callback_over(self.calls[&words[1]], at),
            "rebuilt" => self.pool.handle_rebuilt(self.calls[&words[1]], &worker(&words[2]), at),
            "rebuild_failed" => self.pool.handle_rebuild_failed(self.calls[&words[1]], &worker(&words[2]), at),
            "start" => self.pool.start(at),
            "ready" => self.pool.handle_ready(&worker(&words[1]), at),
            "start_failed" => {
                let is_permanent = options.is_set("permanent");
                self.pool.handle_start_failed(&worker(&words[1]), words[2].clone(), is_permanent, at);
            }
            "exit" => {
                let begun = options.value("begun").unwrap_or_default();
                let begun = begun.split(',').filter_map(|name| self.calls.get(name).copied()).collect();
                self.pool.handle_exit(&worker(&words[1]), words[2].clone(), begun, at);
            }
            "taint" => {
                let known = self.pool.taint(&worker(&words[1]), duration(&words[2]), "why".into(), at);
                assert!(known.is_ok(), "{command}: no such worker");
            }
            "clear" => assert!(self.pool.clear_taint(&worker(&words[1]), at).is_ok(), "{command}: no such worker"),
            "restart" => assert!(self.pool.restart_worker(&worker(&words[1]), at).is_ok(), "{command}: no such worker"),
            "renew" => self.pool.renew(&worker(&words[1]), "why".into(), at),
            "reload" => self.pool.reload(at),
            "resize" => self.pool.resize(words[1].parse().expect("a number"), at),
            "zygote_lost" => self.pool.handle_zygote_lost(at),
            "reset" => {
                let session = self.session(&words[1]);
                self.pool.reset(&session, at);
            }
            "forget" => {
                let session = self.session(&words[1]);
                self.pool.forget(&session, at);
            }
            "shutdown" => self.pool.shutdown(at),
            "advance" => self.advance(duration(&words[1])),
            "home?" => {
                let session = self.session(&words[1]);
                return self.pool.home(&session).map_or("none".into(), |home| home.to_string());
            }
            "settled?" => {
                return match self.pool.given_up().cloned() {
                    Some(cause) => cause.to_string(),
                    None if self.pool.take_settled() || self.pool.is_settled() => "yes".into(),
                    None => "no".into(),
                };
            }
            other => panic!("no command {other}"),
        }
        self.said()
    }

    fn ticket(&mut self, options: &Options) {
        let name = options.words[1].clone();
        let call = CallId(self.names.len() as u64 + 1);
        self.calls.insert(name.clone(), call);
        self.names.insert(call, name);
        let session = self.session(&options.value("session").expect("a ticket has a session"));
        let timeout = options.value("timeout").map(|text| duration(&text));
        self.pool.handle_ticket(
            Ticket {
                call,
                session,
                purpose: match () {
                    () if options.is_set("opening") => Purpose::Opening,
                    () if options.is_set("continuing") => Purpose::Continuing,
                    () if options.value("under").is_some() => {
                        Purpose::Rebuilding { under: self.calls[&options.value("under").unwrap_or_default()] }
                    }
                    () => Purpose::Call,
                },
                rebuilds: options.is_set("rebuilds"),
                tree: options.value("tree").map(|root| self.calls[&root]),
                has_ended: options.is_set("ended"),
                affinity: options.affinity(),
                pinned_to: options.value("refs").map(|text| worker(&text)),
                uses_namespace: options.is_set("namespace"),
                deadline: timeout.map(|timeout| self.now + timeout),
                timeout,
                queue_timeout: options.value("queue_timeout").map(|text| duration(&text)),
                bytes: options.number("bytes").unwrap_or(1),
                on_worker_lost: options.is_set("rehome").then_some(OnWorkerLost::Rehome),
            },
            self.now,
        );
    }

    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        while let Some(at) = self.pool.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.pool.handle_timeout(self.now);
        }
        self.now = until;
    }

    fn session(&mut self, name: &str) -> SessionKey {
        let next = self.sessions.len() as u64 + 1;
        self.sessions.entry(name.into()).or_insert_with(|| SessionKey::new(name.into(), next)).clone()
    }

    fn said(&mut self) -> String {
        let mut said = Vec::new();
        while let Some(action) = self.pool.poll_action() {
            said.extend(self.say(action));
        }
        let waits: BTreeMap<CallId, Target> = self
            .pool
            .calls
            .iter()
            .filter_map(|(id, call)| match call.stage {
                Stage::Waiting(target) => Some((*id, target)),
                Stage::Routing | Stage::Running(_) | Stage::Ahead(_) => None,
            })
            .collect();
        for (id, target) in &waits {
            if self.waits.get(id) != Some(target) {
                let target = match target {
                    Target::Any => "any".into(),
                    Target::Worker(Place { slot, generation }) => format!("p/{slot}#{generation}"),
                };
                said.push(format!("wait {} for {target}", self.names[id]));
            }
        }
        self.waits = waits;
        if said.is_empty() { "nothing".into() } else { said.join("; ") }
    }

    fn say(&self, action: Action) -> Option<String> {
        Some(match action {
            Action::Grant { call, worker, on, rebuild, .. } => {
                let how = on.map_or(String::new(), |base| format!(" on {}", self.names[&base]));
                let then = if rebuild { " to rebuild" } else { "" };
                format!("grant {} {worker}{how}{then}", self.names[&call])
            }
            Action::Refuse { call, refusal, .. } => format!("refuse {} {}", self.names[&call], refused(&refusal)),
            Action::TakeBack { call, worker } => format!("take_back {} {worker}", self.names[&call]),
            Action::DropTakeBack { call, worker } => format!("drop_take_back {} {worker}", self.names[&call]),
            Action::Start { worker } => format!("start {worker}"),
            Action::Stop { worker } => format!("stop {worker}"),
            Action::Kill { worker, cause: _ } => format!("kill {worker}"),
            Action::LeasesClosed { worker } => format!("leases_closed {worker}"),
            Action::Forgotten { session, namespace: None } => format!("forgotten {session}"),
            Action::Forgotten { session, namespace: Some(worker) } => format!("forgotten {session} namespace {worker}"),
            Action::Ready => "all_ready".into(),
            Action::Degraded { cause, permanent: false } => format!("degraded {cause}"),
            Action::Degraded { cause, permanent: true } => format!("degraded for good {cause}"),
            Action::Stopped => "stopped".into(),
            Action::Emit(Fact::SessionHomed { session, worker }) => format!("home {session} {worker}"),
            Action::Emit(Fact::SessionHomeLost { session, worker }) => format!("home_lost {session} {worker}"),
            Action::Emit(Fact::SessionHomeForgotten { session, worker }) => {
                format!("home_forgotten {session} {worker}")
            }
            Action::Emit(Fact::WorkerTainted { worker, .. }) => format!("tainted {worker}"),
            Action::Emit(Fact::WorkerUntainted { worker }) => format!("untainted {worker}"),
            Action::Emit(Fact::WorkerRetiring { worker, .. }) => format!("retiring {worker}"),
            Action::Emit(Fact::WorkerExited { worker, expected: true, .. }) => format!("exited {worker} as asked"),
            Action::Emit(Fact::WorkerExited { worker, expected: false, .. }) => format!("exited {worker}"),
            Action::Emit(Fact::WorkerReady { worker }) => format!("ready {worker}"),
            Action::Emit(Fact::PoolRecovered { .. }) => "recovered".into(),
            // Each of these stands beside an action that says the same.
            Action::Emit(_) => return None,
        })
    }
}

fn refused(refusal: &Refusal) -> String {
    match refusal {
        Refusal::WorkerBusy => "worker_busy".into(),
        Refusal::SessionWorkerUnavailable { worker, .. } => format!("session_worker_unavailable {worker}"),
        Refusal::PoolSaturated { limit } => format!("pool_saturated {limit}"),
        Refusal::PoolDegraded { cause } => format!("pool_degraded {cause}"),
        Refusal::QueueTimeout { waited } => format!("queue_timeout {waited:?}"),
        Refusal::Timeout { timeout } => format!("timeout {timeout:?}"),
        Refusal::RefLost { worker, cause } => format!("ref_lost {worker} {cause}"),
        Refusal::NamespaceElsewhere { namespace, refs } => format!("namespace_elsewhere {namespace} refs {refs}"),
        Refusal::WouldDeadlock => "would_deadlock".into(),
        Refusal::RebuildFailed => "rebuild_failed".into(),
        Refusal::Cancelled => "cancelled".into(),
        Refusal::ShuttingDown => "shutting_down".into(),
    }
}

/// `word word key=value flag`, where flags are words too.
struct Options {
    words: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Options {
    fn read(text: &str) -> Self {
        let mut options = Self { words: Vec::new(), values: BTreeMap::new() };
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some((key, value)) => {
                    options.values.insert(key.into(), value.into());
                }
                None => options.words.push(word.into()),
            }
        }
        options
    }

    fn value(&self, key: &str) -> Option<String> {
        self.values.get(key).cloned()
    }

    fn number(&self, key: &str) -> Option<usize> {
        self.value(key).map(|text| text.parse().unwrap_or_else(|_| panic!("{key}={text} is no number")))
    }

    fn is_set(&self, flag: &str) -> bool {
        self.words.iter().any(|word| word == flag)
    }

    fn affinity(&self) -> Option<Affinity> {
        self.value("affinity").map(|text| match text.as_str() {
            "hint" => Affinity::Hint,
            "strict_queue" => Affinity::StrictQueue,
            "strict_fail_fast" => Affinity::StrictFailFast,
            other => panic!("no affinity {other}"),
        })
    }
}

fn worker(text: &str) -> WorkerId {
    text.parse().unwrap_or_else(|_| panic!("{text} is no worker"))
}

fn duration(text: &str) -> Duration {
    let number = |unit: &str| text.strip_suffix(unit).and_then(|number| number.parse::<u64>().ok());
    match (number("us"), number("ms"), number("s")) {
        (Some(micros), _, _) => Duration::from_micros(micros),
        (_, Some(millis), _) => Duration::from_millis(millis),
        (_, _, Some(seconds)) => Duration::from_secs(seconds),
        (None, None, None) => panic!("{text} is no time"),
    }
}

#[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
fn now() -> Instant {
    Instant::now()
}
