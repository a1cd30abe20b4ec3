//! The table of values in the description of the system, row by row, and random values both ways.

use super::python::all;
use super::{typed, value_of};
use crate::pickle::{decode_error, to_fragment, to_keywords, want_of};
use crate::rules::sim::random;
use crate::{Bytes, Dict, PyRef, Value};
use num_bigint::BigInt;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

#[test]
fn plain_data_arrives_as_it_is() {
    let same = [
        "None",
        "True",
        "1",
        "-1",
        "255",
        "256",
        "65536",
        "-2147483649",
        "9007199254740993",
        "9223372036854775807",
        "9223372036854775808",
        "-170141183460469231731687303715884105728",
        "1.5",
        "1e+16",
        "nan",
        "-0.0",
        "inf",
        "(1-2j)",
        "2j",
        "''",
        "'it is'",
        "\"it's\"",
        "'a\\n\\x00\\\\'",
        "'é😀'",
        "b''",
        "b'\\xff\\x00'",
        "[]",
        "[1, [2]]",
        "()",
        "(1,)",
        "(1, 2)",
        "(1, 2, 3, 4)",
        "{}",
        "{'b': 1, 'a': {2: None}, (1, 'x'): 1.0}",
        "set()",
        "{1}",
        "frozenset()",
        "frozenset({1})",
        "datetime.datetime(2024, 2, 29, 1, 2, 3, 4)",
        "datetime.datetime(1, 1, 1, 0, 0)",
        "datetime.datetime(2024, 2, 29, 1, 2, tzinfo=datetime.timezone.utc)",
        "datetime.datetime(2024, 2, 29, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(days=-1, seconds=68400)))",
        "datetime.date(2024, 2, 29)",
        "datetime.time(1, 2, 3)",
        "datetime.timedelta(days=-1, seconds=5, microseconds=1)",
        "datetime.timedelta(0)",
        "Decimal('1.10')",
        "Decimal('-sNaN')",
        "UUID('12345678-1234-5678-1234-567812345678')",
    ];
    for mut python in all() {
        for text in same {
            let expression = text.replace("Decimal", "decimal.Decimal").replace("UUID(", "uuid.UUID(");
            let value = python.value(&expression).expect(text);
            assert_eq!(value.to_string(), text, "{}", python.version);
            assert_eq!(
                python.value(&format!("[{expression}, {expression}]")).expect(text).to_string(),
                format!("[{text}, {text}]")
            );
            // And back: what Python sees is what it sent.
            let seen = python.seen(&value).expect(text);
            if text.is_ascii() {
                assert_eq!(seen, text, "{}", python.version);
            }
        }
        assert_eq!(python.value("bytearray(b'ab')"), Ok(Value::Bytes(Bytes::from(b"ab"))));
    }
}

#[test]
fn what_is_not_plain_is_a_ref_where_it_stands() {
    for mut python in all() {
        let value =
            python.value("{'a': [1, pathlib.PurePosixPath('.')], 'b': (len, {1: Point(1, 2.0)})}").expect("refs");
        let text = value.to_string();
        assert!(text.starts_with("{'a': [1, <pathlib"), "{text}");
        assert!(
            text.contains("PurePosixPath ref-") && text.contains("<builtins.builtin_function_or_method ref-"),
            "{text}"
        );
        for expression in [
            "Names([1])",
            "Ratio(1.5)",
            "Text('a')",
            "Color.RED",
            "Level.LOW",
            "collections.Counter('a')",
            "collections.deque([1])",
            "range(3)",
            "{}.keys()",
            "array('d', [1.0])",
            "memoryview(b'')",
            "Pair(1, 2)",
            "types",
            "int",
            "datetime.datetime(2024, 1, 1, fold=1)",
            "collections.OrderedDict()",
        ] {
            assert!(matches!(python.value(expression), Ok(Value::Ref(_))), "{expression} {}", python.version);
        }
        for expression in ["iter([1])", "(x for x in [1])", "map(str, [])"] {
            assert!(matches!(python.value(expression), Ok(Value::Stream(_))), "{expression}");
        }
        // One object twice is one ref.
        let value = python.value("(lambda o: [o, o])(object())").expect("two refs");
        assert_eq!(value[0], value[1]);
    }
}

