//! Deaths of the host: this program executes itself as a host, which is killed, and nothing may be left.

use super::*;
use crate::config::StartMethod;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

const SCENE: &str = "SNAKEBRIDGE_TEST_HOST";
/// The promise.
const LIMIT: Duration = Duration::from_secs(1);

/// What a host does before it says `ready`, from its environment.
#[derive(Clone, Copy)]
struct Scene {
    method: StartMethod,
    lifeline: bool,
    /// What each of two workers runs at last.
    code: &'static str,
    /// A module to load first.
    preload: &'static str,
    /// A fork of the host without exec, which lives on and holds every descriptor.
    forks: bool,
}

const IDLE: Scene = Scene { method: StartMethod::Zygote, lifeline: true, code: "", preload: "", forks: false };

const SCENES: &[(&str, Scene)] = &[
    ("idle", IDLE),
    ("stuck", Scene { code: STUCK, ..IDLE }),
    ("stuck exec", Scene { code: STUCK, method: StartMethod::Exec, ..IDLE }),
    ("stuck without lifeline", Scene { code: STUCK, lifeline: false, ..IDLE }),
    ("stuck exec without lifeline", Scene { code: STUCK, lifeline: false, method: StartMethod::Exec, ..IDLE }),
    ("daemons", Scene { code: DAEMONS, ..IDLE }),
    ("daemons without lifeline", Scene { code: DAEMONS, lifeline: false, ..IDLE }),
    ("forked host", Scene { code: STUCK, forks: true, ..IDLE }),
    ("slow", Scene { preload: "slow", ..IDLE }),
    ("slow exec", Scene { preload: "slow", method: StartMethod::Exec, ..IDLE }),
    ("threaded", Scene { preload: "threaded", ..IDLE }),
    ("slow forked host", Scene { preload: "slow", forks: true, ..IDLE }),
];

const STUCK: &str = r"
import itertools, signal, subprocess
subprocess.Popen(['sleep', '60'])
signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()))
print('there', flush=True)
sum(itertools.repeat(0))";

const DAEMONS: &str = r"
import subprocess
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in range(0, 64):
                try: os.close(fd)
                except OSError: pass
            time.sleep(60)
        os._exit(0)
time.sleep(0.1)";

/// Not a test by itself: the program that the tests below execute and kill.
#[test]
fn host() {
    let Ok(name) = std::env::var(SCENE) else { return };
    if name == REPEAT {
        return start_and_stop_again_and_again();
    }
    let (_, scene) = SCENES.iter().find(|(known, _)| *known == name).expect("a known scene");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(play(*scene));
}

const REPEAT: &str = "repeat";

/// Says `ready` when as many descriptors and threads are left as there were after the first round.
fn start_and_stop_again_and_again() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let count = || ["fd", "task"].map(|what| std::fs::read_dir(format!("/proc/self/{what}")).expect("proc").count());
    let round = || {
        let marked = Marked(std::env::var(MARKER).expect("set by the test"));
        runtime.block_on(async {
            let (mut zygote, mut events) = start(spec(&marked)).await;
            let mut link = zygote.fork(&worker(0), 0).expect("a fork");
            forked(&mut events).await;
            link.outgoing.put(&[b"body"]).expect("room");
            ask(&mut link, "incoming.view(0, 4); outgoing.put([b'body'], 4)").await;
            link.incoming.take(super::super::BlockName { index: 0, len: 4 }).expect("a body");
            drop((zygote, link));
            while soon(events.next()).await.is_some() {}
        });
    };
    // The runtime runs a little for the readers that were stopped, the zygote's thread for its end.
    let rest = || runtime.block_on(async { tokio::time::sleep(Duration::from_millis(2)).await });
    round();
    (0..50).for_each(|_| rest());
    let before = count();
    for _ in 0..20 {
        round();
    }
    let start = Instant::now();
    while count() != before {
        assert!(start.elapsed() < LIMIT, "{before:?} descriptors and threads have become {:?}", count());
        rest();
    }
    write_line("ready");
}

