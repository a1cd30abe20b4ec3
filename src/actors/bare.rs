//! For tests only: a bridge without a pool, on the arbiter of the test.

use super::contained::{self, Teller};
use super::core::{Core, Life};
use super::directory::Directory;
use super::hold::Hold;
use super::registry::Registry;
use super::request::Reply;
use crate::config::{Affinity, Config, LogLevel, MessageLogLevel, SessionOptions};
use crate::id::{PoolName, RefId, WorkerId};
use crate::observe::{Events, Messages, Observers, Who};
use actix::Arbiter;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) fn bridge() -> Arc<Life> {
    let config = Config::single(1, Affinity::Hint);
    let messages = Messages::new(MessageLogLevel::default());
    let observers = Observers { events: Events::new(), messages, call_events: false };
    let directory = Arc::new(Directory::new(&config));
    let teller = Teller { events: observers.events.clone(), who: Who::Registry };
    let registry = contained::create(teller, {
        let (directory, observers) = (Arc::clone(&directory), observers.clone());
        move |ctx| Registry::new(directory, observers, LogLevel::Off, None, ctx)
    });
    let arbiter = Arbiter::current();
    let core = Core::new(BTreeMap::new(), Vec::new(), &config, arbiter, registry, directory, observers);
    Arc::new(Life { core: Arc::new(core) })
}

pub(crate) fn session(life: &Arc<Life>, id: &str) -> Arc<Hold> {
    life.core.directory.hold(&id.into(), false, &SessionOptions::new(), life).expect("the bridge runs")
}

pub(crate) fn worker(slot: u32) -> WorkerId {
    WorkerId::new(PoolName::from("p"), slot, 1)
}

/// What a worker would have sent, as `pickle.dumps(…, 5)` writes it or shorter.
pub(crate) fn reply(hold: &Arc<Hold>, body: Vec<u8>, refs: Vec<RefId>) -> Reply {
    assert!(hold.admit_refs(refs.len()), "the session may hold them");
    Reply::new(body, worker(0), Arc::clone(hold), refs)
}
