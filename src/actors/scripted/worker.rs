//! A worker: takes its messages in order, one thread for each entry, until it is killed.

use super::world::World;
use crate::clock;
use crate::process::scripted::{Asked, FarLink, Leash};
use crate::process::{BlockName, First, INLINE_LIMIT, MESSAGE_LIMIT};
use crate::rules::sim::reach::hit;
use crate::wire::{Body, FromWorker, HostEnded, Order, PROTOCOL, Place, ToWorker};
use futures::future::{Either, join_all, select};
use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{pending, poll_fn};
use std::io::IoSlice;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

const KILLED: i32 = 9;

/// What others do to a process.
pub(super) struct Handle {
    pub(super) kill: Notify,
    stopped_until: Mutex<Option<Instant>>,
    is_told: AtomicBool,
    /// How many objects and namespaces it has.
    pub(super) holds: Mutex<usize>,
}

impl Handle {
    pub(super) fn new() -> Self {
        Self {
            kill: Notify::new(),
            stopped_until: Mutex::default(),
            is_told: AtomicBool::new(false),
            holds: Mutex::default(),
        }
    }

    /// The host is told of it.
    pub(super) fn set_told(&self) {
        self.is_told.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_told(&self) -> bool {
        self.is_told.load(Ordering::Relaxed)
    }

    pub(super) fn stop_for(&self, how_long: Duration) {
        *self.stopped_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock::now() + how_long);
    }

