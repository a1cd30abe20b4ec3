//! The bodies in `tests/golden/pickle/`: the spec of what crosses, checked from both sides.
//!
//! Each line: who writes it, the body in hex, what Python's `ascii` says of it. With
//! `SNAKEBRIDGE_BLESS=1` the test writes the file anew; the difference is then for a person to judge.

use super::python::all;
use super::value_of;
use crate::pickle::to_fragment;
use std::fmt::Write;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/pickle/bodies.txt");

const EXPRESSIONS: [&str; 34] = [
    "None",
    "True",
    "False",
    "0",
    "255",
    "256",
    "65536",
    "-1",
    "2**31",
    "-2**63",
    "2**64",
    "1.5",
    "(1-2j)",
    "''",
    "'h\\xe9llo'",
    "'x' * 300",
    "b'ab'",
    "b'x' * 300",
    "[]",
    "[1, [2]]",
    "()",
    "(1,)",
    "(1, 2, 3)",
    "(1, 2, 3, 4)",
    "{'a': 1, 2: None}",
    "{7}",
    "frozenset({7})",
    "datetime.datetime(2024, 2, 29, 1, 2, 3, 4)",
    "datetime.datetime(2024, 2, 29, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(seconds=3600)))",
    "datetime.date(2024, 2, 29)",
    "datetime.time(1, 2, 3)",
    "datetime.timedelta(days=-1, seconds=5, microseconds=1)",
    "decimal.Decimal('1.10')",
    "uuid.UUID('12345678-1234-5678-1234-567812345678')",
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("the file holds hex");
    (0..text.len()).step_by(2).map(digit).collect()
}

#[test]
fn golden_bodies_are_what_both_sides_write_and_read() {
    if std::env::var_os("SNAKEBRIDGE_BLESS").is_some() {
        bless();
    }
    let golden = std::fs::read_to_string(FILE).expect("the golden bodies are in the repository");
    let mut lines = 0;
    for mut python in all() {
        for line in golden.lines().filter(|line| !line.starts_with('#')) {
            let mut parts = line.splitn(3, ' ');
            let mut part = || parts.next().expect("three parts");
            let (writer, body, seen) = (part(), unhex(part()), part());
            let context = format!("{line} on {}", python.version);
            let value = value_of(&body).expect(&context);
            let by_rust = to_fragment(&value).expect(&context).into_body().bytes;
            match writer {
                "rust" => assert_eq!(by_rust, body, "{context}"),
                "python" => assert_eq!(python.ask(b'R', &[0], &by_rust).expect(&context), body, "{context}"),
                other => panic!("unknown writer {other}"),
            }
            assert_eq!(python.ask(b'D', &[], &body).expect(&context), seen.as_bytes(), "{context}");
            lines += 1;
        }
    }
    assert!(lines >= 2 * EXPRESSIONS.len());
}

/// All bodies of the file.
pub(super) fn bodies() -> Vec<Vec<u8>> {
    let golden = std::fs::read_to_string(FILE).expect("the golden bodies are in the repository");
    let lines = golden.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| unhex(line.split(' ').nth(1).expect("three parts"))).collect()
}

fn bless() {
    let mut python = all().swap_remove(0);
    let mut text = String::from("# writer, body, what Python's ascii() says of it\n");
    for expression in EXPRESSIONS {
        let body = python.ask(b'E', &[0], expression.as_bytes()).expect(expression);
        let seen = python.ask(b'D', &[], &body).expect(expression);
        let seen = String::from_utf8_lossy(&seen);
        let value = value_of(&body).expect(expression);
        let by_rust = to_fragment(&value).expect(expression).into_body().bytes;
        writeln!(text, "python {} {seen}", hex(&body)).expect("writing to a String does not fail");
        writeln!(text, "rust {} {seen}", hex(&by_rust)).expect("writing to a String does not fail");
    }
    std::fs::write(FILE, text).expect("the repository can be written");
}
