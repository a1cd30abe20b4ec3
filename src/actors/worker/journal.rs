//! What a worker writes to the message log: of each call the facts that an observer can check.

use super::WorkerActor;
use crate::id::CallId;
use crate::observe::Handled;
use crate::process::Exit;
use crate::rules::lane::{Death, Replied, Sent};
use crate::wire::Ended;

impl WorkerActor {
    /// Something is wanted of a call, which may not have come or may be over.
    pub(super) fn note_wish(&self, message: Handled, call: CallId) {
        if self.journal.takes(message) {
            let session = self.requests.get(&call).map(|request| request.hold.key());
            let standing = if session.is_some() { "it is here" } else { "it is not here" };
            self.journal.note(message, Some(call), session, || standing);
        }
    }

    pub(super) fn note_revoked(&self, seq: u64, begun: u64) {
        let verdict = if begun >= seq { "begun" } else { "not begun" };
        self.note_of_open(Handled::Revoked, seq, verdict);
    }

    pub(super) fn note_interrupted(&self, seq: u64) {
        self.note_of_open(Handled::Interrupted, seq, "told to end");
    }

    pub(super) fn note_passed(&self, seq: u64) {
        self.note_of_open(Handled::Passed, seq, "passed over");
    }

    fn note_of_open(&self, message: Handled, seq: u64, what: &'static str) {
        if self.journal.takes(message) {
            let call = self.lane.call_of(seq);
            let session = call.and_then(|call| self.requests.get(&call)).map(|request| request.hold.key());
            self.journal.note(message, call, session, || format!("{what} ({seq})"));
        }
    }

    pub(super) fn note_overran(&self, call: CallId) {
        let session = self.requests.get(&call).map(|request| request.hold.key());
        self.journal.note(Handled::Overran, Some(call), session, || "killed: it does not end");
    }

    pub(super) fn note_silence(&self, what: &str) {
        self.journal.note(Handled::Silence, None, None, || what.to_owned());
    }

    pub(super) fn note_memory(&self, what: &str) {
        self.journal.note(Handled::Memory, None, None, || what.to_owned());
    }

    pub(super) fn note_host_call(&self, seq: u64, what: &'static str) {
        self.note_of_open(Handled::HostCall, seq, what);
    }

    pub(super) fn note_part(&self, seq: u64) {
        self.note_of_open(Handled::Part, seq, "items");
    }

    pub(super) fn note_reply(&self, seq: u64, replied: &Replied, ended: Ended) {
        self.journal.note(Handled::Reply, Some(replied.call), Some(&replied.session), || {
            let what = match ended {
                Ended::Value => "value",
                Ended::Raised => "raised",
                Ended::NoSuchRef => "no such ref",
                Ended::Unsendable => "unsendable",
                Ended::Part => "part",
            };
            format!("{what} ({seq})")
        });
    }

    /// Which calls had begun, as the page says: in one record, and in one for each call.
    pub(super) fn note_death(&self, exit: Exit, death: &Death) {
        self.journal.note(Handled::Judged, None, None, || {
            let is_rerun = |call: &CallId| death.rerun.contains(call);
            let begun: Vec<_> = death.crashed.iter().chain(&death.rerun).copied().collect();
            let not_begun: Vec<_> = death.returned.iter().filter(|call| !is_rerun(call)).copied().collect();
            let cause = self.violation.as_deref().map_or_else(|| exit.to_string(), |what| format!("{exit}, {what}"));
            format!("{cause}; begun: {}; not begun: {}", listed(&begun), listed(&not_begun))
        });
        for call in &death.over {
            let is_crashed = death.crashed.contains(call);
            self.note_judged(*call, if is_crashed { "begun" } else { "answered before" });
        }
        for call in &death.returned {
            let is_rerun = death.rerun.contains(call);
            self.note_judged(*call, if is_rerun { "begun, runs once more" } else { "not begun" });
        }
    }

    fn note_judged(&self, call: CallId, judgement: &'static str) {
        let session = self.requests.get(&call).map(|request| request.hold.key());
        self.journal.note(Handled::CallJudged, Some(call), session, || judgement);
    }
}

pub(super) fn sent(sent: Option<Sent>) -> String {
    match sent {
        Some(Sent { seq, nested: false, .. }) => format!("sent ({seq})"),
        Some(Sent { seq, nested: true, .. }) => format!("sent, on top ({seq})"),
        None => "sent back: it was taken back before it came".to_owned(),
    }
}

fn listed(calls: &[CallId]) -> String {
    match calls {
        [] => "none".to_owned(),
        calls => calls.iter().map(CallId::to_string).collect::<Vec<_>>().join(", "),
    }
}