    fn stopped_until(&self) -> Option<Instant> {
        *self.stopped_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message, as a thread of it has it.
pub(super) enum Told {
    Run(Box<Job>),
    Answer { seq: u64, entry: u32, ended: HostEnded },
    Ping,
    Stop,
}

pub(super) struct Job {
    pub(super) order: Order<'static>,
    pub(super) nested: bool,
    pub(super) body: Vec<u8>,
}

/// What it can iterate over: which call made it, how many items, and how many were sent.
pub(super) struct Items {
    pub(super) of: u64,
    pub(super) sent: u64,
    pub(super) all: u64,
}

#[derive(Default)]
pub(super) struct Held {
    pub(super) made: u64,
    pub(super) objects: BTreeMap<u64, Option<Items>>,
    pub(super) namespaces: BTreeSet<u64>,
    /// Answers for calls that lie below others.
    pub(super) answers: BTreeMap<u64, HostEnded>,
    released: Vec<u32>,
}

pub(super) struct Process {
    pub(super) world: Arc<World>,
    pub(super) name: String,
    pub(super) ref_base: u64,
    handle: Arc<Handle>,
    link: RefCell<FarLink>,
    pub(super) held: RefCell<Held>,
    /// With more entries than one each has a queue of its own.
    queues: Vec<RefCell<mpsc::UnboundedReceiver<Told>>>,
}

impl Process {
    /// Its life, and how it ended, as a wait status.
    pub(super) async fn live(world: &Arc<World>, asked: Asked, handle: &Arc<Handle>) -> i32 {
        let (name, ref_base) = (asked.worker.clone(), asked.ref_base);
        let (link, leash) = asked.link().expect("there are descriptors");
        world.keep_leftovers(name.clone(), link.leftovers());
        link.say(&format!("{name} begins\n"));
        let (queues, receivers): (Vec<_>, Vec<_>) = match link.page.entries() {
            1 => (Vec::new(), Vec::new()),
            entries => (0..entries).map(|_| mpsc::unbounded_channel()).unzip(),
        };
        let process = Self {
            world: Arc::clone(world),
            name,
            ref_base,
            handle: Arc::clone(handle),
            link: RefCell::new(link),
            held: RefCell::default(),
            queues: receivers.into_iter().map(RefCell::new).collect(),
        };
        let status = match select(pin!(process.killed(&leash)), pin!(process.run(queues))).await {
            Either::Left(_) => KILLED,
            Either::Right((status, _)) => status,
        };
        if world.faults.orphans && world.one_in(3) {
            hit("an orphan holds the channel".into());
            let world = Arc::clone(world);
            tokio::task::spawn_local(async move {
                world.delay(100).await;
                drop(process);
            });
        } else {
            drop(process);
            world.delay(3).await;
        }
        status
    }

    async fn killed(&self, leash: &Leash) {
        let is_by_host = match select(pin!(leash.let_go()), pin!(self.handle.kill.notified())).await {
            Either::Left(_) => true,
            Either::Right(_) => false,
        };
        self.world.witness().runs.kill(&self.name, is_by_host, |seq| self.link().page.interrupted(seq) == seq);
        if !is_by_host {
            return;
        }
        // A task may be in the kernel.
        self.world.delay(3).await;
    }

    /// Dies here and now.
    pub(super) async fn die(&self) {
        self.handle.kill.notify_one();
        pending().await
    }

    async fn run(&self, queues: Vec<mpsc::UnboundedSender<Told>>) -> i32 {
        self.world.pause(4).await;
        if self.world.faults.failed_starts && !self.world.is_calm() && self.world.one_in(6) {
            match self.world.below(3) {
                0 => {
                    hit("it dies while it starts".into());
                    return 70 << 8;
                }
                1 => {
                    hit("it is never ready".into());
                    pending::<()>().await;
                }
                _ => {
                    hit("a wrong greeting".into());
                    self.send(|_| FromWorker::Hello { protocol: PROTOCOL + 1, pid: 1 }, Vec::new()).await;
                    pending::<()>().await;
                }
            }
        }
        if !self.world.faults.no_fence {
            self.link().page.set_fenced();
        }
        self.send(|_| FromWorker::Hello { protocol: PROTOCOL, pid: 1 }, Vec::new()).await;
        if queues.is_empty() {
            return self.serve(0).await;
        }
        let threads = pin!(join_all((0..queues.len() as u32).map(|entry| self.serve(entry))));
        match select(pin!(self.distribute(&queues)), threads).await {
            Either::Left((never, _)) => never,
            Either::Right(_) => 0,
        }
    }

    pub(super) fn link(&self) -> RefMut<'_, FarLink> {
        self.link.borrow_mut()
    }

    /// Waits while the process is stopped.
    async fn awake(&self) {
        while let Some(until) = self.handle.stopped_until().filter(|until| *until > clock::now()) {
            if self.world.is_calm() {
                return;
            }
            tokio::time::sleep_until((until.min(clock::now() + Duration::from_millis(20))).into()).await;
        }
    }

    // ---- what it is told

    /// The thread that reads, where there are several.
    async fn distribute(&self, queues: &[mpsc::UnboundedSender<Told>]) -> i32 {
        loop {
            let told = self.read().await;
            let entry = match &told {
                Told::Run(job) => job.order.entry,
                Told::Answer { entry, .. } => *entry,
                Told::Ping => {
                    self.send(|_| FromWorker::Pong, Vec::new()).await;
                    continue;
                }
                Told::Stop => {
                    for queue in queues {
                        let _ended = queue.send(Told::Stop);
                    }
                    continue;
                }
            };
            let _ended = queues[entry as usize].send(told);
        }
    }

    /// The next message of a thread.
    pub(super) async fn next(&self, entry: u32) -> Told {
        match self.queues.get(entry as usize) {
            None => self.read().await,
            Some(queue) => match poll_fn(|cx| queue.borrow_mut().poll_recv(cx)).await {
                Some(told) => told,
                None => pending().await,
            },
        }
    }

    async fn read(&self) -> Told {
        let mut buffer = vec![0; MESSAGE_LIMIT];
        loop {
            self.awake().await;
            let received = poll_fn(|cx| self.link().channel.poll_recv(cx, &mut buffer, First::WhenReady, false)).await;
            let length = received.expect("the host keeps to the limit");
            if length == 0 {
                // The host has let go of it: its lifeline will say so.
                return pending().await;
            }
            let (message, inline) = ToWorker::decode(&buffer[..length]);
            match message {
                ToWorker::Call(order) => return self.job(order, false, inline),
                ToWorker::Nested(order) => return self.job(order, true, inline),
                ToWorker::HostReply { seq, entry, ended, body, released } => {
                    self.body(body, inline);
                    self.take_back(&released);
                    return Told::Answer { seq, entry, ended };
                }
                ToWorker::Free { refs, released } => {
                    self.take_back(&released);
                    let mut held = self.held.borrow_mut();
                    for id in refs {
                        held.objects.remove(&id);
                        held.namespaces.remove(&id);
                    }
                    self.note_held(&held);
                }
                ToWorker::Ping => return Told::Ping,
                ToWorker::Stop => return Told::Stop,
            }
        }
    }

    pub(super) fn note_held(&self, held: &Held) {
        *self.handle.holds.lock().unwrap_or_else(PoisonError::into_inner) = held.objects.len() + held.namespaces.len();
    }

    fn job(&self, order: Order<'static>, nested: bool, inline: &[u8]) -> Told {
        self.take_back(&order.released);
        let body = self.body(order.body, inline);
        Told::Run(Box::new(Job { order, nested, body }))
    }

    fn body(&self, body: Body, inline: &[u8]) -> Vec<u8> {
        match body.place().expect("the host says where") {
            Place::Inline { .. } => inline.to_vec(),
            Place::Block { index, len } => {
                self.held.borrow_mut().released.push(index);
                self.link().incoming.take(BlockName { index, len: len as u64 }).expect("the host has sent it")
            }
        }
    }

    fn take_back(&self, released: &[u32]) {
        for index in released {
            self.link().outgoing.released(*index).expect("the host had it");
        }
    }

    // ---- what it says

    /// Blocks of the host that the next message names.
    pub(super) fn released(&self) -> Vec<u32> {
        std::mem::take(&mut self.held.borrow_mut().released)
    }

    pub(super) async fn send(&self, message: impl FnOnce(Body) -> FromWorker, body: Vec<u8>) {
        self.awake().await;
        let (place, inline) = if body.len() <= INLINE_LIMIT {
            (Body::inline(body.len()), body)
        } else {
            hit("a large answer".into());
            let block = loop {
                let put = self.link().outgoing.put(&[&body]);
                match put {
                    Ok(block) => break block,
                    Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            };
            (Body::block(block.index, body.len()), Vec::new())
        };
        self.send_bytes(&message(place).encoded(&inline)).await;
    }

    pub(super) async fn send_bytes(&self, bytes: &[u8]) {
        loop {
            let sent = self.link().channel.try_send(&[IoSlice::new(bytes)]);
            match sent {
                Ok(true) => return self.link().page.count_worker_sent(),
                Ok(false) => {
                    let _gone = poll_fn(|cx| self.link().channel.poll_send_ready(cx)).await;
                }
                // The host has let go of it: its lifeline will say so.
                Err(_) => return pending().await,
            }
        }
    }

    /// One thread: its calls, in order.
    async fn serve(&self, entry: u32) -> i32 {
        let mut kept = VecDeque::new();
        loop {
            let told = match kept.pop_front() {
                Some(told) => told,
                None => self.next(entry).await,
            };
            match told {
                Told::Run(job) => self.call(entry, *job, &mut kept).await,
                Told::Answer { seq, .. } => {
                    self.world.fail(format!("{}: an answer to {seq}, which waits for none", self.name))
                }
                Told::Ping => self.send(|_| FromWorker::Pong, Vec::new()).await,
                Told::Stop => return 0,
            }
        }
    }
}
