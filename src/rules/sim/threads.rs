//! What a simulated worker process does: its threads take calls, wait for callbacks, and die with it.

use super::process::{Frame, Life, Step, Thread};
use super::reach;
use super::world::{Mailbox, Message, World};
use crate::id::{CallId, RefId, WorkerId};

impl World {
    pub(super) fn kill(&mut self, worker: &WorkerId) {
        let Some(actor) = self.workers.get_mut(worker) else { return };
        match actor.process.life {
            Life::Starting => actor.process.life = Life::Doomed,
            Life::Alive => {
                actor.process.life = Life::Dead;
                actor.process.objects.clear();
                actor.process.namespaces.clear();
                self.post(Mailbox::FromProcess(worker.clone()), Message::Gone);
            }
            Life::Doomed | Life::Dead => {}
        }
    }

    pub(super) fn tell_process(&mut self, worker: &WorkerId, message: Message) {
        let Some(actor) = self.workers.get_mut(worker).filter(|actor| actor.process.life == Life::Alive) else {
            return;
        };
        if actor.process.is_stopped && !matches!(message, Message::Continue) {
            return actor.process.held.push_back(message);
        }
        match message {
            Message::Continue => {
                if std::mem::replace(&mut actor.process.is_stopped, false) {
                    actor.process.continued_at = Some(self.now);
                }
                for message in std::mem::take(&mut actor.process.held) {
                    self.tell_process(worker, message);
                }
            }
            Message::Ping => {
                actor.process.pings += 1;
                self.answer_pings(worker);
            }
            Message::Run { seq, entry, nested, call } => {
                let thread = &mut actor.process.threads[entry as usize];
                let waiting = if nested { &mut thread.nested } else { &mut thread.inbox };
                waiting.push_back((seq, call));
                self.wake(worker, entry);
            }
            Message::HostReply { seq } => self.on_host_reply(worker, seq),
            Message::Free(ids) => {
                for id in ids {
                    assert!(actor.process.objects.remove(&id), "{id} is freed twice, or by the wrong worker");
                }
            }
            // It is not there if no call of it ever began.
            Message::DropNamespace(key) => {
                actor.process.namespaces.remove(&key.incarnation());
            }
            Message::Stop => {
                assert!(actor.process.threads.iter().all(Thread::is_idle), "{worker} is told to exit");
                self.kill(worker);
            }
            Message::Interrupt { seq } => self.on_interrupt(worker, seq),
            Message::Step(entry, turn) if actor.process.threads[entry as usize].turn == turn => {
                self.step(worker, entry)
            }
            Message::Step(..) => {}
            other => panic!("{other:?} is not for a process"),
        }
    }

    /// One thread answers between calls; with more there is one that does nothing else.
    fn answer_pings(&mut self, worker: &WorkerId) {
        let Some(actor) = self.workers.get_mut(worker) else { return };
        let threads = &actor.process.threads;
        if threads.len() > 1 || !threads[0].is_awake {
            for _ in 0..std::mem::take(&mut actor.process.pings) {
                self.post(Mailbox::FromProcess(worker.clone()), Message::Pong);
            }
        }
    }

    /// In place of the step that it would have taken, if it was to take one.
    pub(super) fn step_in(&mut self, worker: &WorkerId, entry: u32, delay: u64) {
        let actor = self.workers.get_mut(worker).expect("a step is of a worker that lives");
        let thread = &mut actor.process.threads[entry as usize];
        thread.is_awake = true;
        thread.turn += 1;
        let step = Message::Step(entry, thread.turn);
        // Not by the socket: a thread does not wait for what is on its way there.
        self.post_in(Mailbox::Thread(worker.clone(), entry), step, delay);
    }

    /// A message for a thread has come, which it looks at unless a call runs there.
    fn wake(&mut self, worker: &WorkerId, entry: u32) {
        let thread = &self.workers[worker].process.threads[entry as usize];
        if !thread.is_awake {
            self.step_in(worker, entry, 0);
        }
    }

