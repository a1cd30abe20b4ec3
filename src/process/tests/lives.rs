//! Lives and deaths of workers under a host that lives.

use super::super::{DeathWatch, Lifeline};
use super::*;
use crate::config::StartMethod;
use rustix::process::Signal;

/// In C code with every signal blocked: no handler runs, no thread gets the lock.
const STUCK: &str = r"
import itertools, signal
signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()))
sum(itertools.repeat(0))";

#[tokio::test]
async fn a_hundred_workers_live_at_once() {
    let marked = Marked::new();
    let (mut zygote, mut events) = start(spec(&marked)).await;
    let mut links: Vec<_> = (0..100).map(|slot| zygote.fork(&worker(slot), 0).expect("a fork")).collect();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        seen.insert(forked(&mut events).await.0);
    }
    assert_eq!(seen.len(), 100);
    for (slot, link) in links.iter_mut().enumerate() {
        assert_eq!(ask(link, "answer = worker").await, format!("test/{slot}#1"));
    }
    drop(links);
    for _ in 0..100 {
        assert_eq!(exited(&mut events).await.1, "signal 9 (SIGKILL)");
    }
}

#[tokio::test]
async fn every_kind_of_end_is_told_as_it_was() {
    let marked = Marked::new();
    let (mut zygote, mut events) = start(spec(&marked)).await;
    let ends = [
        ("os._exit(3)", "exit status 3"),
        ("os._exit(0)", "exit status 0"),
        ("sys.exit(7)", "exit status 7"),
        ("sys.exit('why')", "exit status 1"),
        ("raise KeyboardInterrupt", "exit status 1"),
        ("import faulthandler; faulthandler._sigsegv()", "signal 11 (SIGSEGV)"),
        ("os.abort()", "signal 6 (SIGABRT)"),
        ("os.kill(os.getpid(), 9)", "signal 9 (SIGKILL)"),
        ("os.kill(os.getpid(), 15)", "signal 15 (SIGTERM)"),
    ];
    for (slot, (code, expected)) in ends.into_iter().enumerate() {
        let id = worker(slot as u32);
        let mut link = zygote.fork(&id, 0).expect("a fork");
        forked(&mut events).await;
        tell(&link, code);
        assert_eq!(exited(&mut events).await, (id, expected.to_owned()), "{code}");
        assert_eq!(heard(&mut link).await, None, "{code}");
    }
}

#[tokio::test]
async fn a_crash_leaves_its_last_words_with_the_python_stack() {
    let marked = Marked::new();
    let (mut zygote, mut events) = start(spec(&marked)).await;
    let link = zygote.fork(&worker(0), 0).expect("a fork");
    forked(&mut events).await;
    tell(&link, "import faulthandler; faulthandler._sigsegv()");
    exited(&mut events).await;
    let words = link.output.stderr_tail();
    assert!(words.contains("Segmentation fault") && words.contains("<snakebridge>"), "{words}");
}

#[tokio::test]
async fn output_is_kept_to_its_last_part_whatever_is_written() {
    let marked = Marked::new();
    let (mut zygote, _events) = start(spec(&marked)).await;
    let mut link = zygote.fork(&worker(0), 0).expect("a fork");
    let flood = "os.write(1, b'x' * (8 << 20)); [os.write(2, b'line\\n' * 1000) for _ in range(2000)]; \
                 sys.stderr.write('the end\\n'); answer = 'written'";
    assert_eq!(ask(&mut link, flood).await, "written", "a flood blocks nobody");
    let tail = link.output.stderr_tail();
    assert!(tail.len() == 64 << 10 && tail.ends_with("line\nthe end\n"), "{} bytes", tail.len());
}

