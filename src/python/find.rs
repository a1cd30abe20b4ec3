//! Finding a Python interpreter that will do.

use crate::config::PoolConfig;
use crate::process;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::Access;
use rustix::io::Errno;
use rustix::process::Signal;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The oldest minor version of Python 3 that the worker runs on.
const OLDEST: (u8, u8) = (3, 10);
/// How long the whole search may take: a hanging shim must not hang it.
const LIMIT: Duration = Duration::from_millis(4_500);
/// How often a search looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(20);
/// Names that a search on `PATH` mentions when `python3` does not do.
const OTHERS: [&str; 6] = ["python3.10", "python3.11", "python3.12", "python3.13", "python3.14", "python"];
/// An answer is a path and a version.
const ANSWER_LIMIT: u64 = 64 * 1024;

/// An interpreter that was run and asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interpreter {
    /// Its own `sys.executable`: what a shim or a `PATH` resolved to, a virtual environment's link kept.
    pub(crate) executable: PathBuf,
    pub(crate) version: (u8, u8, u8),
}

/// No interpreter will do.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) struct FindError {
    wanted: String,
    tried: Vec<(PathBuf, String)>,
}

impl fmt::Display for FindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = OLDEST;
        write!(f, "no Python {major}.{minor} or later: {}", self.wanted)?;
        for (path, what) in &self.tried {
            write!(f, "; {}: {what}", path.display())?;
        }
        f.write_str("; name one with .python(path) or SNAKEBRIDGE_PYTHON")
    }
}

/// Finds the interpreter of a pool: the one named in its configuration, else `SNAKEBRIDGE_PYTHON`,
/// `VIRTUAL_ENV`, `./.venv`, `python3`, whichever is first. The first that is named must do: an
/// environment that is active but broken is never passed over in silence.
///
/// Blocks, for at most 5 s: it runs what it finds.
///
/// # Errors
/// [`FindError`], with what was found.
#[cfg(test)]
pub(crate) fn find(config: &PoolConfig) -> Result<Interpreter, FindError> {
    find_unless(config, &|| false)
}

/// The same; it is given up, and what it runs is killed, when `is_over` says that nobody waits for it.
pub(crate) fn find_unless(config: &PoolConfig, is_over: &dyn Fn() -> bool) -> Result<Interpreter, FindError> {
    find_among(config, &|name| std::env::var_os(name).filter(|value| !value.is_empty()), is_over)
}

fn find_among(
    config: &PoolConfig,
    var: &dyn Fn(&str) -> Option<OsString>,
    is_over: &dyn Fn() -> bool,
) -> Result<Interpreter, FindError> {
    let deadline = &Deadline { at: Instant::now() + LIMIT, is_over };
    let (path, wanted) = choose(config, var);
    let mut tried = Vec::new();
    match probe(&path, deadline) {
        Ok(interpreter) => return Ok(interpreter),
        Err(what) => tried.push((path.clone(), what)),
    }
    if path == Path::new("python3") {
        // Not a choice, only a hint: which one of several is meant is for a person to say.
        for other in OTHERS {
            let other = Path::new(other);
            match probe(other, deadline) {
                Ok(found) => {
                    let (major, minor, patch) = found.version;
                    tried.push((found.executable, format!("version {major}.{minor}.{patch}, would do")));
                }
                Err(what) if what == NOT_FOUND => {}
                Err(what) => tried.push((other.to_owned(), what)),
            }
        }
    }
    Err(FindError { wanted, tried })
}

/// Which interpreter is meant, and why.
fn choose(config: &PoolConfig, var: &dyn Fn(&str) -> Option<OsString>) -> (PathBuf, String) {
    let inside = |environment: &Path| environment.join("bin/python");
    if let Some(path) = &config.python {
        return (path.clone(), "as configured with .python()".into());
    }
    if let Some(environment) = &config.venv {
        return (inside(environment), "as configured with .venv()".into());
    }
    if let Some(path) = var("SNAKEBRIDGE_PYTHON") {
        return (path.into(), "SNAKEBRIDGE_PYTHON says so".into());
    }
    if let Some(environment) = var("VIRTUAL_ENV") {
        return (inside(Path::new(&environment)), "VIRTUAL_ENV says so".into());
    }
    let local = inside(Path::new(".venv"));
    if local.exists() {
        return (local, "found in ./.venv".into());
    }
    ("python3".into(), "searched on PATH".into())
}

const NOT_FOUND: &str = "not found";
const QUESTION: &str = "import sys\nsys.stdout.write('%d %d %d %s' % (sys.version_info[:3] + (sys.executable,)))";

