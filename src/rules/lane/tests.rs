//! The lane's promises, one sentence each.

use super::*;

const GRACE: Duration = Duration::from_secs(2);

#[test]
fn numbers_rise_by_one_from_one_and_a_reply_closes_its_call() {
    let mut desk = Desk::new(1);
    assert_eq!(desk.grant(7, 1), Some(Sent { seq: 1, entry: 0 }));
    assert_eq!(desk.grant(8, 2), Some(Sent { seq: 2, entry: 0 }));
    let replied = desk.lane.handle_reply(1).expect("it is open");
    assert_eq!((replied.call, replied.is_awaited), (CallId(7), true));
    assert_eq!(desk.lane.open(), 1);
}

#[test]
fn an_answer_that_is_unknown_repeated_or_was_never_sent_is_a_violation() {
    let mut desk = Desk::new(1);
    desk.grant(1, 1);
    desk.lane.handle_reply(1).expect("it is open");
    for seq in [0, 1, 2, u64::MAX] {
        assert_eq!(desk.lane.handle_reply(seq), Err(Violation::NotOpen { seq }));
        assert_eq!(desk.lane.handle_passed(seq), Err(Violation::NotOpen { seq }));
    }
}

#[test]
fn a_call_that_nobody_revoked_cannot_be_passed() {
    let mut desk = Desk::new(1);
    desk.grant(1, 1);
    assert_eq!(desk.lane.handle_passed(1), Err(Violation::PassedUnasked { seq: 1 }));
}

#[test]
fn a_call_that_was_revoked_before_it_began_cannot_reply() {
    let mut desk = Desk::new(1);
    desk.grant(1, 1);
    desk.lane.take_back(CallId(1));
    desk.lane.handle_revocation(1, 0, desk.now);
    assert_eq!(desk.lane.handle_reply(1), Err(Violation::RepliedThoughRevoked { seq: 1 }));
}

#[test]
fn a_call_is_taken_back_exactly_if_its_entry_has_not_begun_it() {
    let mut desk = Desk::new(1);
    desk.grant(1, 1);
    desk.grant(2, 2);
    desk.lane.take_back(CallId(2));
    assert_eq!(desk.actions(), [LaneAction::Revoke { seq: 2, entry: 0 }]);
    desk.lane.handle_revocation(2, 1, desk.now);
    assert_eq!(desk.actions(), [LaneAction::TakenBack { call: CallId(2) }]);
    desk.lane.handle_passed(2).expect("it was revoked");
    assert_eq!(desk.actions(), [LaneAction::Passed { call: CallId(2) }]);
}

#[test]
fn a_call_that_has_begun_is_kept_and_its_reply_goes_to_its_caller() {
    let mut desk = Desk::new(1);
    desk.grant(1, 1);
    desk.lane.take_back(CallId(1));
    desk.actions();
    desk.lane.handle_revocation(1, 1, desk.now);
    assert_eq!(desk.actions(), [LaneAction::Kept { call: CallId(1) }]);
    assert!(desk.lane.handle_reply(1).expect("it is open").is_awaited);
}

#[test]
fn a_kept_call_that_is_passed_all_the_same_never_began() {
    let mut desk = Desk::new(1);
    desk.grant(1, 1);
    desk.lane.take_back(CallId(1));
    desk.lane.handle_revocation(1, 1, desk.now);
    desk.actions();
    desk.lane.handle_passed(1).expect("it was revoked");
    assert_eq!(desk.actions(), [LaneAction::TakenBack { call: CallId(1) }, LaneAction::Passed { call: CallId(1) }]);
}

#[test]
fn a_take_back_that_comes_before_its_request_keeps_it_from_being_sent() {
    let mut desk = Desk::new(1);
    desk.lane.take_back(CallId(1));
    assert_eq!(desk.actions(), []);
    assert_eq!(desk.grant(1, 1), None);
    assert_eq!(desk.actions(), [LaneAction::TakenBack { call: CallId(1) }, LaneAction::Passed { call: CallId(1) }]);
    desk.lane.take_back(CallId(2));
    desk.lane.drop_take_back(CallId(2));
    assert_eq!(desk.grant(2, 1), Some(Sent { seq: 1, entry: 0 }));
}

