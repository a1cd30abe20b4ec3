//! The first program: call Python functions, keep an object there, and stop.
//!
//! `cargo run --example hello`
#![expect(clippy::print_stdout, reason = "it shows what it does")]

use snakebridge::{PyRef, SnakeBridge, Value};

#[actix::main]
async fn main() -> snakebridge::Result<()> {
    let py = SnakeBridge::start().await?;

    let root: f64 = py.call("math", "sqrt", (16,)).extract().await?;
    println!("math.sqrt(16) = {root}");
    assert_eq!(root, 4.0);

    let value: Value = py.call("json", "loads", (r#"{"name": "Ada", "tags": [1, 2.5, null]}"#,)).await?;
    println!("json.loads(…) = {value}");
    assert_eq!(value["tags"][1], Value::Float(2.5));

    let rounded: f64 = py.call("builtins", "round", (1.2345,)).kwarg("ndigits", 2).extract().await?;
    println!("round(1.2345, ndigits=2) = {rounded}");
    assert_eq!(rounded, 1.23);

    // An object that stays in Python; freed there when the last clone of the handle is dropped.
    let counts: PyRef = py.call("collections", "Counter", ("abracadabra",)).into_ref().await?;
    let common: Vec<(char, u32)> = counts.call_method("most_common", (2,)).extract().await?;
    println!("{counts:?} most common: {common:?}");
    assert_eq!(common, [('a', 5), ('b', 2)]);

    let error = py.call("math", "sqrt", (-1,)).await.expect_err("a square root of -1");
    println!("math.sqrt(-1):\n{error}");
    assert_eq!(error.python().map(|raised| raised.type_name()), Some("ValueError"));

    py.shutdown().await
}
