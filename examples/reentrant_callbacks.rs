//! A search in Python asks Rust what a node is worth, and Rust asks the very same session for the nodes
//! below: calls inside callbacks inside calls, on the one worker that holds the tree.
//!
//! `cargo run --example reentrant_callbacks`
#![expect(clippy::print_stdout, reason = "an example talks")]

use snakebridge::{Affinity, Error, PoolConfig, Result, SnakeBridge};
use std::collections::BTreeMap;

const SEARCH: &str = r#"
from snakebridge import HostError, host

tree = {"root": ["left", "right"], "left": ["a", "b"], "right": ["c", "missing"], "a": [], "b": [], "c": [], "missing": []}

def best(node):
    """The best worth of a node and all below it."""
    return max([worth(node), *(host.call("below", child) for child in tree[node])])

def worth(node):
    try:
        return host.call("worth", node)
    except KeyError as error:
        print(f"nobody knows what {error} is worth")
        return 0
"#;

#[actix::main]
async fn main() -> Result<()> {
    // One worker, and a strict session: a call that waited for its turn here would wait for ever.
    let pool = PoolConfig::new("p").size(1).affinity(Affinity::StrictQueue);
    let py = SnakeBridge::builder().pool(pool).start().await?;
    let session = py.session("search");
    session.exec(SEARCH).await?;

    let known = BTreeMap::from([("root", 1), ("left", 2), ("right", 3), ("a", 5), ("b", 8), ("c", 6)]);
    py.register("worth", move |node: String| {
        let worth = known.get(node.as_str()).copied();
        // What is raised here is an exception of Python's there.
        async move { worth.ok_or_else(|| Error::raise("KeyError", node)) }
    })?;
    let inner = session.clone();
    py.register("below", move |node: String| {
        let call = inner.eval("best").call_with((node,));
        async move { call.extract::<u64>().await }
    })?;

    let best: u64 = session.eval("best('root')").extract().await?;
    println!("the best is worth {best}");
    assert_eq!(best, 8);

    // A callable of Rust's is an argument like any other.
    let shorter = py.callback(|word: String| async move { Ok(word.len()) });
    let words: Vec<String> =
        py.call("builtins", "sorted", (["pear", "fig", "banana"],)).kwarg("key", &shorter).extract().await?;
    println!("by length: {}", words.join(", "));
    assert_eq!(words, ["fig", "pear", "banana"]);
    py.shutdown().await
}