    fn step(&mut self, worker: &WorkerId, entry: u32) {
        let at = entry as usize;
        let actor = self.workers.get_mut(worker).expect("a step is of a worker that lives");
        let thread = &mut actor.process.threads[at];
        thread.is_awake = false;
        match thread.stack.last().copied() {
            None | Some(Frame { step: Step::Waiting, .. }) => {
                if let Some((seq, call, nested)) = thread.take_next() {
                    self.begin(worker, entry, seq, call, nested);
                } else {
                    self.answer_pings(worker);
                }
            }
            Some(Frame { seq, step: Step::Begun, .. }) if actor.process.revoked.remove(&seq) => {
                actor.process.threads[at].stack.pop();
                self.post(Mailbox::FromProcess(worker.clone()), Message::Pass { seq });
                self.step_in(worker, entry, 0);
            }
            Some(Frame { call, step: Step::Begun, .. }) => {
                if let Some(top) = thread.stack.last_mut() {
                    top.step = Step::Running;
                }
                if let Some(before) = &self.witness.calls[&call].ran_at {
                    let is_over = self.workers.get(before).is_none_or(|before| before.process.life == Life::Dead);
                    assert!(is_over, "{call} runs in {before} and in {worker}");
                    reach::hit("a call begins once more".into());
                }
                if let Some(session) = self.witness.begin(call, worker)
                    && let Some(actor) = self.workers.get_mut(worker)
                {
                    actor.process.namespaces.insert(session);
                }
                self.run_on(worker, entry);
            }
            Some(Frame { seq, call, step: step @ (Step::Running | Step::Ending), .. }) => {
                if step == Step::Running && self.wants_callback(call) {
                    let actor = self.workers.get_mut(worker).expect("it was just read");
                    if let Some(top) = actor.process.threads[at].stack.last_mut() {
                        top.step = Step::Waiting;
                    }
                    self.post(Mailbox::FromProcess(worker.clone()), Message::HostCall { seq });
                } else {
                    self.end_call(worker, entry, seq);
                }
                self.step_in(worker, entry, 0);
            }
        }
    }

    fn begin(&mut self, worker: &WorkerId, entry: u32, seq: u64, call: CallId, nested: bool) {
        let actor = self.workers.get_mut(worker).expect("a step is of a worker that lives");
        let thread = &mut actor.process.threads[entry as usize];
        let is_late = !thread.stack.iter().any(|frame| self.witness.root(frame.call) == self.witness.root(call));
        if let Some(below) = thread.stack.last() {
            let is_its = self.witness.root(call) == self.witness.root(below.call);
            let may_mix = is_late || thread.stack.iter().any(|frame| frame.is_late);
            assert!(is_its || may_mix, "{call} is on top of another tree");
            reach::hit("a call runs on top of another".into());
        }
        assert!(thread.stack.len() <= 64, "the stack of {worker} is too high");
        thread.stack.push(Frame { seq, call, step: Step::Begun, is_late: is_late && nested });
        let begun = &mut actor.process.begun[entry as usize];
        let word = if nested { &mut begun.nested } else { &mut begun.plain };
        assert!(*word < seq, "{seq} begins at {worker} after {word}");
        *word = seq;
        self.witness.noted(call);
        let reads_in = self.random.below(3) * self.random.below(30);
        self.step_in(worker, entry, reads_in);
    }

    /// A call has some time of its own before it ends or asks for a callback.
    fn run_on(&mut self, worker: &WorkerId, entry: u32) {
        let is_long = self.faults.long_calls && self.random.one_in(20);
        let takes = if is_long { self.random.below(20_000) } else { self.random.below(500) };
        self.step_in(worker, entry, takes);
    }

    fn end_call(&mut self, worker: &WorkerId, entry: u32, seq: u64) {
        let makes = if self.random.one_in(3) { self.random.between(1, 2) } else { 0 };
        let refs: Vec<RefId> = (1..=makes).map(|id| RefId(self.last_ref + id)).collect();
        self.last_ref += makes;
        let actor = self.workers.get_mut(worker).expect("a step is of a worker that lives");
        actor.process.objects.extend(&refs);
        actor.process.threads[entry as usize].stack.pop();
        self.post(Mailbox::FromProcess(worker.clone()), Message::Reply { seq, refs });
    }

    /// The callback is over that a call waits for: on top of the stack, or further down.
    fn on_host_reply(&mut self, worker: &WorkerId, seq: u64) {
        let actor = self.workers.get_mut(worker).expect("it was just told");
        for (entry, thread) in (0..).zip(&mut actor.process.threads) {
            let Some(at) = thread.stack.iter().position(|frame| frame.seq == seq) else { continue };
            assert_eq!(thread.stack[at].step, Step::Waiting, "{seq} at {worker} does not wait");
            thread.stack[at].step = Step::Running;
            if at + 1 == thread.stack.len() && !thread.is_awake {
                self.run_on(worker, entry);
                self.strike(worker, entry);
            }
            return;
        }
        panic!("{seq} at {worker} does not run");
    }
}
