//! What a process writes to stdout and stderr: lines for `tracing`, and the tail of stderr for its obituary.
//!
//! It is read as fast as it comes, so that writing never blocks a worker, and held in bounded
//! memory, whatever is written: long lines are cut, floods are summed up.

use super::fds;
use crate::id::PoolName;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

/// How much of stderr is kept: a faulthandler dump of a hundred threads fits.
const TAIL: usize = 64 * 1024;
/// A longer line is cut here, and its rest is skipped.
const LINE: usize = 8 * 1024;
/// How many lines of one stream are logged within [`WINDOW`]; the rest is counted.
const LINES_PER_WINDOW: u32 = 1_000;
const WINDOW: Duration = Duration::from_secs(1);
/// How much is read before other tasks get their turn.
const BATCH: usize = 64 * 1024;
/// How much is read for an obituary: what a pipe holds, and a little more if someone still writes.
const LAST_WORDS: usize = 1 << 20;

/// The captured output of one process. Dropping it stops the reading.
#[derive(Debug)]
pub(crate) struct Output {
    streams: [Arc<Stream>; 2],
    tasks: [AbortHandle; 2],
}

#[derive(Debug)]
struct Stream {
    pipe: AsyncFd<OwnedFd>,
    lines: Mutex<Lines>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Stdout,
    Stderr,
}

impl Output {
    /// Reads two non-blocking pipes from now on; needs a runtime with I/O.
    pub(super) fn capture(pool: &PoolName, worker: &str, stdout: OwnedFd, stderr: OwnedFd) -> io::Result<Self> {
        let stream = |name, pipe| {
            let pipe = fds::watch(pipe, Interest::READABLE)?;
            let lines = Mutex::new(Lines::new(name, pool.clone(), worker.to_owned(), Instant::now()));
            io::Result::Ok(Arc::new(Stream { pipe, lines }))
        };
        let streams = [stream(Name::Stdout, stdout)?, stream(Name::Stderr, stderr)?];
        let tasks = streams.each_ref().map(|stream| {
            let stream = Arc::clone(stream);
            let reading = async move { std::future::poll_fn(|cx| stream.poll_drained(cx)).await };
            tokio::spawn(reading).abort_handle()
        });
        Ok(Self { streams, tasks })
    }

    /// The last 64 KiB of stderr, with what the pipe holds at this moment.
    pub(crate) fn stderr_tail(&self) -> String {
        let [_, stderr] = &self.streams;
        stderr.drain(LAST_WORDS);
        stderr.lines().tail()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        for (stream, task) in self.streams.iter().zip(&self.tasks) {
            task.abort();
            stream.drain(LAST_WORDS);
            stream.lines().finish(Instant::now());
        }
    }
}

impl Stream {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready at the end of the pipe.
    fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Ok(mut guard) = ready!(self.pipe.poll_read_ready(cx)) else { return Poll::Ready(()) };
            match self.drain(BATCH) {
                Drained::Empty => guard.clear_ready(),
                Drained::Ended => return Poll::Ready(()),
                Drained::More => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }

    fn drain(&self, limit: usize) -> Drained {
        let mut lines = self.lines();
        let mut buffer = [0; 16 * 1024];
        let mut total = 0;
        while total < limit {
            match rustix::io::read(self.pipe.get_ref(), &mut buffer) {
                Ok(0) => {
                    lines.finish(Instant::now());
                    return Drained::Ended;
                }
                Ok(length) => {
                    total += length;
                    lines.take(&buffer[..length], Instant::now());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Drained::Empty,
                Err(_) => return Drained::Ended,
            }
        }
        Drained::More
    }
}

enum Drained {
    Empty,
    More,
    Ended,
}

/// Cuts bytes into lines and logs as many as the rate allows.
#[derive(Debug)]
struct Lines {
    name: Name,
    pool: PoolName,
    worker: String,
    line: Vec<u8>,
    cut: bool,
    tail: VecDeque<u8>,
    window: Instant,
    logged: u32,
    skipped: u64,
}

impl Lines {
    fn new(name: Name, pool: PoolName, worker: String, now: Instant) -> Self {
        let tail = VecDeque::new();
        Self { name, pool, worker, line: Vec::new(), cut: false, tail, window: now, logged: 0, skipped: 0 }
    }

    fn take(&mut self, mut bytes: &[u8], now: Instant) {
        if self.name == Name::Stderr {
            self.tail.extend(bytes);
            self.tail.drain(..self.tail.len().saturating_sub(TAIL));
        }
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.add(&bytes[..end]);
            self.end_line(now);
            bytes = &bytes[end + 1..];
        }
        self.add(bytes);
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = LINE - self.line.len();
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.cut |= bytes.len() > room;
    }

