//! Eight sessions hold a real `sqlite3` connection each, and use them all at once: under strict_queue
//! every statement reaches the connection of its session, in the order in which it was sent.
//!
//! `cargo run --example sqlite_sessions`
#![expect(clippy::print_stdout, reason = "an example talks")]

use futures::future::try_join_all;
use snakebridge::{Affinity, PoolConfig, PyRef, Session, SnakeBridge};
use std::time::Duration;

const SESSIONS: usize = 8;
const STATEMENTS: usize = 200;

#[actix::main]
async fn main() -> snakebridge::Result<()> {
    let pool = PoolConfig::new("databases")
        .size(2)
        .affinity(Affinity::StrictQueue)
        // All statements are sent at once, and more wait than the default of 1,000.
        .max_queue_size(SESSIONS * STATEMENTS)
        .queue_timeout(Duration::from_secs(60));
    let py = SnakeBridge::builder().pool(pool).start().await?;

    let connections = try_join_all((0..SESSIONS).map(|number| connect(py.session(format!("db-{number}"))))).await?;
    for (session, connection) in &connections {
        println!("{}: {connection:?}", session.id());
    }

    let mut statements = Vec::new();
    for number in 0..STATEMENTS {
        for (session, connection) in &connections {
            // The database counts its rows: a statement out of order, or twice, would show.
            let insert = "INSERT INTO log SELECT count(*), ?, ? FROM log";
            statements.push(connection.call_method("execute", (insert, (number, session.id().as_str()))).discard());
        }
    }
    println!("{} statements at once", statements.len());
    try_join_all(statements).await?;

    for (session, connection) in &connections {
        let rows: Vec<(usize, usize, String)> = connection
            .call_method("execute", ("SELECT place, number, session FROM log ORDER BY place",))
            .call_method("fetchall", ())
            .extract()
            .await?;
        assert_eq!(rows.len(), STATEMENTS);
        for (at, (place, number, of)) in rows.iter().enumerate() {
            assert_eq!((*place, *number, of.as_str()), (at, at, session.id().as_str()));
        }
        connection.call_method("close", ()).discard().await?;
        println!("{}: {} rows, each its own, in order, in {}", session.id(), rows.len(), connection.worker());
    }

    let stats = py.stats().await;
    assert_eq!(stats.pools[0].deaths, 0);
    py.shutdown().await
}

async fn connect(session: Session) -> snakebridge::Result<(Session, PyRef)> {
    let connection: PyRef = session.call("sqlite3", "connect", (":memory:",)).into_ref().await?;
    let table = "CREATE TABLE log (place INTEGER, number INTEGER, session TEXT)";
    connection.call_method("execute", (table,)).discard().await?;
    Ok((session, connection))
}
