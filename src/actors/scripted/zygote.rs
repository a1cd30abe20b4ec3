//! The zygote: forks workers, tells of them, dies, and ends with its lifeline.

use super::worker::{Handle, Process};
use super::world::World;
use crate::process::scripted::{Asked, FarZygote, Wanted, life};
use crate::process::{Exit, ExitStatus};
use crate::rules::sim::reach::hit;
use futures::future::{Either, select};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;

pub(super) async fn play(world: Arc<World>, mut wanted: mpsc::UnboundedReceiver<Wanted>) {
    while let Some(wanted) = wanted.recv().await {
        world.pause(8).await;
        if world.faults.failed_zygotes && !world.is_calm() && world.one_in(2) {
            hit("a zygote does not start".into());
            wanted.fail(false, "no such luck");
            continue;
        }
        let far = wanted.start().expect("there are descriptors");
        spawn_local(zygote(Arc::clone(&world), far));
    }
}

async fn zygote(world: Arc<World>, far: FarZygote) {
    world.keep_leftovers("a zygote".to_owned(), far.leftovers());
    let far = Rc::new(far);
    let death = Arc::new(Notify::new());
    world.add_zygote(&death);
    let mut children: Vec<Arc<Handle>> = Vec::new();
    let is_let_go = loop {
        let ended = pin!(async {
            match select(pin!(death.notified()), pin!(far.lifeline.let_go())).await {
                Either::Left(_) => false,
                Either::Right(_) => true,
            }
        });
        match select(ended, pin!(far.asked())).await {
            Either::Left((is_let_go, _)) => break is_let_go,
            Either::Right((asked, _)) => {
                let child = world.add_process(&asked.worker);
                children.push(Arc::clone(&child));
                spawn_local(worker(Arc::clone(&world), Rc::downgrade(&far), asked, child));
            }
        }
    };
    world.note(|| format!("a zygote ends, let go: {is_let_go}"));
    if is_let_go {
        for child in children {
            child.kill.notify_one();
        }
    } else {
        hit("a zygote dies".into());
    }
    let reaped = far.end();
    if !world.faults.late_news || world.one_in(2) {
        drop(far);
        world.delay(4).await;
    } else {
        // What it left behind holds its socket.
        let world = Arc::clone(&world);
        spawn_local(async move {
            world.delay(50).await;
            drop(far);
        });
    }
    let status = if is_let_go { ExitStatus::Code(0) } else { ExitStatus::Signal(9) };
    let _gone = reaped.map(|reaped| reaped.send(Exit { status, max_rss: 0 }));
}

/// A worker from its fork to the news of its end.
async fn worker(world: Arc<World>, zygote: Weak<FarZygote>, asked: Asked, handle: Arc<Handle>) {
    let (id, name) = (asked.id, asked.worker.clone());
    world.pause(2).await;
    if world.faults.failed_starts && !world.is_calm() && world.one_in(8) {
        hit("a fork fails".into());
        world.remove_process(&name);
        if let Some(zygote) = zygote.upgrade() {
            zygote.fork_failed(id, "no more processes");
        }
        return;
    }
    let (pidfd, alive) = life().expect("there are descriptors");
    let tell = async {
        world.delay(6).await;
        if zygote.upgrade().is_some_and(|zygote| zygote.forked(id, 0x7000_0000 + id as u32, &pidfd)) {
            handle.set_told();
        }
        drop(pidfd);
    };
    let (_, status) = futures::join!(tell, Process::live(&world, asked, &handle));
    world.note(|| format!("{name} ends: {status}"));
    drop(alive);
    world.remove_process(&name);
    world.delay(25).await;
    if let Some(zygote) = zygote.upgrade() {
        zygote.exited(id, status);
    }
}
