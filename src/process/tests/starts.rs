//! Starting: what a worker finds, what a bad start says.

use super::*;
use crate::config::StartMethod;
use std::os::unix::fs::PermissionsExt;

async fn failure(spec: ZygoteSpec) -> super::super::StartError {
    soon(Zygote::start(spec)).await.expect_err("this cannot start")
}

#[tokio::test]
async fn a_worker_starts_on_every_python_by_either_method() {
    for interpreter in interpreters() {
        for method in [StartMethod::Zygote, StartMethod::Exec] {
            let marked = Marked::new();
            let mut spec = spec(&marked);
            spec.interpreter = interpreter.clone();
            spec.start_method = method;
            spec.concurrency = 3;
            spec.init = Some("a:b".to_owned());
            spec.preload = vec!["decimal".to_owned()];
            let (mut zygote, mut events) = start(spec).await;
            assert!(zygote.guarantees().lifeline);
            assert_eq!(zygote.guarantees().exec_because, None);
            let mut link = zygote.fork(&worker(0), 1 << 40).expect("a fork");
            let (_, pid, _) = forked(&mut events).await;
            let about = "answer = (worker, ref_base, concurrency, init, page.entries, os.getpid(), os.getpgid(0), \
                         'decimal' in sys.modules, sys.version_info[:3], sys.path[0] != '' and '' not in sys.path)";
            let (major, minor, patch) = interpreter.version;
            let expected = format!(
                "('test/0#1', {}, 3, 'a:b', 3, {pid}, {pid}, True, ({major}, {minor}, {patch}), True)",
                1u64 << 40
            );
            assert_eq!(ask(&mut link, about).await, expected, "{interpreter:?} {method:?}");
            drop((zygote, link));
            marked.assert_gone_within(Duration::from_secs(1));
        }
    }
}

#[tokio::test]
async fn a_worker_has_exactly_the_descriptors_that_are_documented() {
    let _leaked = std::fs::File::open("/dev/null").expect("a file of the host");
    for method in [StartMethod::Zygote, StartMethod::Exec] {
        let marked = Marked::new();
        let mut spec = spec(&marked);
        spec.start_method = method;
        let (mut zygote, mut events) = start(spec).await;
        let mut others = Vec::new();
        for slot in 1..4 {
            others.push(zygote.fork(&worker(slot), 0).expect("a fork"));
            forked(&mut events).await;
        }
        let mut link = zygote.fork(&worker(0), 0).expect("a fork");
        let list = r"
from snakebridge_worker import kernel
kind = lambda fd: os.readlink(f'/proc/self/fd/{fd}').split(':')[0]
answer = {fd: kind(fd) for fd in sorted(kernel.open_fds())}, [fd for fd in kernel.open_fds() if os.get_inheritable(fd)]";
        let expected = "{0: '/dev/null', 1: 'pipe', 2: 'pipe', 3: 'socket', 4: 'socket', 5: 'socket', 6: '/memfd'}";
        let expected = format!("({expected}, [0, 1, 2])");
        assert_eq!(ask(&mut link, list).await, expected, "{method:?}");
    }
}

#[tokio::test]
async fn a_bad_preload_is_permanent_and_says_what_python_says() {
    let files = Files::new(&[
        ("imports_nothing.py", "import no_such_module_at_all\n"),
        ("no_syntax.py", "def f(:\n"),
        ("exits.py", "import sys\nsys.exit('enough')\n"),
        ("exits_hard.py", "import os\nos._exit(3)\n"),
        ("raises.py", "raise KeyboardInterrupt\n"),
    ]);
    let cases = [
        ("imports_nothing", "No module named 'no_such_module_at_all'"),
        ("no_syntax", "SyntaxError"),
        ("exits", "SystemExit: enough"),
        ("exits_hard", "exit status 3"),
        ("raises", "KeyboardInterrupt"),
        ("is_not_there", "No module named 'is_not_there'"),
    ];
    for method in [StartMethod::Zygote, StartMethod::Exec] {
        for (module, says) in cases {
            let marked = Marked::new();
            let mut spec = spec(&marked);
            spec.start_method = method;
            spec.python_path = vec![files.0.clone()];
            spec.preload = vec![module.to_owned()];
            let error = failure(spec).await;
            assert!(error.permanent && error.what.contains(says), "{module} {method:?}: {error:?}");
            marked.assert_gone_within(Duration::from_secs(1));
        }
    }
}

