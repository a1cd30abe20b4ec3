//! Numbers the facts of one bridge and hands each to everyone who listens.

use super::of_listener;
use crate::event::{Event, Fact};
use actix::Recipient;
use futures::Stream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;
use tokio::sync::broadcast;

/// How many events a reader of a stream may lag behind before it misses some.
const BACKLOG: usize = 4096;

/// The events of one bridge. Clones are the same.
#[derive(Clone)]
pub(crate) struct Events(Arc<Mutex<Inner>>);

struct Inner {
    seq: u64,
    subscribers: Vec<Recipient<Event>>,
    streams: Option<broadcast::Sender<Event>>,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner { seq: 0, subscribers: Vec::new(), streams: None })))
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
        inner.subscribers.retain(Recipient::connected);
        for subscriber in &inner.subscribers {
            let _panicked = of_listener(|| subscriber.do_send(event.clone()));
        }
        if let Some(streams) = &inner.streams
            && of_listener(|| streams.send(event.clone())).is_some_and(|sent| sent.is_err())
        {
            inner.streams = None;
        }
        event
    }

    pub(crate) fn subscribe(&self, subscriber: Recipient<Event>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).subscribers.push(subscriber);
    }

    pub(crate) fn stream(&self) -> EventStream {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let streams = inner.streams.get_or_insert_with(|| broadcast::Sender::new(BACKLOG));
        let events = streams.subscribe();
        EventStream(Box::pin(futures::stream::unfold(events, |mut events| async move {
            loop {
                match events.recv().await {
                    Ok(event) => return Some((event, events)),
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        tracing::warn!(target: "snakebridge::event", missed, "a reader of events is too slow");
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })))
    }
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
