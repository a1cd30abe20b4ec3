//! Reads a message log of level `calls`, and says whether what the bridge promises of strict calls was kept.
//!
//! All calls are `strict_queue` calls of sessions that find a new home when theirs is lost.

use snakebridge::{CallId, LogRecord, SessionId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a log shows beside that nothing is wrong with it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) calls: usize,
    pub(crate) deaths: usize,
    /// Calls that had begun in a worker that died.
    pub(crate) crashed: usize,
    /// How often a call came back from a dead worker, and had not begun.
    pub(crate) returned: usize,
}

#[derive(Default)]
struct Call {
    /// Its place among the calls of its session.
    place: usize,
    granted_to: Vec<Arc<str>>,
    /// Where it was sent, and with which number there.
    sent: Option<(Arc<str>, u64)>,
    begun: usize,
    ended: usize,
}

#[derive(Default)]
struct Session {
    submitted: usize,
    /// The place of the call that was sent last, among those of which it is not known that they did not begin.
    sent: Vec<usize>,
    begun: Option<usize>,
    home: Option<Arc<str>>,
}

#[derive(Default)]
struct Checker {
    shown: Shown,
    calls: BTreeMap<CallId, Call>,
    sessions: BTreeMap<SessionId, Session>,
    last_sent: BTreeMap<Arc<str>, u64>,
    dead: Vec<Arc<str>>,
}

/// # Errors
/// The first record that should not be as it is, and why.
pub(crate) fn check(records: &[LogRecord]) -> Result<Shown, String> {
    let mut checker = Checker::default();
    for (before, record) in records.iter().zip(records.iter().skip(1)) {
        if record.seq != before.seq + 1 || record.missed != 0 {
            return Err(format!("a gap before {record:?}"));
        }
    }
    for record in records {
        checker.take(record).map_err(|what| format!("{what}: {record:?}"))?;
    }
    checker.finish()
}

impl Checker {
    fn take(&mut self, record: &LogRecord) -> Result<(), String> {
        if record.message == "judged" {
            self.shown.deaths += 1;
            self.dead.push(record.actor.clone());
            return Ok(());
        }
        let (Some(id), Some(session)) = (record.call, &record.session) else { return Ok(()) };
        if record.message == "call" {
            let session = self.sessions.entry(session.clone()).or_default();
            let call = Call { place: session.submitted, ..Call::default() };
            session.submitted += 1;
            self.shown.calls += 1;
            return must(self.calls.insert(id, call).is_none(), "a call is submitted twice");
        }
        let call = self.calls.get_mut(&id).ok_or("something of a call that nobody submitted")?;
        let session = self.sessions.get_mut(session).ok_or("a call of a session that nobody used")?;
        match record.message {
            "granted" => call.granted_to.push(record.outcome.clone()),
            "run" => {
                let Some(number) = number(&record.outcome) else { return Ok(()) };
                let worker = record.actor.strip_prefix("worker ").ok_or("a call runs in no worker")?;
                must(call.granted_to.iter().any(|to| to.contains(worker)), "sent where it was not granted")?;
                must(call.sent.is_none(), "sent while it may begin elsewhere")?;
                must(
                    session.sent.iter().all(|place| *place < call.place),
                    "sent before an earlier call of its session",
                )?;
                session.sent.push(call.place);
                let last = self.last_sent.entry(record.actor.clone()).or_default();
                must(number == *last + 1, "not the next number of its worker")?;
                *last = number;
                call.sent = Some((record.actor.clone(), number));
            }
            "reply" => {
                let number = number(&record.outcome).ok_or("a reply to no number")?;
                must(call.sent == Some((record.actor.clone(), number)), "a reply from where it was not sent")?;
                begin(call, session, &record.actor, &self.dead)?;
            }
            "call judged" if &*record.outcome == "begun" => {
                self.shown.crashed += 1;
                must(call.sent.as_ref().is_some_and(|(at, _)| *at == record.actor), "begun where it was not sent")?;
                begin(call, session, &record.actor, &self.dead)?;
            }
            "call judged" if &*record.outcome == "not begun" => {
                self.shown.returned += 1;
                must(call.sent.take().is_some_and(|(at, _)| at == record.actor), "back from where it was not sent")?;
                session.sent.retain(|place| *place != call.place);
            }
            "ended" => {
                call.ended += 1;
                must(call.ended == 1, "a call ends twice")?;
                let has_begun = !record.outcome.ends_with("ran: no");
                must(has_begun == (call.begun == 1), "the outcome does not say whether it had begun")?;
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Shown, String> {
        match self.calls.iter().find(|(_, call)| call.ended != 1) {
            Some((id, _)) => Err(format!("{id} has no end")),
            None => Ok(self.shown),
        }
    }
}

fn begin(call: &mut Call, session: &mut Session, worker: &Arc<str>, dead: &[Arc<str>]) -> Result<(), String> {
    call.begun += 1;
    must(call.begun == 1, "a call begins twice")?;
    must(session.begun.is_none_or(|last| last < call.place), "begun after a later call of its session")?;
    session.begun = Some(call.place);
    let is_home = session.home.as_ref().is_none_or(|home| home == worker || dead.contains(home));
    session.home = Some(worker.clone());
    must(is_home, "begun away from the home of its session")
}

fn must(holds: bool, else_what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(else_what.to_owned()) }
}

/// The number in `sent (7)`.
fn number(outcome: &str) -> Option<u64> {
    outcome.rsplit_once('(')?.1.strip_suffix(')')?.parse().ok()
}
