//! Numbers the facts of one bridge and hands each to everyone who listens.

use super::of_listener;
use crate::event::{Event, Fact};
use actix::Recipient;
use futures::Stream;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{mpsc, watch};

/// How many events a reader may lag behind before it misses some.
const BACKLOG: usize = 4096;
/// How long subscribers may take for what they have not had when the bridge has stopped.
const LINGER: Duration = Duration::from_millis(500);

/// The events of one bridge. Clones are the same.
#[derive(Clone)]
pub(crate) struct Events(Arc<Mutex<Inner>>);

struct Inner {
    seq: u64,
    subscribers: Subscribers,
    streams: Option<broadcast::Sender<Event>>,
}

enum Subscribers {
    None,
    Some(Feeds),
    /// The bridge has stopped.
    Closed,
}

/// What each of them is fed by, in a task of its own.
struct Feeds {
    events: broadcast::Sender<Event>,
    /// Dropped when there are no more events.
    last_told: watch::Sender<()>,
    /// A clone is with each task.
    alive: mpsc::Sender<Infallible>,
    all_fed: mpsc::Receiver<Infallible>,
}

impl Feeds {
    fn new() -> Self {
        let (alive, all_fed) = mpsc::channel(1);
        Self { events: broadcast::Sender::new(BACKLOG), last_told: watch::Sender::new(()), alive, all_fed }
    }
}

impl Events {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner { seq: 0, subscribers: Subscribers::None, streams: None })))
    }

    /// Tells everyone, and the log.
    pub(crate) fn emit(&self, fact: Fact) {
        log(&self.tell(fact));
    }

    /// Tells everyone but the log, for who holds a lock: whoever handles a log line may call the bridge.
    /// The lock here makes the order of the numbers the order of the telling.
    #[must_use = "it is to be logged as well"]
    pub(crate) fn tell(&self, fact: Fact) -> Event {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.seq += 1;
        let event = Event::new(inner.seq, SystemTime::now(), fact);
        if let Subscribers::Some(feeds) = &inner.subscribers
            && feeds.events.send(event.clone()).is_err()
        {
            inner.subscribers = Subscribers::None;
        }
        if let Some(streams) = &inner.streams
            && of_listener(|| streams.send(event.clone())).is_some_and(|sent| sent.is_err())
        {
            inner.streams = None;
        }
        event
    }

    /// What is told from now on goes to that subscriber for as long as this is polled.
    pub(crate) fn feed(&self, subscriber: Recipient<Event>) -> impl Future<Output = ()> + Send + 'static {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Subscribers::None = inner.subscribers {
            inner.subscribers = Subscribers::Some(Feeds::new());
        }
        let feed = match &inner.subscribers {
            Subscribers::Some(feeds) => {
                Some((feeds.events.subscribe(), feeds.last_told.subscribe(), feeds.alive.clone()))
            }
            Subscribers::None | Subscribers::Closed => None,
        };
        async move {
            let Some((events, mut more, alive)) = feed else { return };
            let patience = async {
                let _last_told = more.changed().await;
                tokio::time::sleep(LINGER).await;
            };
            futures::future::select(pin!(pass_on(events, subscriber)), pin!(patience)).await;
            drop(alive);
        }
    }

    /// Nothing is told any more. Resolves when every subscriber has had what was, or has taken too long for it.
    pub(crate) fn close(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let subscribers = std::mem::replace(&mut inner.subscribers, Subscribers::Closed);
        async move {
            if let Subscribers::Some(Feeds { events, last_told, alive, mut all_fed }) = subscribers {
                drop((events, last_told, alive));
                let _none = all_fed.recv().await;
            }
        }
    }

    pub(crate) fn stream(&self) -> EventStream {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let streams = inner.streams.get_or_insert_with(|| broadcast::Sender::new(BACKLOG));
        let events = streams.subscribe();
        EventStream(Box::pin(futures::stream::unfold(events, |mut events| async move {
            loop {
                match events.recv().await {
                    Ok(event) => return Some((event, events)),
                    Err(RecvError::Lagged(missed)) => too_slow(missed),
                    Err(RecvError::Closed) => return None,
                }
            }
        })))
    }
}

/// The next when the one before was handled, so that none gathers in a mailbox.
async fn pass_on(mut events: broadcast::Receiver<Event>, subscriber: Recipient<Event>) {
    loop {
        match events.recv().await {
            Ok(event) => {
                if subscriber.send(event).await.is_err() && !subscriber.connected() {
                    return;
                }
            }
            Err(RecvError::Lagged(missed)) => too_slow(missed),
            Err(RecvError::Closed) => return,
        }
    }
}

fn too_slow(missed: u64) {
    tracing::warn!(target: "snakebridge::event", missed, "a reader of events is too slow");
}

pub(crate) fn log(event: &Event) {
    tracing::debug!(target: "snakebridge::event", seq = event.seq(), fact = ?event.fact(), "{}", event.name());
}

/// The events of a bridge from the moment that it was asked for.
pub(crate) struct EventStream(Pin<Box<dyn Stream<Item = Event> + Send>>);

impl Stream for EventStream {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.as_mut().poll_next(cx)
    }
}