async fn play(scene: Scene) {
    let marked = std::mem::ManuallyDrop::new(Marked(std::env::var(MARKER).expect("set by the test")));
    let mut spec = spec(&marked);
    spec.start_method = scene.method;
    spec.lifeline = scene.lifeline;
    spec.python_path = std::env::var_os("SNAKEBRIDGE_TEST_FILES").map(PathBuf::from).into_iter().collect();
    if !scene.preload.is_empty() {
        spec.preload = vec![scene.preload.to_owned()];
    }
    let starting = tokio::spawn(start(spec));
    if scene.forks {
        // Again and again while the zygote starts, so that some fork holds its descriptors.
        for delay in [1, 5, 20] {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            std::thread::spawn(fork_and_live_on);
        }
    }
    let (mut zygote, mut events) = starting.await.expect("it starts");
    let mut links = Vec::new();
    for slot in 0..2 {
        links.push(zygote.fork(&worker(slot), 0).expect("a fork"));
        forked(&mut events).await;
    }
    for link in &mut links {
        ask(link, "answer = 1").await;
    }
    if scene.forks {
        std::thread::spawn(fork_and_live_on);
    }
    for link in &links {
        tell(link, &format!("pass\n{}", scene.code));
    }
    tokio::time::sleep(Duration::from_millis(if scene.code.is_empty() { 1 } else { 250 })).await;
    write_line("ready");
    std::future::pending().await
}

/// A fork that never comes to its exec. The signals end it with the test run, should all else fail.
fn fork_and_live_on() {
    let mut command = Command::new("true");
    // SAFETY: sleeping is all that the forked child does.
    #[expect(unsafe_code, reason = "a host that forks without exec can be had in no other way")]
    unsafe {
        command.pre_exec(|| {
            std::thread::sleep(Duration::from_secs(10));
            Ok(())
        });
    }
    let _ = command.status();
}

fn write_line(line: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "{line}").expect("the test reads it");
}

struct Host {
    child: Child,
    marked: Marked,
    _files: Files,
}

impl Host {
    fn run(scene: &str) -> Self {
        // The idle one searches, through whatever shim there is; the others begin with their zygote.
        Self::run_with(scene, (scene != "idle").then(|| interpreter().executable))
    }

    fn run_with(scene: &str, python: Option<PathBuf>) -> Self {
        let files = Files::new(&[
            ("slow.py", "import time\nfor _ in range(10): time.sleep(0.02)\n"),
            ("threaded.py", "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"),
        ]);
        let marked = Marked::new();
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        if let Some(python) = python {
            command.env("SNAKEBRIDGE_PYTHON", python);
        }
        let child = command
            .args(["--exact", "process::tests::hosts::host", "--nocapture", "--test-threads=1"])
            .env(SCENE, scene)
            .env(MARKER, &marked.0)
            .env("SNAKEBRIDGE_TEST_FILES", &files.0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("this program runs");
        Self { child, marked, _files: files }
    }

    /// Waits until it has said `ready`.
    fn ready(&mut self) {
        let lines = BufReader::new(self.child.stderr.as_mut().expect("piped")).lines();
        let mut heard = String::new();
        for line in lines.map_while(Result::ok) {
            if line == "ready" {
                return;
            }
            heard += &line;
        }
        panic!("the host failed: {heard}");
    }

    /// Kills the host alone, and answers how long its processes took to be gone.
    fn kill(&mut self) -> Duration {
        self.child.kill().expect("it is ours");
        let start = Instant::now();
        self.child.wait().expect("it is ours");
        self.marked.assert_gone_within(LIMIT);
        start.elapsed()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

#[test]
fn nothing_outlives_a_host_that_is_killed() {
    for (name, scene) in SCENES {
        let mut host = Host::run(name);
        host.ready();
        let there = host.marked.processes().len();
        let expected = 3 + if scene.code == STUCK { 2 } else { 0 } + if scene.code == DAEMONS { 4 } else { 0 };
        assert_eq!(there, expected, "{name}: {:?}", host.marked.processes());
        host.kill();
    }
}

#[test]
fn starting_and_stopping_leaves_no_descriptor_and_no_thread() {
    let mut host = Host::run(REPEAT);
    host.ready();
    host.kill();
}

#[test]
fn nothing_outlives_a_host_on_any_python() {
    for python in interpreters() {
        for scene in ["stuck", "stuck exec", "stuck without lifeline"] {
            let mut host = Host::run_with(scene, Some(python.executable.clone()));
            host.ready();
            assert_eq!(host.marked.processes().len(), 5, "{scene} {python:?}");
            host.kill();
        }
    }
}

#[test]
fn nothing_outlives_a_host_that_is_killed_in_mid_start() {
    // A fixed sequence of moments from the spawn to a little after readiness, spread evenly.
    for (name, moments) in [("idle", 20), ("slow", 10), ("slow exec", 10), ("threaded", 10), ("slow forked host", 10)] {
        let mut host = Host::run(name);
        let start = Instant::now();
        host.ready();
        let whole = start.elapsed() + Duration::from_millis(20);
        host.kill();
        let mut seen = 0;
        for moment in 0..moments {
            let mut host = Host::run(name);
            std::thread::sleep(whole * moment / moments);
            seen += usize::from(!host.marked.processes().is_empty());
            host.kill();
        }
        assert!(seen > 0, "{name}: no moment met a process");
    }
}