    fn end_line(&mut self, now: Instant) {
        if now.duration_since(self.window) >= WINDOW {
            self.sum_up();
            self.window = now;
            self.logged = 0;
        }
        if self.logged < LINES_PER_WINDOW {
            self.logged += 1;
            let mut text = printable(&self.line);
            if self.cut {
                text.push_str(" … (cut)");
            }
            self.log(&text);
        } else {
            self.skipped += 1;
        }
        self.line.clear();
        self.cut = false;
    }

    fn finish(&mut self, now: Instant) {
        if !self.line.is_empty() {
            self.end_line(now);
        }
        self.sum_up();
    }

    fn sum_up(&mut self) {
        if self.skipped > 0 {
            self.log(&format!("{} lines more are not shown", self.skipped));
            self.skipped = 0;
        }
    }

    fn log(&self, line: &str) {
        let (pool, worker) = (self.pool.as_str(), &self.worker);
        match self.name {
            Name::Stdout => tracing::info!(target: "snakebridge::output", pool, worker, "{line}"),
            Name::Stderr => tracing::warn!(target: "snakebridge::output", pool, worker, "{line}"),
        }
    }

    fn tail(&mut self) -> String {
        String::from_utf8_lossy(self.tail.make_contiguous()).into_owned()
    }
}

/// Control characters escaped, so that no output can play with a terminal or forge a log line.
fn printable(bytes: &[u8]) -> String {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    let mut text = String::with_capacity(bytes.len());
    for character in String::from_utf8_lossy(bytes).chars() {
        if character.is_control() && character != '\t' {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    /// Collects the messages of one thread.
    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<String>>>);

    impl Visit for Heard {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            if field.name() == "message" {
                self.0.lock().expect("one thread").push(format!("{value:?}"));
            }
        }
    }

    impl Subscriber for Heard {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "snakebridge::output"
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            event.record(&mut self.clone());
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    fn heard(play: impl FnOnce(&mut Lines, Instant)) -> Vec<String> {
        let heard = Heard::default();
        let now = Instant::now();
        tracing::subscriber::with_default(heard.clone(), || {
            play(&mut Lines::new(Name::Stderr, "test".into(), "test/0#1".to_owned(), now), now);
        });
        let lines = heard.0.lock().expect("one thread");
        lines.clone()
    }

    #[test]
    fn lines_are_joined_from_pieces_and_the_last_needs_no_end() {
        let lines = heard(|lines, now| {
            for piece in ["one\ntw", "o\r\n", "\nthree"] {
                lines.take(piece.as_bytes(), now);
            }
            lines.finish(now);
            lines.finish(now);
        });
        assert_eq!(lines, ["one", "two", "", "three"]);
    }

    #[test]
    fn control_characters_are_escaped_and_wrong_utf8_is_marked() {
        let lines = heard(|lines, now| lines.take(b"\x1b[31mred\ttab \xff \x00\n", now));
        assert_eq!(lines, ["\\u{1b}[31mred\ttab \u{fffd} \\u{0}"]);
    }

    #[test]
    fn a_line_is_cut_at_its_limit_and_not_before() {
        let lines = heard(|lines, now| {
            for length in [LINE, LINE + 1, 10 * LINE] {
                lines.take(&vec![b'x'; length], now);
                lines.take(b"\n", now);
            }
        });
        let whole = "x".repeat(LINE);
        assert_eq!(lines[0], whole);
        assert_eq!(lines[1..], [format!("{whole} … (cut)"), format!("{whole} … (cut)")]);
    }

    #[test]
    fn a_flood_is_summed_up_and_the_next_second_is_heard_again() {
        let lines = heard(|lines, now| {
            lines.take("a\n".repeat(LINES_PER_WINDOW as usize + 250).as_bytes(), now);
            lines.take(b"later\n", now + WINDOW);
        });
        assert_eq!(lines.len(), LINES_PER_WINDOW as usize + 2);
        assert_eq!(lines[LINES_PER_WINDOW as usize..], ["250 lines more are not shown", "later"]);
    }

    #[test]
    fn the_tail_keeps_its_last_bytes() {
        heard(|lines, now| {
            lines.take(&vec![b'x'; 3 * TAIL], now);
            lines.take(b"end", now);
            let tail = lines.tail();
            assert!(tail.len() == TAIL && tail.ends_with("xend"));
        });
    }
}