/// Runs an interpreter and asks who it is.
fn probe(path: &Path, deadline: &Deadline<'_>) -> Result<Interpreter, String> {
    look(path)?;
    let mut command = Command::new(path);
    command.args([OsStr::new("-S"), OsStr::new("-c"), OsStr::new(QUESTION)]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // A shim starts processes of its own: should this one die meanwhile, none of them may stay.
    let _lifeline = process::tied(&mut command).map_err(|error| error.to_string())?;
    let child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => NOT_FOUND.to_owned(),
        _ => format!("cannot be run: {error}"),
    })?;
    let answer = Asked(child).answer(deadline)?;
    understand(&answer)
}

/// Whether there is such a program. In a host that reaps all its children std panics where it finds by a fork
/// that there is none: nobody can wait for that.
fn look(path: &Path) -> Result<(), String> {
    #[expect(clippy::disallowed_methods, reason = "it is where the kernel is going to look")]
    let places = || std::env::var_os("PATH").unwrap_or_default();
    let is_path = path.as_os_str().as_bytes().contains(&b'/');
    let candidates: Vec<PathBuf> = if is_path {
        vec![path.to_owned()]
    } else {
        std::env::split_paths(&places()).map(|place| place.join(path)).collect()
    };
    let mut what = NOT_FOUND.to_owned();
    for candidate in candidates {
        match rustix::fs::access(&candidate, Access::EXEC_OK) {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => what = format!("cannot be run: {}", std::io::Error::from(error)),
        }
    }
    Err(what)
}

fn understand(answer: &[u8]) -> Result<Interpreter, String> {
    let strange =
        || format!("does not answer like Python: {:?}", String::from_utf8_lossy(&answer[..answer.len().min(80)]));
    let mut parts = answer.splitn(4, |&byte| byte == b' ');
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u8>().ok();
    let version = (|| Some((number()?, number()?, number()?)))().ok_or_else(strange)?;
    let executable = parts.next().filter(|path| !path.is_empty()).ok_or_else(strange)?;
    let (major, minor, patch) = version;
    if (major, minor) < OLDEST {
        return Err(format!("version {major}.{minor}.{patch} is too old"));
    }
    Ok(Interpreter { executable: OsString::from_vec(executable.to_vec()).into(), version })
}

/// Until when the search may take.
struct Deadline<'a> {
    at: Instant,
    is_over: &'a dyn Fn() -> bool,
}

impl Deadline<'_> {
    /// None: it has come, or nobody waits any more.
    fn left(&self) -> Option<Duration> {
        let left = self.at.checked_duration_since(Instant::now())?;
        (!(self.is_over)()).then_some(left)
    }
}

/// A child that is killed with its group when it is dropped.
struct Asked(Child);