#[test]
fn a_call_may_come_again_while_its_first_number_is_yet_to_be_passed() {
    let mut desk = Desk::new(1);
    desk.grant(1, 1);
    desk.lane.take_back(CallId(1));
    desk.lane.handle_revocation(1, 0, desk.now);
    assert_eq!(desk.grant(1, 1), Some(Sent { seq: 2, entry: 0 }));
    desk.actions();
    desk.lane.handle_passed(1).expect("it was revoked");
    assert_eq!(desk.actions(), [LaneAction::Passed { call: CallId(1) }]);
    desk.lane.take_back(CallId(1));
    assert_eq!(desk.actions(), [LaneAction::Revoke { seq: 2, entry: 0 }]);
}

#[test]
fn at_its_deadline_a_call_that_has_not_begun_is_answered_no_and_its_lease_ends_when_it_is_passed() {
    let mut desk = Desk::new(1);
    desk.grant_for(1, 1, Duration::from_secs(1));
    desk.pass_time(Duration::from_secs(1));
    assert_eq!(desk.actions(), [LaneAction::Revoke { seq: 1, entry: 0 }]);
    desk.lane.handle_revocation(1, 0, desk.now);
    assert_eq!(desk.actions(), [timed_out(1, false)]);
    desk.lane.handle_passed(1).expect("it was revoked");
    assert_eq!(desk.actions(), [LaneAction::Over { call: CallId(1) }]);
    assert_eq!(desk.lane.poll_timeout(), None);
}

#[test]
fn a_call_that_has_begun_is_answered_maybe_at_its_deadline_and_killed_a_grace_later() {
    let mut desk = Desk::new(1);
    desk.grant_for(1, 1, Duration::from_secs(1));
    desk.pass_time(Duration::from_secs(1));
    desk.actions();
    desk.lane.handle_revocation(1, 1, desk.now);
    assert_eq!(desk.actions(), [timed_out(1, true)]);
    desk.pass_time(GRACE - Duration::from_nanos(1));
    assert_eq!(desk.actions(), []);
    desk.pass_time(Duration::from_nanos(1));
    assert_eq!(desk.actions(), [LaneAction::Kill { why: Why::Overran { call: CallId(1) } }]);
}

#[test]
fn a_reply_within_the_grace_saves_the_worker_and_nobody_waits_for_it() {
    let mut desk = Desk::new(1);
    desk.grant_for(1, 1, Duration::from_secs(1));
    desk.pass_time(Duration::from_secs(1));
    desk.lane.handle_revocation(1, 1, desk.now);
    assert!(!desk.lane.handle_reply(1).expect("it is open").is_awaited);
    assert_eq!(desk.lane.poll_timeout(), None);
}

#[test]
fn beside_other_calls_the_worker_is_tainted_first_and_they_get_one_more_grace() {
    let mut desk = Desk::new(2);
    desk.grant(1, 1);
    desk.grant(2, 2);
    desk.lane.cancel(CallId(1), desk.now);
    desk.lane.handle_revocation(1, 1, desk.now);
    desk.actions();
    desk.pass_time(GRACE);
    assert_eq!(desk.actions(), [LaneAction::Taint { how_long: 2 * GRACE }]);
    desk.pass_time(GRACE);
    assert_eq!(desk.actions(), [LaneAction::Kill { why: Why::Overran { call: CallId(1) } }]);
}

#[test]
fn a_caller_that_gives_up_before_the_call_began_keeps_it_from_beginning() {
    let mut desk = Desk::new(1);
    desk.grant(1, 1);
    desk.lane.cancel(CallId(1), desk.now);
    desk.lane.handle_revocation(1, 0, desk.now);
    let answer = LaneAction::Answer { call: CallId(1), verdict: Verdict::Cancelled { began: false } };
    assert_eq!(desk.actions(), [LaneAction::Revoke { seq: 1, entry: 0 }, answer]);
    desk.lane.cancel(CallId(99), desk.now);
    assert_eq!(desk.actions(), []);
}

