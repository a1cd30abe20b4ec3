//! What a worker is told of its calls and of the objects that it holds.

use super::WorkerActor;
use crate::actors::request::Request;
use crate::clock;
use crate::id::{CallId, RefId};
use crate::observe::Handled;
use actix::prelude::*;
use std::sync::Arc;

/// A granted call.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Run {
    pub(crate) request: Box<Request>,
    /// The call of its tree that it runs on top of.
    pub(crate) on: Option<CallId>,
}

impl Handler<Run> for WorkerActor {
    type Result = ();

    fn handle(&mut self, Run { request, on }: Run, _: &mut Context<Self>) {
        self.run(request, on);
    }
}

/// The caller of that call has gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Abandon {
    pub(crate) call: CallId,
}

impl Handler<Abandon> for WorkerActor {
    type Result = ();

    fn handle(&mut self, Abandon { call }: Abandon, _: &mut Context<Self>) {
        self.note_wish(Handled::Abandon, call);
        self.lane.cancel(call, clock::now());
        self.perform();
    }
}

/// See that the call does not begin.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct TakeBack {
    pub(crate) call: CallId,
}

impl Handler<TakeBack> for WorkerActor {
    type Result = ();

    fn handle(&mut self, TakeBack { call }: TakeBack, _: &mut Context<Self>) {
        self.note_wish(Handled::TakeBack, call);
        self.lane.take_back(call);
        self.perform();
    }
}

/// A `TakeBack` that waits for its request waits in vain.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct DropTakeBack {
    pub(crate) call: CallId,
}

impl Handler<DropTakeBack> for WorkerActor {
    type Result = ();

    fn handle(&mut self, DropTakeBack { call }: DropTakeBack, _: &mut Context<Self>) {
        self.note_wish(Handled::DropTakeBack, call);
        self.lane.drop_take_back(call);
    }
}

/// Let go of these objects.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Free {
    pub(crate) ids: Vec<RefId>,
}

impl Handler<Free> for WorkerActor {
    type Result = ();

    fn handle(&mut self, Free { ids }: Free, _: &mut Context<Self>) {
        self.journal.note(Handled::Free, None, None, || format!("{} refs", ids.len()));
        self.free(ids);
    }
}

/// The decoder has found that it writes what no worker of ours writes.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Distrust {
    pub(crate) what: Arc<str>,
}

impl Handler<Distrust> for WorkerActor {
    type Result = ();

    fn handle(&mut self, Distrust { what }: Distrust, _: &mut Context<Self>) {
        self.distrust(what);
    }
}
