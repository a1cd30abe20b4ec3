use super::*;
use futures::StreamExt;
use futures::future::FutureExt;

fn journal(level: MessageLogLevel) -> (Journal, MessageLog) {
    let messages = Messages::new(level);
    let log = messages.reader();
    (Journal::new(messages, Who::Pool("p".into())), log)
}

fn write(journal: &Journal, records: usize) {
    for number in 0..records {
        journal.note(Handled::Started, None, None, || number.to_string());
    }
}

fn numbers(records: &[LogRecord]) -> Vec<u64> {
    records.iter().map(|record| record.seq).collect()
}

#[test]
fn a_level_takes_what_is_below_it_and_formats_nothing_else() {
    for (level, takes) in [
        (MessageLogLevel::Off, [false, false]),
        (MessageLogLevel::Lifecycle, [true, false]),
        (MessageLogLevel::Calls, [true, true]),
    ] {
        let (journal, log) = journal(level);
        for (message, is_taken) in [Handled::Died, Handled::Ticket].into_iter().zip(takes) {
            let mut is_formatted = false;
            journal.note(message, None, None, || {
                is_formatted = true;
                "noted"
            });
            assert_eq!(is_formatted, is_taken, "{level:?} {message:?}");
        }
        assert_eq!(log.recent(10).len(), takes.iter().filter(|taken| **taken).count());
    }
}

#[test]
fn the_last_1024_records_are_kept_and_the_last_n_given_oldest_first() {
    let (journal, log) = journal(MessageLogLevel::Lifecycle);
    write(&journal, RECENT + 10);
    assert_eq!(numbers(&log.recent(3)), [1032, 1033, 1034]);
    assert_eq!(numbers(&log.recent(usize::MAX)), (11..=1034).collect::<Vec<_>>());
    assert_eq!(log.recent(0), []);
}

#[test]
fn a_follower_that_lags_more_than_its_backlog_is_told_how_many_it_missed_once() {
    let (journal, log) = journal(MessageLogLevel::Lifecycle);
    for (behind, missed) in [(BACKLOG - 1, 0), (BACKLOG, 0), (BACKLOG + 1, 1), (BACKLOG + 1000, 1000)] {
        let mut slow = log.follow();
        let before = log.recent(1).first().map_or(0, |record| record.seq);
        write(&journal, behind);
        let first = slow.next().now_or_never().flatten().expect("there is a record");
        assert_eq!((first.missed, first.seq), (missed, before + missed + 1));
        let next = slow.next().now_or_never().flatten().expect("there is a record");
        assert_eq!((next.missed, next.seq), (0, first.seq + 1));
    }
}

#[test]
fn what_no_follower_has_to_read_any_more_is_let_go() {
    let (journal, log) = journal(MessageLogLevel::Lifecycle);
    let held = |log: &MessageLog| log.0.lock().records.len();
    let slow = log.follow();
    write(&journal, 5000);
    assert_eq!(held(&log), 5000);
    drop(slow);
    assert_eq!(held(&log), RECENT);
    let mut quick = log.follow();
    write(&journal, 5000);
    for _ in 0..5000 {
        assert!(quick.next().now_or_never().flatten().is_some());
    }
    write(&journal, 1);
    assert_eq!(held(&log), RECENT);
}

#[tokio::test]
async fn a_follower_sleeps_until_there_is_a_record_and_ends_with_the_last_who_writes() {
    let (journal, log) = journal(MessageLogLevel::Lifecycle);
    let mut records = log.follow();
    let read = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(record) = records.next().await {
            seen.push(record.seq);
        }
        seen
    });
    for _ in 0..10 {
        tokio::task::yield_now().await;
        write(&journal, 1);
    }
    drop(journal);
    let seen = tokio::time::timeout(std::time::Duration::from_secs(20), read).await;
    assert_eq!(seen.expect("it ends").expect("it does not panic"), (1..=10).collect::<Vec<_>>());
}

#[test]
fn a_record_is_flat_json() {
    let (journal, log) = journal(MessageLogLevel::Calls);
    let session = SessionKey::new("a".into(), 1);
    journal.note(Handled::Ticket, Some(CallId(7)), Some(&session), || "granted p/0#1");
    let mut record = log.recent(1).remove(0);
    record.at = SystemTime::UNIX_EPOCH;
    assert_eq!(
        serde_json::to_value(&record).expect("a record is plain data"),
        serde_json::json!({
            "seq": 1, "at": "1970-01-01T00:00:00.000000Z", "actor": "pool p", "message": "ticket", "call": 7,
            "session": "a", "outcome": "granted p/0#1", "missed": 0
        })
    );
}