impl Asked {
    fn answer(mut self, deadline: &Deadline<'_>) -> Result<Vec<u8>, String> {
        let hangs = || "did not answer in time".to_owned();
        let mut stdout = self.0.stdout.take().expect("piped").take(ANSWER_LIMIT);
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let left = deadline.left().ok_or_else(hangs)?.min(LOOK);
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut readable = [PollFd::new(stdout.get_ref(), PollFlags::IN)];
            match rustix::event::poll(&mut readable, Some(&left)) {
                Ok(0) => {}
                Ok(_) => match stdout.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(length) => answer.extend_from_slice(&chunk[..length]),
                    Err(error) => return Err(error.to_string()),
                },
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(answer),
                Ok(Some(status)) => return Err(format!("failed: {status}")),
                Ok(None) if deadline.left().is_some() => std::thread::sleep(Duration::from_millis(1)),
                Ok(None) => return Err(hangs()),
                // The program that we are part of reaps all its children, or ignores their deaths. The answer is whole.
                Err(error) if error.raw_os_error() == Some(Errno::CHILD.raw_os_error()) => return Ok(answer),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // Not reaped, so that neither its id nor its group's can be another's.
            let group = rustix::process::Pid::from_child(&self.0);
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A directory of programs, removed when dropped.
    struct Programs(PathBuf);

    impl Programs {
        fn new(name: &str, programs: &[(&str, &str, u32)]) -> Self {
            let root = std::env::temp_dir().join(format!("snakebridge-find-{}-{name}", std::process::id()));
            for (path, text, mode) in programs {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().expect("inside the root")).expect("a directory");
                std::fs::write(&path, text).expect("a file");
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode)).expect("chmod");
            }
            Self(root)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Programs {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn with_python(path: PathBuf) -> PoolConfig {
        PoolConfig::new("test").python(path)
    }

    #[test]
    fn the_first_that_is_named_is_meant() {
        let nothing = |_: &str| None;
        let all = |name: &str| Some(OsString::from(if name == "VIRTUAL_ENV" { "/active" } else { "/variable" }));
        let active = |name: &str| (name == "VIRTUAL_ENV").then(|| "/active".into());
        let chosen = |config: &PoolConfig, var: &dyn Fn(&str) -> Option<OsString>| choose(config, var).0;
        let plain = PoolConfig::new("test");
        let venv = plain.clone().venv("/venv");
        assert_eq!(chosen(&venv.clone().python("/python"), &all), Path::new("/python"));
        assert_eq!(chosen(&venv, &all), Path::new("/venv/bin/python"));
        assert_eq!(chosen(&plain, &all), Path::new("/variable"));
        assert_eq!(chosen(&plain, &active), Path::new("/active/bin/python"));
        assert_eq!(chosen(&plain, &nothing), Path::new("python3"), "there is no ./.venv here");
    }

    #[test]
    fn what_cannot_be_used_is_named_with_the_reason() {
        let old = "#!/bin/sh\nprintf '3 9 18 /old/python3'\n";
        let programs = Programs::new(
            "bad",
            &[
                ("old", old, 0o755),
                ("not_executable", old, 0o644),
                ("other", "#!/bin/sh\necho hello\n", 0o755),
                ("fails", "#!/bin/sh\nexit 4\n", 0o755),
                ("binary", "\x7fELF", 0o755),
            ],
        );
        let cases = [
            ("old", "version 3.9.18 is too old"),
            ("not_executable", "ermission denied"),
            ("other", "does not answer like Python: \"hello"),
            ("fails", "exit status: 4"),
            ("binary", "exit status: 127"),
            ("missing", NOT_FOUND),
        ];
        for (name, says) in cases {
            let error = find(&with_python(programs.path(name))).expect_err("it cannot be used").to_string();
            assert!(error.contains(says) && error.contains(name) && error.contains(".python()"), "{error}");
        }
    }

    #[test]
    fn a_missing_program_is_no_panic_where_children_are_reaped_by_themselves() {
        let this = std::env::current_exe().expect("a program");
        let inner = "python::find::tests::what_is_missing_is_told";
        let ignore = "import os, signal, sys\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nos.execv(sys.argv[1], sys.argv[1:])";
        let python = find(&PoolConfig::new("test")).expect("a Python").executable;
        let ignoring = Command::new(python)
            .args(["-c", ignore])
            .arg(this)
            .args(["--exact", inner, "--ignored"])
            .output()
            .expect("a shell");
        let told = String::from_utf8_lossy(&ignoring.stdout);
        assert!(ignoring.status.success() && told.contains("1 passed"), "{told}");
    }

    #[test]
    #[ignore = "it is run by the rule above"]
    fn what_is_missing_is_told() {
        let status = std::fs::read_to_string("/proc/self/status").expect("proc");
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
        let ignored = u64::from_str_radix(ignored.trim(), 16).expect("a mask");
        assert_ne!(ignored >> (Signal::CHILD.as_raw() - 1) & 1, 0, "its children are waited for");
        let error = find(&with_python("/nowhere/python".into())).expect_err("there is none").to_string();
        assert!(error.contains("/nowhere/python: not found"), "{error}");
        assert_eq!(
            probe(Path::new("no-such-python"), &Deadline { at: Instant::now(), is_over: &|| false })
                .expect_err("there is none"),
            NOT_FOUND
        );
    }

    #[test]
    fn a_hanging_shim_is_given_up_and_killed_with_what_it_started() {
        let programs = Programs::new("hang", &[("hangs", "#!/bin/sh\nsleep 61.25 &\nsleep 61.25\n", 0o755)]);
        let start = Instant::now();
        let error = find(&with_python(programs.path("hangs"))).expect_err("it hangs");
        assert!(error.to_string().contains("did not answer in time"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        let sleeps =
            |path: PathBuf| std::fs::read(path.join("cmdline")).is_ok_and(|words| words == b"sleep\x0061.25\0");
        let left = || {
            let entries = std::fs::read_dir("/proc").expect("proc");
            entries.filter(|entry| sleeps(entry.as_ref().expect("an entry").path())).count()
        };
        let start = Instant::now();
        while left() > 0 {
            assert!(start.elapsed() < Duration::from_secs(1), "{} live on", left());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_link_of_a_virtual_environment_is_kept() {
        let found = find(&PoolConfig::new("test")).expect("a Python");
        assert!(found.version >= (3, 10, 0) && found.executable.is_absolute(), "{found:?}");
        let programs = Programs::new("venv", &[("pyvenv.cfg", "home = /nowhere\n", 0o644), ("bin/empty", "", 0o644)]);
        let link = programs.path("bin/python");
        std::os::unix::fs::symlink(&found.executable, &link).expect("a link");
        assert_eq!(find(&PoolConfig::new("test").venv(&programs.0)).expect("the same Python").executable, link);
    }
}