#[test]
fn into_ref_is_a_ref_of_anything() {
    for mut python in all() {
        for expression in ["1", "None", "[1, 2]", "pathlib.Path('.')", "(x for x in [1])"] {
            let body = python.ask(b'E', &[1], expression.as_bytes()).expect(expression);
            typed::<PyRef>(&body).expect(expression);
            python.extract::<PyRef>(expression).expect(expression);
        }
        assert_eq!(python.ask(b'E', &[2], b"object()").expect("nothing"), b"\x80\x05N.");
        let handle: PyRef = python.extract("Point(1, 2.0)").expect("a ref");
        assert_eq!((handle.module(), handle.type_name()), ("__main__", "Point"));
        // It finds the same object again, alone and in structures.
        assert_eq!(python.seen(&handle).as_deref(), Ok("Point(x=1, y=2.0, label='p', path=None)"));
        let nested = BTreeMap::from([("k", vec![Some((&handle, 1))])]);
        assert_eq!(python.seen(&nested).as_deref(), Ok("{'k': [(Point(x=1, y=2.0, label='p', path=None), 1)]}"));
        assert_eq!(
            python.seen(&Value::List(vec![Value::Ref(handle)])).as_deref(),
            Ok("[Point(x=1, y=2.0, label='p', path=None)]")
        );
    }
}

#[derive(Debug, PartialEq, Deserialize)]
struct Point {
    x: i64,
    y: f64,
    label: String,
}

