//! The lane's promises, one sentence each.

use super::*;

const GRACE: Duration = Duration::from_secs(2);

#[test]
fn numbers_rise_by_one_from_one_and_a_reply_closes_its_call() {
    let mut desk = Desk::new(1);
    assert_eq!(desk.grant(7, 1), Some(sent(1, 0)));
    assert_eq!(desk.grant(8, 2), Some(sent(2, 0)));
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
fn an_answer_has_as_many_parts_as_its_batch_may_have_items_and_bytes_as_one_result_may_have() {
    let mut desk = Desk::new(1);
    for (call, parts) in [(1, 0), (2, 2), (3, 9)] {
        desk.lane.handle_granted(Granted { parts, ..granted(call, call) }).expect("it is sent");
    }
    assert_eq!(desk.lane.handle_part(1, 1), Err(Violation::TooManyParts { seq: 1 }));
    for outcome in [Ok(CallId(2)), Ok(CallId(2)), Err(Violation::TooManyParts { seq: 2 })] {
        assert_eq!(desk.lane.handle_part(2, 1), outcome);
    }
    assert_eq!(desk.lane.handle_part(3, 1 << 30), Ok(CallId(3)));
    assert_eq!(desk.lane.handle_part(3, 1), Err(Violation::TooManyParts { seq: 3 }));
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
    assert_eq!(desk.actions(), [LaneAction::Revoke { seq: 2, entry: 0, nested: false }]);
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
    assert_eq!(desk.grant(2, 1), Some(sent(1, 0)));
}

#[test]
fn a_call_may_come_again_while_its_first_number_is_yet_to_be_passed() {
    let mut desk = Desk::new(1);
    desk.grant(1, 1);
    desk.lane.take_back(CallId(1));
    desk.lane.handle_revocation(1, 0, desk.now);
    assert_eq!(desk.grant(1, 1), Some(sent(2, 0)));
    desk.actions();
    desk.lane.handle_passed(1).expect("it was revoked");
    assert_eq!(desk.actions(), [LaneAction::Passed { call: CallId(1) }]);
    desk.lane.take_back(CallId(1));
    assert_eq!(desk.actions(), [LaneAction::Revoke { seq: 2, entry: 0, nested: false }]);
}

#[test]
fn a_call_that_is_over_leaves_no_timer() {
    let mut desk = Desk::new(1);
    desk.grant_for(1, 1, Duration::from_secs(1));
    assert_eq!(desk.lane.poll_timeout(), Some(desk.now + Duration::from_secs(1)));
    desk.lane.handle_reply(1).expect("it is open");
    assert_eq!((desk.lane.poll_timeout(), desk.lane.is_at_rest()), (None, true));
}

#[test]
fn at_its_deadline_a_call_that_has_not_begun_is_answered_no_and_its_lease_ends_when_it_is_passed() {
    let mut desk = Desk::new(1);
    desk.grant_for(1, 1, Duration::from_secs(1));
    desk.pass_time(Duration::from_secs(1));
    assert_eq!(desk.actions(), [LaneAction::Revoke { seq: 1, entry: 0, nested: false }]);
    desk.lane.handle_revocation(1, 0, desk.now);
    assert_eq!(desk.actions(), [timed_out(1, false)]);
    desk.lane.handle_passed(1).expect("it was revoked");
    assert_eq!(desk.actions(), [LaneAction::Over { call: CallId(1) }]);
    assert_eq!(desk.lane.poll_timeout(), None);
}

#[test]
fn a_call_that_has_begun_is_answered_maybe_at_its_deadline_interrupted_and_killed_a_grace_later() {
    let mut desk = Desk::new(1);
    desk.grant_for(1, 1, Duration::from_secs(1));
    desk.pass_time(Duration::from_secs(1));
    desk.actions();
    desk.lane.handle_revocation(1, 1, desk.now);
    assert_eq!(desk.actions(), [timed_out(1, true), LaneAction::Interrupt { seq: 1 }]);
    assert!(desk.lane.is_overdue(1));
    desk.pass_time(GRACE - Duration::from_nanos(1));
    assert_eq!(desk.actions(), [LaneAction::Interrupt { seq: 1 }]);
    desk.pass_time(Duration::from_nanos(1));
    assert_eq!(desk.actions(), [LaneAction::Kill { why: Why::Overran { call: CallId(1) } }]);
}

#[test]
fn an_interrupt_is_signalled_again_ever_more_rarely_until_its_call_is_over() {
    let mut desk = Desk::new(1);
    desk.grant(1, 1);
    desk.lane.cancel(CallId(1), desk.now);
    desk.lane.handle_revocation(1, 1, desk.now);
    desk.actions();
    for gap in [10, 20, 40, 80] {
        desk.pass_time(Duration::from_millis(gap - 1));
        assert_eq!(desk.actions(), []);
        desk.pass_time(Duration::from_millis(1));
        assert_eq!(desk.actions(), [LaneAction::Interrupt { seq: 1 }]);
    }
    desk.lane.handle_reply(1).expect("it is open");
    assert_eq!((desk.lane.poll_timeout(), desk.lane.is_at_rest()), (None, true));
}

#[test]
fn a_call_is_interrupted_once_whoever_wants_its_end() {
    let mut desk = Desk::new(1);
    desk.grant_for(1, 1, Duration::from_millis(5));
    desk.lane.take_back(CallId(1));
    desk.lane.handle_revocation(1, 1, desk.now);
    desk.actions();
    desk.lane.cancel(CallId(1), desk.now);
    assert_eq!(desk.actions(), [LaneAction::Interrupt { seq: 1 }]);
    desk.lane.cancel(CallId(1), desk.now);
    desk.pass_time(Duration::from_millis(5));
    assert_eq!(desk.actions(), []);
}

#[test]
fn a_call_that_has_not_begun_or_waits_for_a_callback_is_not_interrupted() {
    let mut desk = Desk::new(1);
    desk.grant(1, 1);
    desk.callback(1);
    desk.nest(2, 1, 1);
    desk.nest(3, 1, 1);
    for (seq, begun) in [(1, 1), (2, 2), (3, 2)] {
        desk.lane.cancel(CallId(seq), desk.now);
        desk.lane.handle_revocation(seq, begun, desk.now);
    }
    let told = |action: &LaneAction| matches!(action, LaneAction::Interrupt { .. } | LaneAction::DropCallback { .. });
    let told: Vec<LaneAction> = desk.actions().into_iter().filter(told).collect();
    assert_eq!(told, [LaneAction::DropCallback { seq: 1, call: CallId(1) }, LaneAction::Interrupt { seq: 2 }]);
}

#[test]
fn a_call_of_a_worker_that_is_killed_at_once_is_not_interrupted() {
    let mut desk = Desk::new(1);
    desk.lane = Lane::new(1, Duration::ZERO);
    desk.grant(1, 1);
    desk.lane.cancel(CallId(1), desk.now);
    desk.lane.handle_revocation(1, 1, desk.now);
    desk.pass_time(Duration::ZERO);
    let (revoke, answer) = (LaneAction::Revoke { seq: 1, entry: 0, nested: false }, Verdict::Cancelled { began: true });
    let answer = LaneAction::Answer { call: CallId(1), verdict: answer };
    assert_eq!(desk.actions(), [revoke, answer, LaneAction::Kill { why: Why::Overran { call: CallId(1) } }]);
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
    assert_eq!(desk.actions(), [LaneAction::Revoke { seq: 1, entry: 0, nested: false }, answer]);
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
    let death = desk.lane.handle_exit(&[plain(3), plain(2)]);
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
    let death = desk.lane.handle_exit(&[plain(1)]);
    assert_eq!(death.over, [CallId(1), CallId(2)]);
    assert_eq!((death.crashed, death.returned), (vec![], vec![CallId(4)]));
}

#[test]
fn a_call_of_a_tree_goes_on_top_at_the_entry_where_its_tree_stands() {
    let mut desk = Desk::new(3);
    desk.grant(1, 1);
    desk.grant(2, 2);
    assert_eq!(desk.callback(2), Some(CallId(2)));
    assert_eq!(desk.nest(3, 7, 2), Some(on_top(3, 1)));
    // One that was granted room has another thread, unless its session is on that one: behind the call that
    // waits for it, it would never begin.
    let granted = |call, session| Granted { tree: Some(CallId(2)), ..granted(call, session) };
    assert_eq!(desk.lane.handle_granted(granted(4, 7)), Some(sent(4, 2)));
    assert_eq!(desk.lane.handle_granted(granted(5, 2)), Some(on_top(5, 1)));
}

#[test]
fn a_call_is_not_put_behind_one_that_waits_for_a_callback_of_another_tree() {
    let mut desk = Desk::new(2);
    desk.grant(1, 1);
    desk.callback(1);
    assert_eq!(desk.grant(2, 1), Some(sent(2, 1)));
    assert_eq!(desk.grant(3, 1), Some(sent(3, 1)), "they stay together there");
}

#[test]
fn a_call_whose_tree_has_no_call_there_any_more_is_sent_as_any_other() {
    let mut desk = Desk::new(1);
    desk.grant(1, 1);
    assert_eq!(desk.callback(1), Some(CallId(1)));
    assert!(desk.lane.handle_callback_over(1));
    assert_eq!(desk.nest(2, 1, 1), Some(on_top(2, 0)), "it may wait again");
    desk.lane.handle_reply(2).expect("it is open");
    desk.lane.handle_reply(1).expect("it is open");
    assert_eq!(desk.nest(3, 1, 1), Some(sent(3, 0)));
}

#[test]
fn a_death_is_judged_by_the_nested_word_for_calls_on_top() {
    let mut desk = Desk::new(1);
    desk.grant(1, 1);
    desk.grant(2, 2);
    desk.callback(1);
    desk.nest(3, 1, 1);
    desk.nest(4, 1, 1);
    let death = desk.lane.handle_exit(&[Begun { plain: 1, nested: 3 }]);
    assert_eq!(death.crashed, [CallId(1), CallId(3)]);
    assert_eq!(death.returned, [CallId(2), CallId(4)]);
}

#[test]
fn a_call_that_waits_neither_replies_nor_asks_again() {
    let mut desk = Desk::new(1);
    desk.grant(1, 1);
    desk.callback(1);
    assert_eq!(desk.lane.handle_callback(1), Err(Violation::WaitsAlready { seq: 1 }));
    assert_eq!(desk.lane.handle_reply(1), Err(Violation::WaitsAlready { seq: 1 }));
    assert_eq!(desk.lane.handle_callback(2), Err(Violation::NotOpen { seq: 2 }));
    assert!(desk.lane.handle_callback_over(1));
    assert!(!desk.lane.handle_callback_over(1));
    assert_eq!(desk.callback(1), Some(CallId(1)));
}

#[test]
fn a_cancelled_call_loses_its_callback_and_gets_no_other() {
    let mut desk = Desk::new(1);
    desk.grant_for(1, 1, Duration::from_secs(1));
    desk.callback(1);
    desk.pass_time(Duration::from_secs(1));
    desk.actions();
    desk.lane.handle_revocation(1, 1, desk.now);
    assert_eq!(desk.actions(), [timed_out(1, true), LaneAction::DropCallback { seq: 1, call: CallId(1) }]);
    assert!(!desk.lane.handle_callback_over(1));
    assert_eq!(desk.callback(1), None);
    assert!(!desk.lane.handle_reply(1).expect("it is open").is_awaited);
}

#[test]
fn a_call_that_may_run_once_more_goes_back_though_it_had_begun_unless_its_caller_has_its_answer() {
    let mut desk = Desk::new(1);
    for call in 1..=3 {
        desk.lane.handle_granted(Granted { may_rerun: true, ..granted(call, call) }).expect("it is sent");
    }
    desk.lane.cancel(CallId(2), desk.now);
    desk.lane.handle_revocation(2, 2, desk.now);
    let death = desk.lane.handle_exit(&[Begun { plain: 2, nested: 0 }]);
    assert_eq!((death.over, death.crashed), (vec![CallId(2)], vec![]));
    assert_eq!((death.returned, death.rerun), (vec![CallId(1), CallId(3)], vec![CallId(1)]));
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
        self.lane.handle_granted(granted(call, session))
    }

    fn grant_for(&mut self, call: u64, session: u64, timeout: Duration) -> Option<Sent> {
        let deadline = Some(self.now + timeout);
        self.lane.handle_granted(Granted { deadline, timeout: Some(timeout), ..granted(call, session) })
    }

    /// A call of the tree of that root, granted on top of one of its calls.
    fn nest(&mut self, call: u64, session: u64, root: u64) -> Option<Sent> {
        self.lane.handle_granted(Granted { tree: Some(CallId(root)), on: Some(CallId(root)), ..granted(call, session) })
    }

    fn callback(&mut self, seq: u64) -> Option<CallId> {
        self.lane.handle_callback(seq).expect("it runs there")
    }

    fn pass_time(&mut self, by: Duration) {
        self.now += by;
        self.lane.handle_timeout(self.now);
    }

    fn actions(&mut self) -> Vec<LaneAction> {
        std::iter::from_fn(|| self.lane.poll_action()).collect()
    }
}

fn granted(call: u64, session: u64) -> Granted {
    let session = SessionKey::new("s".into(), session);
    Granted {
        call: CallId(call),
        session,
        tree: None,
        on: None,
        deadline: None,
        timeout: None,
        may_rerun: false,
        parts: 0,
    }
}

fn sent(seq: u64, entry: u32) -> Sent {
    Sent { seq, entry, nested: false }
}

fn on_top(seq: u64, entry: u32) -> Sent {
    Sent { seq, entry, nested: true }
}

fn plain(begun: u64) -> Begun {
    Begun { plain: begun, nested: 0 }
}

fn timed_out(call: u64, began: bool) -> LaneAction {
    let verdict = Verdict::Timeout { timeout: Duration::from_secs(1), began };
    LaneAction::Answer { call: CallId(call), verdict }
}
