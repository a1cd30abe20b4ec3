//! What a worker does with a call.

use super::witness::Witness;
use super::worker::{Items, Job, Process, Told};
use crate::clock;
use crate::pickle::to_fragment;
use crate::rules::sim::reach::hit;
use crate::value::Bytes;
use crate::wire::{Body, Ended, FromWorker, HostEnded, Step, decode_plan};
use futures::future::LocalBoxFuture;
use serde::Serialize;
use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

/// What a call gives: its number, and something that may be large.
pub(super) type Answer = (u64, Option<String>);

/// The first item of what a call made is this times its number, and each is one more than the one before.
pub(super) const ITEMS: u64 = 1_000;

/// How a call ends.
enum End {
    Value(Vec<u8>),
    Ref(Option<Items>),
    Raised(&'static str),
    NoSuchRef(u64),
    Unsendable,
}

/// A call that has begun.
struct Run {
    entry: u32,
    seq: u64,
    steps: Vec<Step>,
    want: Vec<u8>,
    numbers: Vec<u64>,
}

fn pickled(value: &impl Serialize) -> Vec<u8> {
    to_fragment(value).expect("plain data").into_body().bytes
}

/// An exception, as `errors.py` describes it.
fn described(type_name: &str) -> Vec<u8> {
    let (frames, notes, code) = (Vec::<(String, u32, String)>::new(), Vec::<String>::new(), None::<String>);
    pickled(&(None::<String>, vec![(type_name, "builtins", "on purpose", "", frames, notes, code)]))
}

/// The body that brings one ref.
fn referred(id: u64) -> Vec<u8> {
    let arguments = pickled(&(id, "m", "T"));
    let mut body = vec![0x80, 5, 0x82, 0xf1];
    body.extend_from_slice(&arguments[2..arguments.len() - 1]);
    body.extend_from_slice(b"R.");
    body
}

/// The numbers of a body, also those written in texts, in their order.
fn numbers(body: &[u8]) -> Vec<u64> {
    let (mut found, mut at) = (Vec::new(), 2);
    let little = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    while at < body.len() {
        let opcode = body[at];
        at += 1;
        let (skipped, length) = match opcode {
            b'K' => (0, 1),
            b'M' => (0, 2),
            b'J' => (0, 4),
            0x8a => (1, usize::from(body[at])),
            0x8c | b'C' => (1, usize::from(body[at])),
            b'X' | b'B' => (4, little(&body[at..at + 4]) as usize),
            0x82 | b'h' => (1, 0),
            _ => (0, 0),
        };
        let bytes = &body[at + skipped..at + skipped + length];
        at += skipped + length;
        match opcode {
            b'K' | b'M' | b'J' | 0x8a => found.push(little(bytes)),
            0x8c => found.extend(std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<u64>().ok())),
            _ => {}
        }
    }
    found
}