#[derive(Debug, Deserialize)]
struct Place {
    x: i64,
    path: PyRef,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Pair {
    first: i64,
    second: String,
}

#[derive(Debug, PartialEq, Deserialize)]
enum Kind {
    #[serde(rename = "red")]
    Red,
    Sized(u8),
    Pair(u8, u8),
    Full {
        a: u8,
    },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Either {
    Number(i64),
    Object(PyRef),
}

#[derive(Debug, Deserialize)]
struct Flat {
    id: i64,
    #[serde(flatten)]
    rest: HashMap<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Link {
    next: Option<Box<Link>>,
}

#[test]
fn extract_takes_objects_by_value_as_the_type_asks() {
    for mut python in all() {
        let p = &mut python;
        assert_eq!(p.extract("Names([1, 2])"), Ok(vec![1, 2]));
        assert_eq!(p.extract("Ratio(1.5)"), Ok(1.5));
        assert_eq!(p.extract("Text('a')"), Ok("a".to_owned()));
        assert_eq!(p.extract("[Level.LOW, Color.GREEN]"), Ok(vec![1, 2]));
        assert_eq!(p.extract("Color.RED"), Ok(Kind::Red));
        assert_eq!(
            p.extract("collections.Counter('aab')"),
            Ok(BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]))
        );
        assert_eq!(p.extract("collections.deque([1])"), Ok(vec![1]));
        assert_eq!(p.extract("range(3)"), Ok(vec![0, 1, 2]));
        assert_eq!(p.extract("{'a': 1}.keys()"), Ok(vec!["a".to_owned()]));
        assert_eq!(p.extract("{'a': 1}.items()"), Ok(vec![("a".to_owned(), 1)]));
        assert_eq!(p.extract("{1, 2}"), Ok(BTreeSet::from([1, 2])));
        assert_eq!(p.extract("array('d', [1.5])"), Ok(vec![1.5]));
        assert_eq!(p.extract("memoryview(b'ab')"), Ok(vec![97, 98]));
        assert_eq!(p.extract("b'ab'"), Ok(vec![97_u8, 98]));
        assert_eq!(p.extract("b'ab'"), Ok(Bytes::from(b"ab")));
        assert_eq!(p.extract("(x * x for x in range(3))"), Ok(vec![0, 1, 4]));
        assert_eq!(p.extract("map(str, [1])"), Ok(Some(vec!["1".to_owned()])));
        assert_eq!(p.extract("Point(1, 2.0)"), Ok(Point { x: 1, y: 2.0, label: "p".into() }));
        assert_eq!(
            p.extract("{'x': 1, 'y': 2, 'label': 'q', 'more': object()}"),
            Ok(Point { x: 1, y: 2.0, label: "q".into() })
        );
        assert_eq!(p.extract("Pair(1, 's')"), Ok(Pair { first: 1, second: "s".into() }));
        assert_eq!(p.extract("Pair(1, 's')"), Ok((1, "s".to_owned())));
        assert_eq!(
            p.extract("[{'Sized': 3}, {'Pair': (1, 2)}, {'Full': {'a': 4}}]"),
            Ok(vec![Kind::Sized(3), Kind::Pair(1, 2), Kind::Full { a: 4 }])
        );
        assert_eq!(p.extract("datetime.timedelta(seconds=1.5)"), Ok(std::time::Duration::from_millis(1500)));
        assert_eq!(p.extract("datetime.date(2024, 2, 29)"), Ok("2024-02-29".to_owned()));
        assert_eq!(p.extract("decimal.Decimal('1.10')"), Ok("1.10".to_owned()));
        assert_eq!(p.extract("2**100"), Ok(1_i128 << 100));
        assert_eq!(p.extract("2**127"), Ok(1_u128 << 127));
        assert_eq!(p.extract("3"), Ok(3.0));
        assert_eq!(p.extract("None"), Ok(()));
        assert_eq!(p.extract("()"), Ok(()));
        let place: Place = p.extract("Point(1, 2.0, path=pathlib.PurePosixPath('.'))").expect("a field as a ref");
        assert_eq!((place.x, place.path.type_name()), (1, "PurePosixPath"));
        let point: HashMap<String, Value> = p.extract("Point(1, 2.0, path=Color.RED)").expect("fields as values");
        assert!(matches!(point["path"], Value::Ref(_)) && point["x"] == Value::Int(1));
        let either: Vec<Either> = p.extract("[5, object()]").expect("either");
        assert!(matches!(&either[..], [Either::Number(5), Either::Object(object)] if object.type_name() == "object"));
        let flat: Flat = p.extract("{'id': 1, 'a': object(), 'b': [2]}").expect("flat");
        assert!(matches!(flat.rest["a"], Value::Ref(_)) && flat.rest["b"] == Value::from(vec![2]) && flat.id == 1);
        let link: Link = p.extract("Link(Link(None))").expect("links");
        assert!(link.next.expect("one").next.is_none());
        let refs: Vec<PyRef> = p.extract("[1, 'a', object()]").expect("refs of anything");
        assert_eq!(refs.iter().map(PyRef::type_name).collect::<Vec<_>>(), ["int", "str", "object"]);
        assert_eq!(
            p.extract::<(Value, String)>("((1, {2}), Text('x'))").map(|(value, _)| value.to_string()),
            Ok("(1, {2})".into())
        );
        assert_eq!(p.extract("Nested(1)"), Ok(BTreeMap::from([("x".to_owned(), 7)])));
    }
}

/// Asks for the expression as some type, and says why that failed.
type Failure = fn(&mut super::python::Python, &str) -> Option<String>;

#[test]
fn what_does_not_fit_is_named_with_its_place() {
    let cases: &[(&str, Failure, &str)] = &[
        ("[1, 300]", |p, e| p.extract::<Vec<u8>>(e).err(), "result at [1]: expected u8, found int 300"),
        ("-1", |p, e| p.extract::<u64>(e).err(), "result: expected u64, found int -1"),
        ("2**200", |p, e| p.extract::<i64>(e).err(), "result: expected i64, found int of 201 bits"),
        (
            "2**53 + 1",
            |p, e| p.extract::<f64>(e).err(),
            "result: expected an int that a float can hold exactly, found int 9007199254740993",
        ),
        ("float('nan')", |p, e| p.extract::<i32>(e).err(), "result: expected i32, found float nan"),
        ("1e300", |p, e| p.extract::<f32>(e).err(), "result: expected f32, found float 1e+300"),
        ("{'x': 1, 2: 3}", |p, e| p.extract::<Point>(e).err(), "result at [2]: expected a str as key, found int 2"),
        ("{'x': 1}", |p, e| p.extract::<Point>(e).err(), "result: expected a key `y`, found dict of length 1"),
        ("[1, {'k': '\\ud800'}]", |p, e| p.value(e).err(), "path: \"[1].k\", expected: \"valid UTF-8\""),
        (
            "['a', '\\ud800']",
            |p, e| p.extract::<Vec<String>>(e).err(),
            "result at [1]: expected valid UTF-8, found str with lone surrogates, which is not valid UTF-8",
        ),
        (
            "[{'x': 1, 'y': 'z', 'label': ''}]",
            |p, e| p.extract::<Vec<Point>>(e).err(),
            "result at [0].y: expected f64, found str 'z'",
        ),
        (
            "[[], [pathlib.PurePosixPath('.')]]",
            |p, e| p.extract::<Vec<Vec<i64>>>(e).err(),
            "expected i64, found an object of type pathlib",
        ),
        (
            "(1, 2, 3)",
            |p, e| p.extract::<(u8, u8)>(e).err(),
            "expected a sequence of length 2, found tuple of length 3",
        ),
        ("{1, 2}", |p, e| p.extract::<(u8, u8)>(e).err(), "a sequence of length 2, in order"),
        ("(None,)", |p, e| p.extract::<()>(e).err(), "result: expected unit, found tuple of length 1"),
        ("[]", |p, e| p.extract::<()>(e).err(), "result: expected unit, found list of length 0"),
        ("cycle()", |p, e| p.value(e).err(), "a cycle"),
        ("(lambda t: t[0].append(t) or t)(([],))", |p, e| p.value(e).err(), "a cycle"),
        ("deep(401)", |p, e| p.value(e).err(), "nesting"),
        (
            "deep(100000)",
            |p, e| p.value(e).err(),
            "EncodeError: the result is nested more than 400 deep, or holds itself",
        ),
        (
            "deep(100000, Link)",
            |p, e| p.extract::<serde_json::Value>(e).err(),
            "EncodeError: the result is nested more than 400 deep, or holds itself",
        ),
        (
            "cycle()",
            |p, e| p.extract::<Vec<Value>>(e).err(),
            "EncodeError: the result is nested more than 400 deep, or holds itself",
        ),
        ("[object(), Hostile(1)]", |p, e| p.extract::<serde_json::Value>(e).err(), "ValueError: no x for you"),
    ];
    for mut python in all() {
        let before = python.ask(b'L', &[], &[]);
        for (expression, extract, expected) in cases {
            let error = extract(&mut python, expression).expect(expression);
            assert!(error.contains(expected), "{expression} on {}: {error}", python.version);
        }
        assert_eq!(before, python.ask(b'L', &[], &[]), "a failed encode leaves no ref");
        assert!(python.value("deep(399)").is_ok() && python.value("deep(400)").is_ok());
    }
}

#[test]
fn a_generator_is_collected_up_to_the_budget_and_not_past_it() {
    for mut python in all() {
        python.ask(b'S', &[], b"kinds.MOST_NODES = 10").expect("a statement");
        assert_eq!(python.extract::<Vec<u8>>("(x for x in range(9))").map(|items| items.len()), Ok(9));
        assert_eq!(python.extract::<Vec<u8>>("(x for x in range(10))").map(|items| items.len()), Ok(10));
        let error = python.extract::<Vec<u8>>("(x for x in range(11))").expect_err("one too many");
        assert!(error.contains("EncodeError: the result has more than 10 values"), "{error}");
    }
}

/// Runs where numpy is; `SNAKEBRIDGE_PYTHON` can name such an interpreter.
#[test]
fn numpy_scalars_are_plain_and_arrays_are_sequences_when_asked() {
    for mut python in all() {
        if python.extract("numpy is None") == Ok(true) {
            continue;
        }
        let p = &mut python;
        let plain =
            "[numpy.float64(1.5), numpy.int32(3), numpy.bool_(True), numpy.str_('a'), numpy.datetime64('2024-01-01')]";
        assert_eq!(p.value(plain).expect("plain").to_string(), "[1.5, 3, True, 'a', datetime.date(2024, 1, 1)]");
        let exact = "numpy.datetime64('2024-01-01T00:00:00.000001000')";
        assert_eq!(p.value(exact).expect("plain").to_string(), "datetime.datetime(2024, 1, 1, 0, 0, 0, 1)");
        for kept in [
            "numpy.datetime64('2024-01-01T00:00:00.000000001')",
            "numpy.datetime64('NaT')",
            "numpy.longdouble(1)",
            "numpy.array([1])",
        ] {
            assert!(matches!(p.value(kept), Ok(Value::Ref(_))), "{kept}");
        }
        assert_eq!(p.extract("numpy.array([[1, 2], [3, 4]])"), Ok(vec![vec![1, 2], vec![3, 4]]));
        assert_eq!(p.extract("numpy.array(1.5)"), Ok(1.5));
        assert_eq!(p.extract("numpy.float32(0.5)"), Ok(0.5));
        assert_eq!(
            p.extract::<PyRef>("numpy.array([1])").map(|array| array.type_name().to_owned()),
            Ok("ndarray".to_owned())
        );
    }
}

#[derive(Serialize)]
struct Arguments<'a> {
    name: &'a str,
    sizes: (u8, [i8; 2]),
    kind: Option<Shape>,
    raw: &'a [u8],
    bytes: Bytes,
    unit: (),
    letter: char,
}