#[tokio::test]
async fn dropping_the_lifeline_kills_a_worker_stuck_in_c_and_its_child() {
    for method in [StartMethod::Zygote, StartMethod::Exec] {
        let marked = Marked::new();
        let mut spec = spec(&marked);
        spec.start_method = method;
        let (mut zygote, mut events) = start(spec).await;
        let mut link = zygote.fork(&worker(0), 0).expect("a fork");
        let (_, _, pidfd) = forked(&mut events).await;
        let watch = DeathWatch::new(pidfd).expect("a watch");
        ask(&mut link, "import subprocess; child = subprocess.Popen(['sleep', '60'])").await;
        tell(&link, STUCK);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(marked.processes().len(), 3, "zygote, worker and child");
        let start = Instant::now();
        drop(std::mem::replace(
            &mut link.lifeline,
            Lifeline::new(std::fs::File::open("/dev/null").expect("open").into()),
        ));
        soon(watch).await;
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        assert_eq!(exited(&mut events).await.1, "signal 9 (SIGKILL)");
        let start = Instant::now();
        while marked.processes().len() > 1 {
            assert!(start.elapsed() < Duration::from_secs(1), "{:?}", marked.processes());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test]
async fn what_a_worker_daemonised_ends_with_it_and_other_workers_do_not() {
    let marked = Marked::new();
    let (mut zygote, mut events) = start(spec(&marked)).await;
    let mut other = zygote.fork(&worker(1), 0).expect("a fork");
    let mut link = zygote.fork(&worker(0), 0).expect("a fork");
    forked(&mut events).await;
    forked(&mut events).await;
    let daemonise = r"
import subprocess
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in range(0, 64):
                try: os.close(fd)
                except OSError: pass
            subprocess.Popen(['sleep', '60'], start_new_session=True)
            time.sleep(60)
        os._exit(0)
time.sleep(0.2)
answer = 'daemonised'";
    ask(&mut link, daemonise).await;
    assert_eq!(marked.processes().len(), 9);
    tell(&link, "os._exit(0)");
    exited(&mut events).await;
    let start = Instant::now();
    while marked.processes().len() > 2 {
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", marked.processes());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(ask(&mut other, "answer = worker").await, "test/1#1");
}

#[tokio::test]
async fn what_the_preload_of_an_executed_worker_daemonised_is_that_worker_s_and_lives_as_long() {
    let daemonise = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(60)\n    \
                     os._exit(0)\nos.wait()\n";
    let files = Files::new(&[("daemonises.py", daemonise)]);
    let marked = Marked::new();
    let mut spec = spec(&marked);
    spec.start_method = StartMethod::Exec;
    spec.python_path = vec![files.0.clone()];
    spec.preload = vec!["daemonises".to_owned()];
    let (mut zygote, mut events) = start(spec).await;
    let mut links: Vec<_> = (0..2).map(|slot| zygote.fork(&worker(slot), 0).expect("a fork")).collect();
    for link in &mut links {
        forked(&mut events).await;
        let children = "answer = len(open('/proc/thread-self/children').read().split())";
        assert_eq!(ask(link, children).await, "1", "it has adopted it");
    }
    for left in [3, 1] {
        tell(&links.remove(0), "os._exit(0)");
        exited(&mut events).await;
        let start = Instant::now();
        while marked.processes().len() > left {
            assert!(start.elapsed() < Duration::from_secs(1), "{:?}", marked.processes());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(marked.processes().len(), left, "{:?}", marked.processes());
    }
}

#[tokio::test]
async fn a_dropped_zygote_takes_all_its_workers_with_it_though_nobody_polls() {
    for lifeline in [true, false] {
        for method in [StartMethod::Zygote, StartMethod::Exec] {
            let marked = Marked::new();
            let mut spec = spec(&marked);
            spec.lifeline = lifeline;
            spec.start_method = method;
            let (mut zygote, mut events) = start(spec).await;
            assert_eq!(zygote.guarantees().lifeline, lifeline);
            let mut link = zygote.fork(&worker(0), 0).expect("a fork");
            forked(&mut events).await;
            ask(&mut link, "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True)").await;
            tell(&link, STUCK);
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(zygote);
            marked.assert_gone_within(Duration::from_secs(1));
        }
    }
}

#[tokio::test]
async fn workers_outlive_their_zygote_and_end_by_their_lifelines() {
    let marked = Marked::new();
    let (mut zygote, mut events) = start(spec(&marked)).await;
    let mut link = zygote.fork(&worker(0), 0).expect("a fork");
    let (_, _, pidfd) = forked(&mut events).await;
    let parent: i32 = ask(&mut link, "answer = os.getppid()").await.parse().expect("a number");
    let parent = rustix::process::Pid::from_raw(parent).expect("a process");
    rustix::process::kill_process(parent, Signal::KILL).expect("the zygote lives");
    let ZygoteEvent::Gone { why } = next(&mut events).await else { panic!("the zygote is not gone") };
    assert!(why.contains("signal 9 (SIGKILL)"), "{why}");
    assert!(zygote.fork(&worker(1), 0).is_err());
    assert_eq!(ask(&mut link, "answer = 6 * 7").await, "42");
    // Nor does it read of its end.
    tell(&link, STUCK);
    drop(link);
    soon(DeathWatch::new(pidfd).expect("a watch")).await;
    marked.assert_gone_within(Duration::from_secs(1));
}

#[tokio::test]
async fn a_worker_dies_with_its_zygote_where_lifelines_do_not_work() {
    let marked = Marked::new();
    let mut spec = spec(&marked);
    spec.lifeline = false;
    let (mut zygote, mut events) = start(spec).await;
    let mut link = zygote.fork(&worker(0), 0).expect("a fork");
    forked(&mut events).await;
    let parent: i32 = ask(&mut link, "answer = os.getppid()").await.parse().expect("a number");
    rustix::process::kill_process(rustix::process::Pid::from_raw(parent).expect("a process"), Signal::KILL)
        .expect("kill");
    marked.assert_gone_within(Duration::from_secs(1));
}

#[tokio::test]
async fn finished_replies_come_after_a_death_with_unread_requests() {
    let marked = Marked::new();
    let (mut zygote, mut events) = start(spec(&marked)).await;
    let mut link = zygote.fork(&worker(0), 0).expect("a fork");
    forked(&mut events).await;
    tell(&link, "answer = 'finished'");
    tell(&link, "time.sleep(0.1); os._exit(1)");
    tell(&link, "answer = 'never read'");
    exited(&mut events).await;
    assert_eq!(heard(&mut link).await.as_deref(), Some("finished"));
    assert_eq!(heard(&mut link).await, None);
}

#[tokio::test]
async fn a_full_channel_says_so_and_then_when_it_has_room() {
    let marked = Marked::new();
    let (mut zygote, _events) = start(spec(&marked)).await;
    let mut link = zygote.fork(&worker(0), 0).expect("a fork");
    ask(&mut link, "answer = 1").await;
    tell(&link, "time.sleep(0.1)");
    let large = [b' '; 32 * 1024];
    let mut sent = 1;
    while link.channel.try_send(&[IoSlice::new(&large), IoSlice::new(b"answer = 2")]).expect("it lives") {
        sent += 1;
        assert!(sent < 1000, "a bounded socket");
    }
    soon(std::future::poll_fn(|cx| link.channel.poll_send_ready(cx))).await.expect("room");
    for _ in 0..sent {
        heard(&mut link).await.expect("a reply");
    }
    assert!(link.channel.try_send(&[IoSlice::new(b"")]).is_err(), "an empty message reads like the end");
}

#[tokio::test]
async fn the_page_shows_what_the_worker_has_begun_and_a_revoke_is_exact() {
    let marked = Marked::new();
    let (mut zygote, _events) = start(spec(&marked)).await;
    let mut link = zygote.fork(&worker(0), 0).expect("a fork");
    assert_eq!(
        ask(&mut link, "page.words[page.begun_at(0)] = 1; page.words[page.begun_at(0) + 1] = 7; answer = page.entries")
            .await,
        "1"
    );
    let page = &link.page;
    assert_eq!((page.begun(0), page.begun_nested(0)), (1, 7));
    page.revoke(2);
    assert!(page.barrier());
    assert!(page.begun(0) < 2, "so it never begins");
    assert_eq!(ask(&mut link, "page.count_sent(); answer = page.revoked(2), page.revoked(66)").await, "(True, False)");
    let page = &link.page;
    assert_eq!(page.worker_sent(), 1);
    page.interrupt(66);
    page.set_poll_budget(Duration::from_micros(50));
    page.count_sent();
    let seen =
        ask(&mut link, "answer = page.interrupted(66), page.interrupted(2), page.poll_budget(), page.host_sent()")
            .await;
    assert_eq!(seen, "(True, False, 50000, 1)");
}

#[tokio::test]
async fn random_numbers_differ_between_workers() {
    let marked = Marked::new();
    let mut spec = spec(&marked);
    spec.preload = vec!["random".to_owned()];
    let (mut zygote, _events) = start(spec).await;
    let mut numbers = std::collections::BTreeSet::new();
    for slot in 0..3 {
        let mut link = zygote.fork(&worker(slot), 0).expect("a fork");
        numbers.insert(ask(&mut link, "import random; answer = random.getrandbits(64)").await);
    }
    assert_eq!(numbers.len(), 3);
}