#[tokio::test]
async fn a_broken_sitecustomize_costs_a_message_and_not_the_worker() {
    for (text, says) in [("raise RuntimeError('broken')", "broken"), ("import sys; sys.exit(9)", "SystemExit: 9")] {
        let files = Files::new(&[("sitecustomize.py", text)]);
        let marked = Marked::new();
        let mut spec = spec(&marked);
        spec.env.push(("PYTHONPATH".to_owned(), files.0.display().to_string()));
        spec.start_method = StartMethod::Exec;
        let (mut zygote, _events) = start(spec).await;
        let mut link = zygote.fork(&worker(0), 0).expect("a fork");
        assert_eq!(ask(&mut link, "import json; answer = json.dumps([1])").await, "[1]");
        assert!(link.output.stderr_tail().contains(says), "{}", link.output.stderr_tail());
    }
}

#[tokio::test]
async fn a_preload_that_leaves_threads_is_executed_instead_and_named() {
    let files = Files::new(&[(
        "threaded.py",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n",
    )]);
    let marked = Marked::new();
    let mut spec = spec(&marked);
    spec.python_path = vec![files.0.clone()];
    spec.preload = vec!["json".to_owned(), "threaded".to_owned()];
    let (mut zygote, mut events) = start(spec).await;
    let because = zygote.guarantees().exec_because.clone().expect("it cannot be forked");
    assert!(because.contains("threaded"), "{because}");
    let mut link = zygote.fork(&worker(0), 0).expect("a fork");
    let (_, pid, _) = forked(&mut events).await;
    assert_eq!(ask(&mut link, "answer = os.getpid(), 'threaded' in sys.modules").await, format!("({pid}, True)"));
    drop(zygote);
    marked.assert_gone_within(Duration::from_secs(1));
}

#[tokio::test]
async fn a_module_in_the_working_directory_is_not_found_but_one_on_python_path_is() {
    let files = Files::new(&[("only_here.py", "x = 1\n"), ("os.py", "raise RuntimeError('shadowed')\n")]);
    let marked = Marked::new();
    let mut spec = spec(&marked);
    spec.python_path = vec![files.0.clone()];
    let (mut zygote, _events) = start(spec).await;
    let mut link = zygote.fork(&worker(0), 0).expect("a fork");
    assert_eq!(ask(&mut link, "import only_here; answer = only_here.x").await, "1");
    let here = "import importlib.util; answer = importlib.util.find_spec('worker_py')";
    assert_eq!(ask(&mut link, here).await, "None", "the tests run in a directory that has worker_py");
}

#[tokio::test]
async fn tracebacks_show_the_embedded_source() {
    let marked = Marked::new();
    let (mut zygote, _events) = start(spec(&marked)).await;
    let mut link = zygote.fork(&worker(0), 0).expect("a fork");
    let text = ask(&mut link, "outgoing.put([b'x'], 1 << 40)").await;
    assert!(text.contains("File \"<snakebridge>/blocks.py\"") && text.contains("raise ValueError(f\"a body"), "{text}");
}