#[derive(Serialize)]
enum Shape {
    Empty,
    Round(f32),
    Pair(u64, i128),
    Box { side: u8 },
}

#[test]
fn arguments_arrive_as_serde_says_them() {
    for mut python in all() {
        let arguments = Arguments {
            name: "n",
            sizes: (1, [2, -3]),
            kind: Some(Shape::Empty),
            raw: &[1, 2],
            bytes: Bytes::from(b"ab"),
            unit: (),
            letter: 'é',
        };
        assert_eq!(
            python.seen(&arguments).as_deref(),
            Ok(
                "{'name': 'n', 'sizes': (1, (2, -3)), 'kind': 'Empty', 'raw': [1, 2], 'bytes': b'ab', 'unit': None, 'letter': '\\xe9'}"
            )
        );
        let shapes = [Shape::Round(0.5), Shape::Pair(u64::MAX, i128::MIN), Shape::Box { side: 1 }].to_vec_of();
        assert_eq!(
            python.seen(&shapes).as_deref(),
            Ok(
                "[{'Round': 0.5}, {'Pair': (18446744073709551615, -170141183460469231731687303715884105728)}, {'Box': {'side': 1}}]"
            )
        );
        assert_eq!(
            python.seen(&HashMap::from([((1, 'a'), "x".repeat(300))])),
            Ok(format!("{{(1, 'a'): '{}'}}", "x".repeat(300)))
        );
        assert_eq!(python.seen(&vec![0_u8; 100_000]).map(|text| text.len()), Ok(300_000));
    }
}

