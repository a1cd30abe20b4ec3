//! Callbacks: functions of the host that calls in this worker wait for.
//!
//! The pool hears that a call waits before its callback is first polled, and that it waits no more before
//! Python has the answer. The callback runs as a task of the bridge's thread; it is dropped with the call
//! that waits for it.

use super::WorkerActor;
use crate::actors::hold::Hold;
use crate::actors::pool::{CallbackBegun, CallbackOver};
use crate::actors::request::{Reply, Request};
use crate::actors::scope::{NewHome, Scope};
use crate::error::{Error, Ran, Result};
use crate::id::{CallId, RefId};
use crate::observe::Handled;
use crate::pickle::{self, Body};
use crate::rules::pool::Purpose;
use crate::value::Bytes;
use crate::wire::HostEnded;
use actix::prelude::*;
use futures::future::{AbortHandle, BoxFuture, abortable};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The callbacks that run, by the numbers of the calls that wait for them. Dropped, each is.
#[derive(Default)]
pub(super) struct Callbacks(BTreeMap<u64, AbortHandle>);

impl Callbacks {
    fn drop_one(&mut self, seq: u64) {
        if let Some(callback) = self.0.remove(&seq) {
            callback.abort();
        }
    }

    pub(super) fn drop_all(&mut self) {
        for callback in std::mem::take(&mut self.0).into_values() {
            callback.abort();
        }
    }
}

impl Drop for Callbacks {
    fn drop(&mut self) {
        self.drop_all();
    }
}

/// What Python asks of a function of the host.
pub(super) struct HostCall {
    pub(super) seq: u64,
    pub(super) function: u64,
    pub(super) body: Vec<u8>,
    pub(super) refs: Vec<RefId>,
}

impl WorkerActor {
    /// # Errors
    /// It is none that a worker of ours makes.
    pub(super) fn host_call(&mut self, asked: HostCall, ctx: &mut Context<Self>) -> Result<(), String> {
        let HostCall { seq, function, body, refs } = asked;
        // It would go on for ever, and the answers pile up.
        if self.outbox.owes_answer(seq) {
            return Err(format!("call {seq} asks again before it can have read an answer"));
        }
        let call = self.lane.handle_callback(seq).map_err(|violation| format!("{violation:?}"))?;
        let request = call.and_then(|call| self.requests.get(&call)).filter(|request| !request.promise.is_abandoned());
        let Some(request) = request else {
            // Its caller was answered, or has left.
            self.note_host_call(seq, "cancelled");
            self.refuse_callback(seq, refs, HostEnded::Cancelled);
            return Ok(());
        };
        let hold = Arc::clone(&request.hold);
        let functions = &hold.life.core.functions;
        if function == 0 {
            let name: String = pickle::decode_plain(&body).map_err(|error| format!("{error:?}"))?;
            let found = functions.named(&name).map(|(id, want)| (id, Bytes::from(want.to_vec())));
            self.note_host_call(seq, "asks for a function by its name");
            let answer = pickle::to_fragment(&found).map_err(|error| error.to_string())?.into_body();
            self.answer_callback(seq, HostEnded::Value, answer.bytes);
            return Ok(());
        }
        let Some(function) = functions.find(function) else {
            self.note_host_call(seq, "no such function");
            self.refuse_callback(seq, refs, HostEnded::NoSuchFunction);
            return Ok(());
        };
        let (call, scope) = (request.call, scope_of(request));
        if !hold.admit_refs(refs.len()) {
            let limit = Error::RefLimit { session: hold.id().clone(), limit: hold.state.max_refs, ran: Ran::No };
            self.note_host_call(seq, "more refs than its session may hold");
            self.free(refs);
            self.answer_callback(seq, HostEnded::Failed, pickle::describe(&limit).bytes);
            return Ok(());
        }
        self.note_host_call(seq, "callback begun");
        self.keep(call, &hold, &refs);
        self.pool.do_send(CallbackBegun { call });
        let arguments = Reply::new(body, self.id.clone(), Arc::clone(&hold), refs);
        self.begin_callback(seq, &hold, function.run(arguments, scope), ctx);
        Ok(())
    }