impl Process {
    pub(super) fn call<'a>(&'a self, entry: u32, job: Job, kept: &'a mut VecDeque<Told>) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let seq = job.order.seq;
            self.may_die("before it begins").await;
            let is_taken_back = {
                let page = &self.link().page;
                page.begin(entry, job.nested, seq);
                page.revoked(seq) == seq
            };
            if is_taken_back {
                hit("passed over".into());
                let released = self.released();
                return self.send(|_| FromWorker::Passed { seq, released }, Vec::new()).await;
            }
            self.world.witness().runs.begin(&self.name, seq);
            let (steps, want) = decode_plan(&job.order.plan);
            let run = Run { entry, seq, steps, want, numbers: numbers(&job.body) };
            let numbers = &run.numbers;
            let mut called = None;
            let end = match &run.steps[0] {
                Step::Batch => return self.batch(seq, numbers[0], numbers[1]).await,
                Step::Close | Step::Exit => {
                    self.work(seq, self.world.below(3), |_| {}).await;
                    End::Value(pickled(&()))
                }
                first => {
                    // Behind the ref that it works on.
                    let number = if matches!(first, Step::Method { .. }) { numbers[1] } else { numbers[0] };
                    self.begin(seq, number);
                    self.may_die("at its begin").await;
                    let end = self.act(&run, kept).await;
                    self.may_die("before its answer").await;
                    let is_raised = matches!(end, End::Raised(_));
                    self.world.witness().finish(number, is_raised);
                    called = Some(number);
                    end
                }
            };
            self.answer(seq, end).await;
            if let Some(number) = called {
                self.world.witness().sent(number);
            }
            self.may_die("after its answer").await;
        })
    }

    fn begin(&self, seq: u64, number: u64) {
        self.world.note(|| format!("{} begins {number}", self.name));
        let mut witness = self.world.witness();
        witness.runs.is_of(&self.name, seq, number);
        witness.begin(number, &self.name);
    }

    async fn may_die(&self, phase: &str) {
        if self.world.faults.deaths && !self.world.is_calm() && self.world.one_in(24) {
            hit(format!("dies {phase}"));
            self.world.note(|| format!("{} dies {phase}", self.name));
            self.die().await;
        }
    }

    async fn act(&self, run: &Run, kept: &mut VecDeque<Told>) -> End {
        let Run { entry, seq, steps, want, numbers } = run;
        let (entry, seq, first) = (*entry, *seq, &steps[0]);
        let number = numbers[0];
        match first {
            Step::Method { .. } if !self.held.borrow().objects.contains_key(&number) => return End::NoSuchRef(number),
            Step::Exec { namespace } | Step::Eval { namespace } => {
                let mut held = self.held.borrow_mut();
                held.namespaces.insert(*namespace);
                self.note_held(&held);
            }
            _ => {}
        }
        let is_long = self.world.faults.long_calls && !self.world.is_calm() && self.world.one_in(6);
        let length = if is_long {
            hit("a call that does not end".into());
            u64::MAX
        } else if self.world.one_in(8) {
            self.world.below(40)
        } else {
            self.world.below(3)
        };
        let called = if matches!(first, Step::Method { .. }) { numbers[1] } else { number };
        if self.work(seq, length, |witness| witness.interrupted(called)).await {
            hit("an interrupt is obeyed".into());
            return End::Raised("CallCancelled");
        }
        if matches!(first, Step::Function { name, .. } if name == "callback")
            && let Some(failure) = self.ask_host(entry, seq, numbers[1], number, kept).await
        {
            return End::Raised(failure);
        }
        if self.world.faults.violations && !self.world.is_calm() && self.world.one_in(12) {
            self.violate(seq, called).await;
        }
        match self.world.below(16) {
            0 => End::Raised("ValueError"),
            1 if self.world.faults.taints && self.world.one_in(4) => End::Raised("MemoryError"),
            1 => End::Unsendable,
            _ if steps.contains(&Step::Stream) => {
                End::Ref(Some(Items { of: called, sent: 0, all: self.world.below(40) }))
            }
            _ => match want.first() {
                Some(1) => End::Ref(None),
                Some(2) => End::Value(pickled(&())),
                _ => {
                    let large = self.world.one_in(16).then(|| "x".repeat(40_000));
                    End::Value(pickled(&(called, large)))
                }
            },
        }
    }

    /// Runs for so many milliseconds; whether it was interrupted. One without an end that nobody wants to end has one
    /// in a calm world; one that does not heed that it is to end has none but that of its worker.
    async fn work(&self, seq: u64, length: u64, interrupted: impl Fn(&mut Witness)) -> bool {
        let until = (length < u64::MAX).then(|| clock::now() + Duration::from_millis(length));
        let is_deaf = self.world.faults.deafness && self.world.one_in(3);
        let mut is_told = false;
        while until.map_or(is_told || !self.world.is_calm(), |until| clock::now() < until) {
            if !is_told && self.link().page.interrupted(seq) == seq {
                is_told = true;
                interrupted(&mut self.world.witness());
            }
            if is_told && !is_deaf {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        false
    }

    async fn violate(&self, seq: u64, number: u64) {
        let what = self.world.below(9);
        self.world.note(|| format!("{} violates: {what}", self.name));
        hit(format!("violation {what}"));
        let reply = |seq, body, refs| FromWorker::Reply { seq, ended: Ended::Value, body, released: Vec::new(), refs };
        match what {
            0 => self.send_bytes(b"garbage").await,
            1 => self.send(|body| reply(seq + 1_000, body, Vec::new()), pickled(&1)).await,
            2 => self.send(|_| FromWorker::Pong, Vec::new()).await,
            3 => self.send(|_| FromWorker::Passed { seq, released: Vec::new() }, Vec::new()).await,
            // It has ended, though nobody will know how.
            4 => {
                self.world.witness().finish(number, true);
                self.send(|_| reply(seq, Body::block(63, 100_000), Vec::new()), Vec::new()).await;
            }
            5 => self.send(|_| FromWorker::Hello { protocol: crate::wire::PROTOCOL, pid: 1 }, Vec::new()).await,
            6 => {
                let released = vec![63];
                let message = |body| FromWorker::HostCall { seq, function: 9_999, body, released, refs: Vec::new() };
                self.send(message, pickled(&1)).await;
            }
            7 => {
                self.world.witness().finish(number, true);
                self.send(|body| reply(seq, body, vec![1]), referred(1)).await;
            }
            _ => {
                hit("it closes its channel".into());
                self.link().close_channel();
            }
        }
        // It is killed for that.
        pending().await
    }

    /// Calls a function of the host, and runs what comes meanwhile on top; why it failed, if it did.
    async fn ask_host(
        &self,
        entry: u32,
        seq: u64,
        function: u64,
        number: u64,
        kept: &mut VecDeque<Told>,
    ) -> Option<&'static str> {
        let released = self.released();
        let message = |body| FromWorker::HostCall { seq, function, body, released, refs: Vec::new() };
        self.send(message, pickled(&number)).await;
        loop {
            let below = self.held.borrow_mut().answers.remove(&seq);
            let told = match below {
                Some(ended) => Told::Answer { seq, entry, ended },
                None => self.next(entry).await,
            };
            match told {
                Told::Run(job) if job.nested => {
                    hit("a call runs on top of another".into());
                    let mut above = VecDeque::new();
                    self.call(entry, *job, &mut above).await;
                    kept.append(&mut above);
                }
                Told::Answer { seq: answered, ended, .. } if answered == seq => {
                    hit(format!("a callback ends: {ended:?}"));
                    return match ended {
                        HostEnded::Value => None,
                        HostEnded::Failed | HostEnded::NoSuchFunction => Some("HostError"),
                        HostEnded::Cancelled => Some("CallCancelled"),
                    };
                }
                Told::Answer { seq, ended, .. } => {
                    self.held.borrow_mut().answers.insert(seq, ended);
                }
                Told::Ping => self.send(|_| FromWorker::Pong, Vec::new()).await,
                plain @ (Told::Run(_) | Told::Stop) => kept.push_back(plain),
            }
        }
    }

    async fn answer(&self, seq: u64, end: End) {
        let released = self.released();
        let reply = |ended, refs| move |body| FromWorker::Reply { seq, ended, body, released, refs };
        match end {
            End::Value(body) => self.send(reply(Ended::Value, Vec::new()), body).await,
            End::Ref(items) => {
                let id = {
                    let mut held = self.held.borrow_mut();
                    held.made += 1;
                    let id = self.ref_base + held.made;
                    held.objects.insert(id, items);
                    self.note_held(&held);
                    id
                };
                self.send(reply(Ended::Value, vec![id]), referred(id)).await;
            }
            End::Raised(what) => self.send(reply(Ended::Raised, Vec::new()), described(what)).await,
            End::NoSuchRef(id) => self.send(reply(Ended::NoSuchRef, Vec::new()), pickled(&id)).await,
            End::Unsendable => self.send(reply(Ended::Unsendable, Vec::new()), pickled(&"not that")).await,
        }
        self.world.witness().runs.answer(&self.name, seq);
    }

    /// Which call an iteration is of.
    fn iteration(&self, id: u64) -> Option<u64> {
        self.held.borrow().objects.get(&id)?.as_ref().map(|items| items.of)
    }

    /// Some items of an iteration, and whether they are the last; `None`: there is no such iteration.
    fn take_items(&self, id: u64, most: u64) -> Option<(Vec<u64>, bool)> {
        let mut held = self.held.borrow_mut();
        let items = held.objects.get_mut(&id)?.as_mut()?;
        let first = items.of * ITEMS + items.sent;
        let count = self.world.between(1, most).min(items.all - items.sent);
        items.sent += count;
        Some(((first..first + count).collect(), items.sent == items.all))
    }

    /// The next items of an iteration, in parts where they are slow.
    async fn batch(&self, seq: u64, id: u64, asked: u64) {
        let Some(number) = self.iteration(id) else {
            return self.answer(seq, End::NoSuchRef(id)).await;
        };
        let mut left = asked;
        loop {
            self.may_die("in a batch").await;
            if self.work(seq, self.world.below(3), |witness| witness.batch_interrupted(number)).await {
                return self.answer(seq, End::Raised("CallCancelled")).await;
            }
            let Some((items, is_over)) = self.take_items(id, left) else {
                return self.answer(seq, End::NoSuchRef(id)).await;
            };
            let count = items.len() as u64;
            left -= count;
            let raises = is_over && self.world.one_in(4);
            let end = match is_over {
                true if raises => Some(Bytes::from(described("ValueError"))),
                true => Some(Bytes::from(Vec::new())),
                false => None,
            };
            let body = pickled(&(items, end));
            if is_over || left == 0 || self.world.one_in(2) {
                self.answer(seq, End::Value(body)).await;
                return self.world.witness().gave(number, count, is_over.then_some(raises), self.world.stream_credit);
            }
            hit("a part of a batch".into());
            let part =
                |body| FromWorker::Reply { seq, ended: Ended::Part, body, released: Vec::new(), refs: Vec::new() };
            self.send(part, body).await;
            self.world.witness().gave(number, count, None, self.world.stream_credit);
        }
    }
}
