//! Random bytes, and what workers write with random faults: nothing panics, hangs or exhausts memory.
//!
//! Each target runs in a process of its own, which may take 256 MiB and 2 s for an input.
//! `SNAKEBRIDGE_FUZZ_SECONDS` sets for how long; a failure prints the command that repeats it.

use super::golden::bodies;
use super::hostile::rich;
use super::{typed, value_of};
use crate::pickle::opcode::*;
use crate::pickle::{decode_error, to_fragment};
use crate::rules::sim::random;
use crate::wire::{Body, Ended, FromWorker};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SECONDS: u64 = 3;
const TARGET: &str = "SNAKEBRIDGE_FUZZ_TARGET";
const SEED: &str = "SNAKEBRIDGE_FUZZ_SEED";
const PROGRESS: &str = "SNAKEBRIDGE_FUZZ_PROGRESS";
const MOST_MEMORY: u64 = 256 << 20;
const MOST_TIME: Duration = Duration::from_secs(2);
const LONGEST: usize = 4 << 10;

type Target = fn(&[u8]);

const TARGETS: &[(&str, Target)] =
    &[("value", to_value), ("types", to_types), ("error", to_error), ("header", to_message), ("again", there_and_back)];

fn to_value(input: &[u8]) {
    let Ok(value) = value_of(input) else { return };
    // Nor do its forms take long, whatever it is. A dict may have a key twice, and is equal to nothing then.
    let (is_reflexive, printed) = (value == value.clone(), value.to_string());
    assert!(is_reflexive || printed.contains("nan") || printed.contains('{'), "{printed}");
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Either {
    A(i64),
    B { text: Option<String> },
    C,
}

#[derive(Deserialize)]
struct Record {
    first: Vec<Either>,
    second: BTreeMap<String, Box<Option<Record>>>,
    third: (u8, f32, char),
}

fn to_types(input: &[u8]) {
    drop(typed::<serde_json::Value>(input).map_err(drop));
    drop(typed::<Vec<(String, f64, bool)>>(input).map_err(drop));
    drop(typed::<BTreeMap<u32, Vec<crate::Value>>>(input).map_err(drop));
    drop(typed::<Either>(input).map_err(drop));
    if let Ok(Record { first, second, third }) = typed::<Record>(input) {
        let seen: usize = first
            .iter()
            .map(|either| match either {
                Either::A(number) => *number as usize & 1,
                Either::B { text } => text.as_ref().map_or(0, String::len),
                Either::C => 1,
            })
            .sum();
        assert!(seen + second.len() <= input.len() * 64 && third.2.len_utf8() <= 4);
    }
}

fn to_error(input: &[u8]) {
    if let Ok(error) = decode_error(input) {
        assert!(error.to_string().len() < 64 * input.len() + (64 << 10), "it is cut");
    }
}

fn to_message(input: &[u8]) {
    if let Ok((message, body)) = FromWorker::decode(input) {
        assert!(body.len() <= input.len(), "{message:?}");
    }
}

fn there_and_back(input: &[u8]) {
    let Ok(value) = value_of(input) else { return };
    let Ok(fragment) = to_fragment(&value) else { return };
    let body = fragment.into_body();
    if body.refs.is_empty() {
        let again = value_of(&body.bytes).unwrap_or_else(|error| panic!("{error:?}: {value}"));
        assert_eq!(again.to_string(), value.to_string());
    }
}

#[test]
fn no_bytes_of_a_worker_panic_hang_or_exhaust_memory() {
    if let Ok(target) = std::env::var(TARGET) {
        return run(&target);
    }
    let seconds = setting("SNAKEBRIDGE_FUZZ_SECONDS").unwrap_or(SECONDS);
    let seed = setting(SEED).unwrap_or_else(|| u64::from(std::process::id()) << 20);
    std::thread::scope(|scope| {
        for (name, _) in TARGETS {
            scope.spawn(move || attack(name, seed, seconds));
        }
    });
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// One target, in a process of its own.
fn attack(name: &str, seed: u64, seconds: u64) {
    let progress = Progress::new(name);
    let test = "pickle::tests::fuzz::no_bytes_of_a_worker_panic_hang_or_exhaust_memory";
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(TARGET, name)
        .env(SEED, seed.to_string())
        .env("SNAKEBRIDGE_FUZZ_SECONDS", seconds.to_string())
        .env(PROGRESS, &progress.0)
        .output()
        .expect("this program runs");
    let last = progress.read();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{} at input {last}; repeat with: {TARGET}={name} {SEED}={last} SNAKEBRIDGE_FUZZ_SECONDS=0 cargo test --lib \
         {test}\n{said}",
        output.status,
    );
}

/// The number of the input that is under way, which outlives any death.
struct Progress(PathBuf);

impl Progress {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("snakebridge-fuzz-{}-{name}", std::process::id()));
        fs::write(&path, 0_u64.to_le_bytes()).expect("a temporary file");
        Self(path)
    }

    fn read(&self) -> u64 {
        let bytes = fs::read(&self.0).expect("it is there");
        u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// The numbers of inputs count from the seed.
fn run(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("there is such a target");
    let corpus = corpus(name);
    let (seed, seconds) = (setting(SEED).unwrap_or_default(), setting("SNAKEBRIDGE_FUZZ_SECONDS").unwrap_or(SECONDS));
    let progress =
        std::env::var(PROGRESS).ok().map(|path| fs::File::options().write(true).open(path).expect("it is there"));
    limit_memory();
    watch();
    let until = Instant::now() + Duration::from_secs(seconds);
    for number in seed.. {
        if let Some(file) = &progress {
            rustix::io::pwrite(file, &number.to_le_bytes(), 0).expect("eight bytes");
        }
        let input = Random(random::Random::new(number)).input(&corpus);
        STARTED.fetch_add(1, Ordering::Relaxed);
        target(&input);
        if Instant::now() >= until {
            break;
        }
    }
}

static STARTED: AtomicU64 = AtomicU64::new(0);

/// What takes too long ends the process.
fn watch() {
    std::thread::spawn(|| {
        loop {
            let before = STARTED.load(Ordering::Relaxed);
            std::thread::sleep(MOST_TIME);
            if before != 0 && STARTED.load(Ordering::Relaxed) == before {
                std::process::abort();
            }
        }
    });
}

/// What takes too much ends the process.
fn limit_memory() {
    let status = fs::read_to_string("/proc/self/status").expect("the kernel says");
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("the size of this process");
    let size: u64 = size.trim().trim_end_matches(" kB").parse().expect("a number");
    let limit = Rlimit { current: Some(size * 1024 + MOST_MEMORY), ..getrlimit(Resource::As) };
    setrlimit(Resource::As, limit).expect("it is lowered");
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    if name == "header" {
        let refs = vec![1, 9];
        let messages = [
            FromWorker::Reply {
                seq: 7,
                ended: Ended::Value,
                body: Body::inline(3),
                released: vec![2],
                refs: refs.clone(),
            },
            FromWorker::HostCall { seq: 7, function: 5, body: Body::inline(3), released: vec![2], refs },
            FromWorker::Passed { seq: 7, released: vec![1, 2, 3] },
        ];
        return messages.iter().map(|message| message.encoded(b"abc")).collect();
    }
    let mut bodies: Vec<_> = bodies().into_iter().filter(|body| body.len() < LONGEST / 2).collect();
    bodies.push(rich());
    bodies
}

struct Random(random::Random);

impl Random {
    fn next(&mut self) -> u64 {
        self.0.next()
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    fn input(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = if self.below(4) == 0 { self.grown() } else { self.one_of(corpus).clone() };
        for _ in 0..self.below(8) {
            self.mutate(&mut input, corpus);
        }
        input.truncate(LONGEST);
        input
    }

    /// A body of opcodes that are known, whether or not they make sense.
    fn grown(&mut self) -> Vec<u8> {
        let mut out = vec![PROTO, 5];
        for _ in 0..self.below(60) {
            self.opcode(&mut out);
        }
        out.push(STOP);
        out
    }

    fn opcode(&mut self, out: &mut Vec<u8>) {
        const BARE: &[u8] = &[
            MARK,
            NONE,
            REDUCE,
            EMPTY_LIST,
            APPEND,
            APPENDS,
            EMPTY_DICT,
            SETITEM,
            SETITEMS,
            EMPTY_TUPLE,
            TUPLE,
            TUPLE1,
            TUPLE2,
            TUPLE3,
            POP,
            POP_MARK,
            NEWTRUE,
            NEWFALSE,
            EMPTY_SET,
            ADDITEMS,
            FROZENSET,
            MEMOIZE,
        ];
        match self.below(8) {
            0 => out.extend([BININT1, self.next() as u8]),
            1 => out.extend([EXT1, 0xf0 + self.below(15) as u8]),
            2 => out.extend([BINGET, self.below(12) as u8]),
            3 => {
                out.push(*self.one_of(&[BININT, LONG_BINGET, BINUNICODE, BINBYTES, LONG4]));
                out.extend((self.length() as u32).to_le_bytes());
            }
            4 => {
                out.push(*self.one_of(&[BINUNICODE8, BINBYTES8, BYTEARRAY8, FRAME, BINFLOAT]));
                out.extend(self.length().to_le_bytes());
            }
            5 => {
                let text = self.below(6) as u8;
                out.extend([*self.one_of(&[SHORT_BINUNICODE, SHORT_BINBYTES, LONG1]), text]);
                out.extend((0..text).map(|_| self.next() as u8));
            }
            _ => out.push(*self.one_of(BARE)),
        }
    }

    /// A number that lengths and indices are badly served with.
    fn length(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(20) as u64,
            1 => 1 << self.below(64),
            2 => (1 << self.below(64)) - 1,
            _ => self.next(),
        }
    }

    fn mutate(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(input.len());
        let end = (at + self.below(16)).min(input.len());
        match self.below(8) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.next() as u8,
            2 => drop(input.drain(at..end)),
            3 => {
                let copied = input[at..end].to_vec();
                for _ in 0..self.below(50) {
                    input.splice(at..at, copied.iter().copied());
                }
            }
            4 => {
                let mut inserted = Vec::new();
                self.opcode(&mut inserted);
                input.splice(at..at, inserted);
            }
            5 => {
                let other = self.one_of(corpus);
                let from = self.below(other.len());
                input.splice(at.., other[from..].iter().copied());
            }
            6 => {
                let length = self.length().to_le_bytes();
                let end = (at + *self.one_of(&[1, 4, 8])).min(input.len());
                input.splice(at..end, length[..end - at].iter().copied());
            }
            _ => input.truncate(at + 1),
        }
    }
}