trait ToVec: Sized {
    type Item;
    fn to_vec_of(self) -> Vec<Self::Item>;
}

impl<T, const N: usize> ToVec for [T; N] {
    type Item = T;

    fn to_vec_of(self) -> Vec<T> {
        self.into_iter().collect()
    }
}

#[test]
fn an_argument_that_python_cannot_hold_is_named_with_its_place() {
    let error = |value: &dyn Fn() -> Result<super::super::Fragment, crate::ConvertError>| {
        value().expect_err("it cannot be").to_string()
    };
    let late = chrono::NaiveDate::from_ymd_opt(10_000, 1, 1).expect("chrono has it");
    let map = BTreeMap::from([("a", vec![Value::None, Value::Date(late)])]);
    assert!(error(&|| to_fragment(&(1, &map))).starts_with("argument at [1].a[1]: "));
    assert!(error(&|| to_fragment(&(1, &map))).contains("found a date outside the years 1 to 9999"));
    let keys = BTreeMap::from([(vec![1], 2)]);
    assert!(error(&|| to_fragment(&keys)).contains("a key, or item of a set, that Python can hash, found a list"));
    let mut deep = Value::None;
    for _ in 0..401 {
        deep = Value::List(vec![deep]);
    }
    assert!(error(&|| to_fragment(&deep)).contains("nesting of at most 400"));
    assert!(to_fragment(&deep[0]).is_ok());
    assert!(to_keywords(&[1]).is_err());
    assert_eq!(to_keywords(&map).expect_err("a late date").path, "a[1]");
}

