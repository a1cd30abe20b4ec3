//! What an actor keeps when it panics, shown on one that does nothing else.

use super::injection::Panic;
use super::*;
use tokio::sync::mpsc;

#[derive(Default)]
struct Counter {
    count: u32,
    told: Option<mpsc::UnboundedSender<u32>>,
}

impl Actor for Counter {
    type Context = Context<Self>;
}

impl Supervised for Counter {
    fn restarting(&mut self, _: &mut Context<Self>) {
        if let Some(told) = &self.told {
            let _gone = told.send(self.count);
        }
    }
}

impl Handler<Panic> for Counter {
    type Result = ();

    fn handle(&mut self, _: Panic, _: &mut Context<Self>) {
        panic!("on purpose");
    }
}

#[derive(Message)]
#[rtype(result = "u32")]
struct Count;

impl Handler<Count> for Counter {
    type Result = u32;

    fn handle(&mut self, _: Count, _: &mut Context<Self>) -> u32 {
        self.count += 1;
        self.count
    }
}

fn counter(events: &Events) -> (Addr<Counter>, mpsc::UnboundedReceiver<u32>) {
    let (told, hears) = mpsc::unbounded_channel();
    let teller = Teller { events: events.clone(), who: Who::Registry };
    (create(teller, |_| Counter { count: 0, told: Some(told) }), hears)
}

#[actix::test]
async fn an_actor_that_panics_keeps_its_state_its_address_and_what_waits_in_its_mailbox() {
    let events = Events::new();
    let mut seen = events.stream();
    let (actor, mut hears) = counter(&events);
    let before = actor.send(Count);
    actor.do_send(Panic);
    let behind = actor.send(Count);
    assert_eq!((before.await, behind.await), (Ok(1), Ok(2)));
    assert_eq!(hears.recv().await, Some(1), "it is told before it takes the next message");
    let event = futures::StreamExt::next(&mut seen).await.expect("the events go on");
    let told = Fact::ActorPanicked { actor: "registry".to_owned(), what: "on purpose".to_owned() };
    assert_eq!(event.fact(), &told);
    assert_eq!(actor.send(Panic).await, Err(MailboxError::Closed), "the message that it had in hand is lost");
}

#[actix::test]
async fn an_actor_that_panics_again_soon_goes_on_all_the_same() {
    let (actor, mut hears) = counter(&Events::new());
    for count in 0..3 {
        actor.do_send(Panic);
        assert_eq!(hears.recv().await, Some(count));
        assert_eq!(actor.send(Count).await, Ok(count + 1));
    }
}

#[test]
fn the_rest_grows_and_is_bounded() {
    let millis = |panics| rest(panics).map(|rest| rest.as_millis());
    assert_eq!([1, 2, 3, 4, 9, u32::MAX].map(millis), [None, Some(10), Some(20), Some(40), Some(1000), Some(1000)]);
}