#[tokio::test]
async fn no_python_at_the_path_is_permanent() {
    let files = Files::new(&[("not_executable", "#!/bin/sh\n"), ("no_program", "\x7fELF nonsense")]);
    let set = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(files.0.join("no_program"), set).expect("chmod");
    for name in ["missing", "not_executable", "no_program"] {
        let marked = Marked::new();
        let mut spec = spec(&marked);
        spec.interpreter.executable = files.0.join(name);
        let error = failure(spec).await;
        // The C library hands what is no program to a shell, which says so.
        assert!(error.permanent && error.what.contains(name), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn a_start_that_takes_too_long_fails_and_leaves_nothing() {
    let files = Files::new(&[("slow.py", "import time; time.sleep(60)\n")]);
    let marked = Marked::new();
    let mut spec = spec(&marked);
    spec.python_path = vec![files.0.clone()];
    spec.preload = vec!["slow".to_owned()];
    spec.start_timeout = Duration::from_millis(300);
    let error = failure(spec).await;
    assert!(!error.permanent && error.what.contains("300ms"), "{error:?}");
    marked.assert_gone_within(Duration::from_secs(1));
}

#[tokio::test]
async fn a_zygote_that_is_told_to_end_is_reaped() {
    let marked = Marked::new();
    let (zygote, mut events) = start(spec(&marked)).await;
    drop(zygote);
    let ZygoteEvent::Gone { why } = next(&mut events).await else { panic!("it does not end") };
    assert!(why.contains("exit status 0"), "{why}");
    assert!(soon(events.next()).await.is_none());
}

#[tokio::test]
async fn a_fork_that_fails_is_an_event_and_the_zygote_goes_on() {
    let files = Files::new(&[(
        "few.py",
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (11, 4096))\n\
         def more(): resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))\n\
         import signal\nsignal.signal(signal.SIGUSR2, lambda *_: more())\n",
    )]);
    let marked = Marked::new();
    let mut spec = spec(&marked);
    spec.python_path = vec![files.0.clone()];
    spec.preload = vec!["few".to_owned()];
    let (mut zygote, mut events) = start(spec).await;
    let _link = zygote.fork(&worker(0), 0).expect("it is asked for");
    let ZygoteEvent::ForkFailed { worker: failed, why } = next(&mut events).await else { panic!("it forked") };
    assert!(failed == worker(0) && why.contains("descriptors"), "{why}");
    let (pid, _) = marked.processes().remove(0);
    let pid = rustix::process::Pid::from_raw(pid).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::USR2).expect("the zygote lives");
    let mut link = zygote.fork(&worker(1), 0).expect("a fork");
    assert_eq!(ask(&mut link, "answer = worker").await, "test/1#1");
}

#[tokio::test]
async fn what_a_preload_started_ends_with_the_zygote() {
    let files = Files::new(&[("starts.py", "import subprocess\nsubprocess.Popen(['sleep', '60'])\n")]);
    for kill in [false, true] {
        let marked = Marked::new();
        let mut spec = spec(&marked);
        spec.python_path = vec![files.0.clone()];
        spec.preload = vec!["starts".to_owned()];
        let (mut zygote, mut events) = start(spec).await;
        let mut link = zygote.fork(&worker(0), 0).expect("a fork");
        forked(&mut events).await;
        tell(&link, "os._exit(0)");
        exited(&mut events).await;
        assert_eq!(heard(&mut link).await, None);
        assert_eq!(marked.processes().len(), 2, "it belongs to all workers, not to the one that ended");
        if kill {
            let (pid, _) = marked.processes().into_iter().find(|(_, words)| words.contains("-S -c")).expect("zygote");
            let pid = rustix::process::Pid::from_raw(pid).expect("a process");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it lives");
        }
        drop(zygote);
        marked.assert_gone_within(Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_virtual_environment_is_used_with_its_own_packages() {
    for base in interpreters() {
        let (major, minor, _) = base.version;
        let home = base.executable.parent().expect("a directory").display().to_string();
        let files = Files::new(&[("pyvenv.cfg", &format!("home = {home}\ninclude-system-site-packages = false\n"))]);
        let packages = files.0.join(format!("lib/python{major}.{minor}/site-packages"));
        std::fs::create_dir_all(&packages).expect("directories");
        std::fs::create_dir_all(files.0.join("bin")).expect("directories");
        std::fs::write(packages.join("only_here.py"), "x = 1\n").expect("a module");
        std::os::unix::fs::symlink(&base.executable, files.0.join("bin/python")).expect("a link");
        for method in [StartMethod::Zygote, StartMethod::Exec] {
            let marked = Marked::new();
            let mut spec = spec(&marked);
            spec.interpreter = python::find(&PoolConfig::new("test").venv(&files.0)).expect("it is there");
            spec.start_method = method;
            let (mut zygote, _events) = start(spec).await;
            let mut link = zygote.fork(&worker(0), 0).expect("a fork");
            let code = "import only_here; answer = only_here.x, sys.prefix != sys.base_prefix, \
                        any(entry.startswith(sys.base_prefix) and 'site-packages' in entry for entry in sys.path)";
            assert_eq!(ask(&mut link, code).await, "(1, True, False)", "{base:?} {method:?}");
        }
    }
}
