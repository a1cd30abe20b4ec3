//! Words from a slow generator, printed as they come, until the reader has had enough half-way: the
//! generator is closed in Python, and its worker takes the next call.
//!
//! `cargo run --example token_stream`
#![expect(clippy::print_stdout, reason = "an example talks")]

use futures::StreamExt;
use snakebridge::{PoolConfig, PyStream, SnakeBridge};
use std::io::{Write, stdout};
use std::path::Path;
use std::time::{Duration, Instant};

const TEXT: &str = "It was a bright cold day in April, and the model said one word after the other, \
                    each as soon as it had it, until nobody wanted to hear any more of it.";
const SECONDS_A_WORD: f64 = 0.06;
const ENOUGH: usize = 15;

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // One worker, so that it is seen that a stream which is dropped gives it back.
    let pool = PoolConfig::new("models")
        .size(1)
        .python_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // For the opening, and then for each wait for a word.
        .timeout(Duration::from_secs(30));
    let py = SnakeBridge::builder().pool(pool).start().await?;
    let (pid, endings): (u32, Vec<usize>) = py.call("narrator", "told", ()).extract().await?;
    assert!(endings.is_empty());

    let begun = Instant::now();
    let mut words: PyStream<String> = py.call("narrator", "tell", (TEXT, SECONDS_A_WORD)).stream().await?;
    let mut heard = Vec::new();
    while heard.len() < ENOUGH
        && let Some(word) = words.next().await
    {
        let word = word?;
        if heard.is_empty() {
            println!("the first word came after {} ms", begun.elapsed().as_millis());
        }
        print!("{word} ");
        stdout().flush()?;
        heard.push(word);
    }
    println!("…\n{} words came in {} ms, and that was enough", heard.len(), begun.elapsed().as_millis());
    let all: Vec<&str> = TEXT.split(' ').collect();
    assert_eq!(heard, all[..ENOUGH]);

    let dropped = Instant::now();
    drop(words);
    let made = loop {
        let (same, endings): (u32, Vec<usize>) = py.call("narrator", "told", ()).extract().await?;
        assert_eq!(same, pid, "the worker is the same, and was not replaced");
        if let [made] = endings[..] {
            break made;
        }
        assert!(dropped.elapsed() < Duration::from_secs(60), "the generator is still open");
    };
    println!("the generator's finally has run, after {made} of {} words", all.len());
    println!("the same worker, process {pid}, answered {:.1} ms later", dropped.elapsed().as_secs_f64() * 1_000.0);
    assert!((ENOUGH..all.len()).contains(&made), "it was stopped, a little ahead of its reader at most");

    py.shutdown().await?;
    Ok(())
}
