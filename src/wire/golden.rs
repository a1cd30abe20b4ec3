//! The messages in `tests/golden/wire/`: the spec of the headers, checked from both sides.
//!
//! With `SNAKEBRIDGE_BLESS=1` the test writes the file anew; the difference is then for a person to judge.

use super::{Body, Ended, FromWorker, HostEnded, Order, Plan, Step, ToWorker, layout};
use crate::python::interpreters;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

const FILE: &str = "tests/golden/wire/messages.txt";

const HEAD: &str = "\
# Who writes it, its bytes in hex, and what Python makes of it:
#   host    what it reads from the message
#   worker  what writes the message, in a process 4242
#   plan    what is true of the plan; `bag` is {'b': 2}, `box` an object that takes any attribute
";

#[test]
fn the_golden_messages_are_what_this_side_writes_and_reads() {
    let text = golden();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    if std::env::var_os("SNAKEBRIDGE_BLESS").is_some() {
        std::fs::write(&file, &text).expect("the repository can be written");
    }
    assert_eq!(std::fs::read_to_string(file).expect("the golden messages are in the repository"), text);
    for (message, body, said) in from_worker() {
        assert_eq!(FromWorker::decode(&datagram(&message, body)), Ok((message, body)), "{said}");
    }
}

#[test]
fn the_golden_messages_are_what_python_writes_and_reads() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (python, version) in interpreters::all() {
        let mut check = Command::new(python);
        check.args(["-I", "-B", "-W", "error"]).arg(root.join("src/wire/golden.py"));
        let output = check.arg(root.join("worker_py")).arg(root.join(FILE)).output().expect("it has just answered");
        assert!(output.status.success(), "Python {version}:\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn golden() -> String {
    let mut text = HEAD.to_owned();
    let mut line = |writer: &str, bytes: &[u8], said: &str| {
        let hex = bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        writeln!(text, "{writer} {hex} {said}").expect("writing to a String does not fail");
    };
    for (message, body, said) in to_worker() {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        bytes.extend_from_slice(body);
        line("host", &bytes, said);
    }
    for (message, body, said) in from_worker() {
        line("worker", &datagram(&message, body), said);
    }
    for (long, steps, want, said) in plans() {
        line("plan", &Plan { long, steps, want }.encode(), said);
    }
    text
}

fn datagram(message: &FromWorker, body: &[u8]) -> Vec<u8> {
    let mut bytes = bincode::encode_to_vec(message, layout()).expect("a header");
    bytes.extend_from_slice(body);
    bytes
}

fn to_worker() -> Vec<(ToWorker<'static>, &'static [u8], &'static str)> {
    let order = |seq, entry, body, released: &[u32]| Order {
        seq,
        call: 1 << 40,
        deadline: if entry == 0 { 0 } else { 1 << 60 | 9 },
        entry,
        body,
        released: released.to_vec(),
        plan: (&[6, 7][..]).into(),
    };
    let call = |seq, entry, body, released: &[u32]| ToWorker::Call(order(seq, entry, body, released));
    let answer = |ended, body, released: &[u32]| ToWorker::HostReply {
        seq: 1 << 50,
        entry: 31,
        ended,
        body,
        released: released.to_vec(),
    };
    vec![
        (
            call(1, 0, Body::inline(3), &[]),
            b"abc",
            r"dict(kind=CALL, seq=1, call=1 << 40, deadline=0, entry=0, place=INLINE, block=0, length=3, released=[], plan=b'\6\7', body=b'abc')",
        ),
        (
            call(u64::MAX, 31, Body::inline(0), &[4, 0]),
            b"",
            r"dict(kind=CALL, seq=(1 << 64) - 1, call=1 << 40, deadline=1 << 60 | 9, entry=31, place=INLINE, block=0, length=0, released=[4, 0], plan=b'\6\7', body=b'')",
        ),
        (
            call(2, 1, Body::block(5, 1 << 33), &[]),
            b"",
            r"dict(kind=CALL, seq=2, call=1 << 40, deadline=1 << 60 | 9, entry=1, place=BLOCK, block=5, length=1 << 33, released=[], plan=b'\6\7', body=b'')",
        ),
        (
            call(3, 1, Body::block(5, 70_000), &[u32::MAX]),
            b"",
            r"dict(kind=CALL, seq=3, call=1 << 40, deadline=1 << 60 | 9, entry=1, place=BLOCK, block=5, length=70000, released=[(1 << 32) - 1], plan=b'\6\7', body=b'')",
        ),
        (
            ToWorker::Free { refs: vec![1, 1 << 36 | 9], released: vec![3, 2] },
            b"",
            "dict(kind=FREE, refs=[1, 1 << 36 | 9], released=[3, 2])",
        ),
        (ToWorker::Free { refs: vec![8], released: vec![] }, b"", "dict(kind=FREE, refs=[8], released=[])"),
        (ToWorker::Free { refs: vec![], released: vec![7] }, b"", "dict(kind=FREE, refs=[], released=[7])"),
        (ToWorker::Stop, b"", "dict(kind=STOP)"),
        (
            ToWorker::Nested(order(4, 31, Body::inline(3), &[])),
            b"abc",
            r"dict(kind=NESTED, seq=4, call=1 << 40, deadline=1 << 60 | 9, entry=31, place=INLINE, block=0, length=3, released=[], plan=b'\6\7', body=b'abc')",
        ),
        (
            ToWorker::Nested(order(5, 0, Body::block(5, 70_000), &[4, 0])),
            b"",
            r"dict(kind=NESTED, seq=5, call=1 << 40, deadline=0, entry=0, place=BLOCK, block=5, length=70000, released=[4, 0], plan=b'\6\7', body=b'')",
        ),
        (
            answer(HostEnded::Value, Body::inline(3), &[]),
            b"abc",
            "dict(kind=HOST_REPLY, seq=1 << 50, entry=31, ended=HOST_VALUE, place=INLINE, block=0, length=3, released=[], body=b'abc')",
        ),
        (
            answer(HostEnded::Value, Body::block(5, 1 << 33), &[2, u32::MAX]),
            b"",
            "dict(kind=HOST_REPLY, seq=1 << 50, entry=31, ended=HOST_VALUE, place=BLOCK, block=5, length=1 << 33, released=[2, (1 << 32) - 1], body=b'')",
        ),
        (
            answer(HostEnded::Failed, Body::inline(3), &[7]),
            b"abc",
            "dict(kind=HOST_REPLY, seq=1 << 50, entry=31, ended=HOST_FAILED, place=INLINE, block=0, length=3, released=[7], body=b'abc')",
        ),
        (
            answer(HostEnded::NoSuchFunction, Body::inline(0), &[]),
            b"",
            "dict(kind=HOST_REPLY, seq=1 << 50, entry=31, ended=NO_SUCH_FUNCTION, place=INLINE, block=0, length=0, released=[], body=b'')",
        ),
        (
            answer(HostEnded::Cancelled, Body::inline(0), &[]),
            b"",
            "dict(kind=HOST_REPLY, seq=1 << 50, entry=31, ended=CANCELLED, place=INLINE, block=0, length=0, released=[], body=b'')",
        ),
        (ToWorker::Ping, b"", "dict(kind=PING)"),
    ]
}

fn from_worker() -> Vec<(FromWorker, &'static [u8], &'static str)> {
    let reply = |ended, body, released: &[u32], refs: &[u64]| FromWorker::Reply {
        seq: 7,
        ended,
        body,
        released: released.to_vec(),
        refs: refs.to_vec(),
    };
    let host_call = |function, body, released: &[u32], refs: &[u64]| FromWorker::HostCall {
        seq: 7,
        function,
        body,
        released: released.to_vec(),
        refs: refs.to_vec(),
    };
    vec![
        (FromWorker::Hello { protocol: super::PROTOCOL, pid: 4242 }, b"", "hello()"),
        (FromWorker::StartFailed { body: Body::inline(3) }, b"abc", "start_failed(3) + b'abc'"),
        (reply(Ended::Value, Body::inline(3), &[], &[]), b"abc", "reply(7, VALUE, INLINE, 0, 3, [], []) + b'abc'"),
        (reply(Ended::Value, Body::block(2, 1 << 33), &[], &[]), b"", "reply(7, VALUE, BLOCK, 2, 1 << 33, [], [])"),
        (
            reply(Ended::Value, Body::inline(3), &[], &[1, 1 << 36 | 9]),
            b"abc",
            "reply(7, VALUE, INLINE, 0, 3, [], [1, 1 << 36 | 9]) + b'abc'",
        ),
        (
            reply(Ended::Value, Body::inline(3), &[2, 0, u32::MAX], &[]),
            b"abc",
            "reply(7, VALUE, INLINE, 0, 3, [2, 0, (1 << 32) - 1], []) + b'abc'",
        ),
        (
            reply(Ended::Value, Body::block(0, 40_000), &[2], &[u64::MAX]),
            b"",
            "reply(7, VALUE, BLOCK, 0, 40000, [2], [(1 << 64) - 1])",
        ),
        (reply(Ended::Raised, Body::inline(3), &[], &[]), b"abc", "reply(7, RAISED, INLINE, 0, 3, [], []) + b'abc'"),
        (
            reply(Ended::NoSuchRef, Body::inline(3), &[], &[]),
            b"abc",
            "reply(7, NO_SUCH_REF, INLINE, 0, 3, [], []) + b'abc'",
        ),
        (
            reply(Ended::Unsendable, Body::inline(3), &[], &[]),
            b"abc",
            "reply(7, UNSENDABLE, INLINE, 0, 3, [], []) + b'abc'",
        ),
        (reply(Ended::Part, Body::inline(3), &[], &[5]), b"abc", "reply(7, PART, INLINE, 0, 3, [], [5]) + b'abc'"),
        (FromWorker::Passed { seq: 9, released: vec![] }, b"", "passed(9, [])"),
        (FromWorker::Passed { seq: 9, released: vec![5] }, b"", "passed(9, [5])"),
        (host_call(0, Body::inline(3), &[], &[]), b"abc", "host_call(7, 0, INLINE, 0, 3, [], []) + b'abc'"),
        (
            host_call(1 << 50, Body::block(2, 40_000), &[2, 0, u32::MAX], &[]),
            b"",
            "host_call(7, 1 << 50, BLOCK, 2, 40000, [2, 0, (1 << 32) - 1], [])",
        ),
        (
            host_call(5, Body::inline(3), &[3], &[1, 1 << 36 | 9]),
            b"abc",
            "host_call(7, 5, INLINE, 0, 3, [3], [1, 1 << 36 | 9]) + b'abc'",
        ),
        (FromWorker::Pong, b"", "PONG_MESSAGE"),
    ]
}

fn plans() -> Vec<(bool, Vec<Step>, &'static [u8], &'static str)> {
    let function = |module: &str, name: &str| Step::Function { module: module.into(), name: name.into() };
    let global = |module: &str, name: &str| Step::Global { module: module.into(), name: name.into() };
    let module = |name: &str| Step::Module { name: name.into() };
    let method = |name: &str| Step::Method { name: name.into() };
    let get_attr = |name: &str| Step::GetAttr { name: name.into() };
    let set_attr = |name: &str| Step::SetAttr { name: name.into() };
    let short = |step, said| (false, vec![step], &[0][..], said);
    let long = |steps, said| (true, steps, &[0][..], said);
    vec![
        (false, vec![function("math", "sqrt")], &[3, 0, 255], r"run((16,)) == 4.0 and want == b'\3\0\xff'"),
        (true, vec![function("math", "sqrt")], &[], "run((None, [((16,), None)])) == 4.0 and want == b''"),
        short(function("builtins", "str.upper"), "run(('a',)) == 'A'"),
        short(global("string", "digits"), "run(()) == '0123456789'"),
        short(module("math"), "run(()).__name__ == 'math'"),
        short(Step::Itself, "run((bag,)) is bag"),
        short(Step::Call, "run((int, 'ff', 16)) == 255"),
        short(method("split"), "run(('a,b', ',')) == ['a', 'b']"),
        short(method("__class__.__name__.upper"), "run(('a',)) == 'STR'"),
        short(get_attr("real"), "run((3,)) == 3"),
        short(get_attr("__class__.__name__"), "run((3,)) == 'int'"),
        short(set_attr("size"), "run((box, 5)) is None and box.size == 5"),
        short(Step::GetItem, "run((bag, 'b')) == 2"),
        short(Step::SetItem, "run((bag, 'a', 1)) is None and bag == {'b': 2, 'a': 1}"),
        short(Step::DelItem, "run((bag, 'b')) is None and bag == {}"),
        short(Step::Len, "run((bag,)) == 1"),
        short(Step::Str, "run((1.5,)) == '1.5'"),
        short(Step::Repr, r#"run(('a',)) == "'a'""#),
        short(Step::Stream, "[*run(((1, 2),))._iterator] == [1, 2]"),
        short(Step::Batch, "run((streams.Stream(iter('ab')), 1, 99)) == (['a'], None)"),
        short(Step::Enter, "run((contextlib.nullcontext(7),)) == 7"),
        short(Step::Exit, "run((contextlib.nullcontext(7),)) is None"),
        short(Step::Close, "run((streams.Stream(iter('ab')),)) is None"),
        long(vec![function("builtins", "round")], "run((None, [((1.26,), {'ndigits': 1})])) == 1.3"),
        long(
            vec![global("collections", "Counter"), Step::Call, method("most_common"), Step::GetItem, Step::Len],
            "run((None, [((), {}), (('abca',), {}), ((), {'n': 1}), ((0,), {}), ((), {})])) == 2",
        ),
        long(
            vec![module("string"), get_attr("digits"), Step::Str, Step::Repr],
            r#"run((None, [((), {})] * 4)) == "'0123456789'""#,
        ),
        long(vec![Step::Itself, set_attr("size")], "run((box, [((), {}), ((5,), {})])) is None and box.size == 5"),
        short(Step::Exec { namespace: 1 << 63 | 7 }, "run(('x = 2\\nclass A: pass',)) is None"),
        short(Step::Eval { namespace: 1 << 63 | 7 }, "run(('x + 1',)) == 3"),
        long(
            vec![Step::Eval { namespace: 1 << 63 | 7 }, get_attr("__module__")],
            "run((None, [(('A',), None), ((), None)])) == '__snakebridge_7__'",
        ),
        long(vec![Step::SetItem], "run((bag, [(('a', 1), {})])) is None and bag == {'b': 2, 'a': 1}"),
        long(vec![Step::DelItem], "run((bag, [(('b',), {})])) is None and bag == {}"),
    ]
}