#[test]
fn the_pool_is_told_that_a_call_is_kept_whose_caller_is_answered_already() {
    let mut desk = Desk::new(1);
    desk.grant(1, 1);
    desk.lane.cancel(CallId(1), desk.now);
    desk.lane.handle_revocation(1, 1, desk.now);
    desk.actions();
    desk.lane.take_back(CallId(1));
    assert_eq!(desk.actions(), [LaneAction::Kept { call: CallId(1) }]);
}

#[test]
fn calls_of_one_session_stay_on_their_entry_while_one_is_open_and_others_spread() {
    let mut desk = Desk::new(3);
    let entries: Vec<u32> = [(1, 1), (2, 2), (3, 1), (4, 3), (5, 1)]
        .into_iter()
        .filter_map(|(call, session)| desk.grant(call, session).map(|sent| sent.entry))
        .collect();
    assert_eq!(entries, [0, 1, 0, 2, 0]);
    for seq in [1, 3, 5] {
        desk.lane.handle_reply(seq).expect("it is open");
    }
    assert_eq!(desk.grant(6, 4).map(|sent| sent.entry), Some(0));
    assert_eq!(desk.grant(7, 1).map(|sent| sent.entry), Some(0), "all have one call; the lowest is as good as any");
}

#[test]
fn a_death_is_judged_by_the_begun_word_of_each_entry() {
    let mut desk = Desk::new(2);
    for (call, session) in [(1, 1), (2, 2), (3, 1), (4, 2)] {
        desk.grant(call, session);
    }
    // On entry 0 stand 1 and 3, on entry 1 stand 2 and 4.
    let death = desk.lane.handle_exit(&[3, 2]);
    assert_eq!(death.crashed, [CallId(1), CallId(2), CallId(3)]);
    assert_eq!(death.over, death.crashed);
    assert_eq!(death.returned, [CallId(4)]);
    assert_eq!((desk.lane.open(), desk.lane.poll_timeout()), (0, None));
}

#[test]
fn a_death_tells_nobody_twice() {
    let mut desk = Desk::new(1);
    for call in 1..=4 {
        desk.grant(call, call);
    }
    // The first runs on past its caller's patience, the second was given up, the third taken back.
    desk.lane.cancel(CallId(1), desk.now);
    desk.lane.handle_revocation(1, 1, desk.now);
    desk.lane.cancel(CallId(2), desk.now);
    desk.lane.handle_revocation(2, 1, desk.now);
    desk.lane.take_back(CallId(3));
    desk.lane.handle_revocation(3, 1, desk.now);
    let death = desk.lane.handle_exit(&[1]);
    assert_eq!(death.over, [CallId(1), CallId(2)]);
    assert_eq!((death.crashed, death.returned), (vec![], vec![CallId(4)]));
}

struct Desk {
    lane: Lane,
    now: Instant,
}

impl Desk {
    #[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
    fn new(concurrency: usize) -> Self {
        Self { lane: Lane::new(concurrency, GRACE), now: Instant::now() }
    }

    fn grant(&mut self, call: u64, session: u64) -> Option<Sent> {
        self.lane.handle_granted(CallId(call), SessionKey::new("s".into(), session), None, None)
    }

    fn grant_for(&mut self, call: u64, session: u64, timeout: Duration) -> Option<Sent> {
        let session = SessionKey::new("s".into(), session);
        self.lane.handle_granted(CallId(call), session, Some(self.now + timeout), Some(timeout))
    }

    fn pass_time(&mut self, by: Duration) {
        self.now += by;
        self.lane.handle_timeout(self.now);
    }

    fn actions(&mut self) -> Vec<LaneAction> {
        std::iter::from_fn(|| self.lane.poll_action()).collect()
    }
}

fn timed_out(call: u64, began: bool) -> LaneAction {
    let verdict = Verdict::Timeout { timeout: Duration::from_secs(1), began };
    LaneAction::Answer { call: CallId(call), verdict }
}