    fn begin_callback(
        &mut self,
        seq: u64,
        hold: &Hold,
        callback: BoxFuture<'static, Result<Body>>,
        ctx: &mut Context<Self>,
    ) {
        let (callback, handle) = abortable(callback);
        self.callbacks.0.insert(seq, handle);
        let this = ctx.address();
        let task = async move {
            // One that was dropped has been answered for.
            if let Ok(outcome) = callback.await {
                this.do_send(CallbackEnded { seq, outcome });
            }
        };
        if !hold.life.core.arbiter.spawn(task) {
            let outcome = Err(Error::ShuttingDown { ran: Ran::No });
            ctx.address().do_send(CallbackEnded { seq, outcome });
        }
    }

    /// A call that waits is cancelled: its callback is dropped, and what that had open with it.
    pub(super) fn drop_callback(&mut self, seq: u64, call: CallId) {
        self.note_host_call(seq, "callback dropped");
        self.callbacks.drop_one(seq);
        self.pool.do_send(CallbackOver { call });
        // For those who ask whether it is cancelled: what ends its wait is the answer.
        let _told = self.tell_to_end(seq);
        self.send_answer(seq, HostEnded::Cancelled, Vec::new());
    }

    fn refuse_callback(&mut self, seq: u64, refs: Vec<RefId>, ended: HostEnded) {
        self.free(refs);
        self.answer_callback(seq, ended, Vec::new());
    }

    /// Without a callback that the pool would know of.
    fn answer_callback(&mut self, seq: u64, ended: HostEnded, body: Vec<u8>) {
        let _waited = self.lane.handle_callback_over(seq);
        self.send_answer(seq, ended, body);
    }

    fn send_answer(&mut self, seq: u64, ended: HostEnded, body: Vec<u8>) {
        if let Some(entry) = self.lane.entry_of(seq) {
            self.outbox.send_answer(seq, entry, ended, body, &self.page);
            self.look_for_answers();
        }
    }
}

/// What its calls are made in: a callback of one that makes a home ready helps with that.
fn scope_of(request: &Request) -> Scope {
    let rebuilds = match request.purpose {
        Purpose::Rebuilding { under } => {
            Some(NewHome { session: request.hold.key().clone(), pool: request.pool.clone(), call: under })
        }
        Purpose::Call | Purpose::Opening | Purpose::Continuing => None,
    };
    Scope { tree: request.tree_within(), rebuilds }
}

/// A callback has ended.
#[derive(Message)]
#[rtype(result = "()")]
struct CallbackEnded {
    seq: u64,
    outcome: Result<Body>,
}

impl Handler<CallbackEnded> for WorkerActor {
    type Result = ();

    fn handle(&mut self, CallbackEnded { seq, outcome }: CallbackEnded, _: &mut Context<Self>) {
        self.callbacks.0.remove(&seq);
        let Some(call) = self.lane.call_of(seq) else { return };
        if !self.lane.handle_callback_over(seq) {
            return;
        }
        self.journal.note(Handled::HostCall, Some(call), None, || match &outcome {
            Ok(_) => format!("callback over ({seq})"),
            Err(error) => format!("callback failed, {} ({seq})", error.code()),
        });
        self.pool.do_send(CallbackOver { call });
        match outcome {
            Ok(body) => {
                // What Python may call now lives as long as the call that was given it.
                if let Some(request) = self.requests.get_mut(&call) {
                    request.callbacks.extend(body.callbacks);
                }
                // Its refs are let go of behind the answer.
                self.send_answer(seq, HostEnded::Value, body.bytes);
            }
            Err(error) => self.send_answer(seq, HostEnded::Failed, pickle::describe(&error).bytes),
        }
        self.perform();
    }
}