#[test]
fn keywords_come_one_by_one() {
    #[derive(Serialize)]
    struct Options {
        ndigits: u8,
        name: &'static str,
    }
    let names = |keywords: Vec<(String, _)>| keywords.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(to_keywords(&Options { ndigits: 2, name: "n" }).expect("a struct")), ["ndigits", "name"]);
    let dict: Dict = [("b", 1), ("a", 2)].into_iter().collect();
    assert_eq!(names(to_keywords(&Value::Dict(dict)).expect("a dict")), ["b", "a"]);
    let error = to_keywords(&BTreeMap::from([("k", BTreeMap::from([(vec![1], 2)]))])).expect_err("a list as key");
    assert_eq!(error.path, "k");
}

#[test]
fn a_ref_that_the_worker_does_not_hold_is_said_to_be_missing() {
    let handle = super::source().make(crate::RefId(999), "m", "t").expect("any will do");
    for mut python in all() {
        let error = python.seen(&vec![&handle]).expect_err("there is no such object");
        assert_eq!(error, "RefNotFound: no object ref-999 is held here");
    }
}

/// How many random values go each way, on each interpreter.
fn rounds() -> u64 {
    std::env::var("SNAKEBRIDGE_CODEC_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(500)
}

#[test]
fn random_python_values_come_back_as_they_were() {
    for mut python in all() {
        for seed in 0..rounds() {
            let seed = seed.to_string();
            let body = python.ask(b'G', &[0], seed.as_bytes()).expect("it encodes");
            let value = value_of(&body).unwrap_or_else(|error| panic!("seed {seed} on {}: {error:?}", python.version));
            let back = to_fragment(&value).expect("it came from Python").into_body();
            let verdict = python.ask(b'C', seed.as_bytes(), &back.bytes).expect("it decodes");
            assert_eq!(String::from_utf8_lossy(&verdict), "same", "seed {seed} on {}: {value}", python.version);
            // As a type that takes anything, through the shape.
            let body = python.ask(b'G', &want_of::<Value>(), seed.as_bytes()).expect("it encodes");
            assert!(typed::<Value>(&body).expect("the same") == value, "seed {seed}");
        }
    }
}

#[test]
fn random_rust_values_come_back_as_they_were() {
    for mut python in all() {
        let mut random = Random(random::Random::new(1));
        for round in 0..rounds() {
            let value = random.value(0);
            let body = to_fragment(&value).expect("it is plain").into_body();
            let back = python.ask(b'R', &[0], &body.bytes).unwrap_or_else(|error| panic!("{error}: {value}"));
            let back = value_of(&back).expect("it is plain");
            assert!(back == value, "round {round} on {}: {value} came back as {back}", python.version);
        }
    }
}

struct Random(random::Random);

impl Random {
    fn next(&mut self) -> u64 {
        self.0.next()
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn value(&mut self, depth: u32) -> Value {
        let count = self.below(5);
        match self.below(if depth < 5 { 14 } else { 10 }) {
            0 => Value::None,
            1 => Value::Bool(self.below(2) == 1),
            2 => Value::Int(self.next() as i64 >> self.below(64)),
            3 => Value::from(BigInt::from(self.next() as i64) << self.below(500)),
            4 => Value::Float(f64::from_bits(self.next() & !(1 << 62))),
            5 => {
                Value::Str((0..self.below(300)).map(|_| ['a', '\0', 'é', '😀', '\''][self.below(5) as usize]).collect())
            }
            6 => Value::Bytes((0..self.below(300)).map(|_| self.next() as u8).collect::<Vec<_>>().into()),
            7 => Value::Uuid(uuid::Uuid::from_u64_pair(self.next(), self.next())),
            8 => Value::Decimal(format!("{}.{}", self.next() as i64, self.below(1000)).into()),
            9 => Value::TimeDelta(chrono::TimeDelta::microseconds(self.next() as i64 >> 2)),
            10 => Value::List((0..count).map(|_| self.value(depth + 1)).collect()),
            11 => Value::Tuple((0..count).map(|_| self.value(depth + 1)).collect()),
            12 => Value::Dict(
                (0..count).map(|key| (Value::Tuple(vec![Value::Int(key as i64)]), self.value(depth + 1))).collect(),
            ),
            _ => Value::FrozenSet((0..count).map(|item| Value::Int(item as i64)).collect()),
        }
    }
}

#[test]
fn an_exception_is_described_as_python_prints_it() {
    for mut python in all() {
        let code = "try:\n  1/0\nexcept ZeroDivisionError as e:\n  raise ValueError('no\\x1b') from e";
        let error = decode_error(&python.ask(b'X', &[], code.as_bytes()).expect("described")).expect("decoded");
        assert_eq!((error.module(), error.type_name(), error.message()), ("builtins", "ValueError", "no\\u{1b}"));
        assert!(error.traceback().contains("The above exception was the direct cause"), "{error}");
        assert!(error.traceback().trim_end().ends_with("ValueError: no\\u{1b}"), "{error}");
        assert_eq!(error.frames().last().map(|frame| (frame.file.as_str(), frame.line)), Some(("<test>", 4)));
        assert_eq!(error.cause().map(|cause| cause.type_name()), Some("ZeroDivisionError"));

        let hostile = [
            ("class E(Exception):\n  def __str__(self): raise KeyError(1)\nraise E", "<exception str() failed>", "E"),
            ("class E(Exception):\n  def __str__(self): return 7\nraise E", "<exception str() failed>", "E"),
            ("raise ValueError('x' * 10**8)", "xxx", "ValueError"),
            ("e = ValueError(1); e.__cause__ = KeyError(2); e.__cause__.__cause__ = e\nraise e", "1", "ValueError"),
            ("def f(n): f(n + 1)\nf(0)", "maximum recursion depth", "RecursionError"),
            (
                "e = None\nfor n in range(5000):\n  f = ValueError(n); f.__cause__ = e; e = f\nraise e",
                "4999",
                "ValueError",
            ),
            ("raise SystemExit(3)", "3", "SystemExit"),
            ("raise KeyboardInterrupt", "", "KeyboardInterrupt"),
            (
                "class M(type):\n  def __getattribute__(s, n): raise OSError(n)\nclass E(Exception, metaclass=M): pass\nraise E('m')",
                "m",
                "E",
            ),
            ("class E(Exception):\n  def __getattribute__(self, n): raise OSError(n)\nraise E('m')", "m", "E"),
            ("raise ValueError('\\ud800')", "\\ud800", "ValueError"),
            ("e = ValueError(1); e.__notes__ = ['n'] * 1000\nraise e", "1", "ValueError"),
            (
                "def f(n):\n  if n == 0: raise ValueError('deep')\n  f(n - 1)\nimport sys; sys.setrecursionlimit(20000)\nf(9000)",
                "deep",
                "ValueError",
            ),
            ("compile('a b', 'f', 'exec')", "invalid syntax", "SyntaxError"),
        ];
        for (code, message, name) in hostile {
            let body = python.ask(b'X', &[], code.as_bytes()).expect(code);
            assert!(body.len() < 10 << 20, "{code}: {} bytes", body.len());
            let error = decode_error(&body).expect(code);
            assert!(error.message().contains(message), "{code}: {}", error.message());
            assert_eq!(error.type_name(), name, "{code}");
            assert!(error.traceback().contains(name), "{code}: {}", error.traceback());
            assert!(error.message().len() < 70_000 && error.traceback().len() < 140_000, "{code}");
        }
    }
}
