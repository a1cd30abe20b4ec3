//! Bodies that no worker of ours writes: each is an error, at once, whatever its bytes.

use super::{counted, source, typed, value_of};
use crate::Value;
use crate::pickle::{Budget, DecodeError, decode_error, decode_value};
use crate::value::RefSource;
use std::sync::atomic::Ordering;

fn body(opcodes: &[u8]) -> Vec<u8> {
    [b"\x80\x05", opcodes, b"."].concat()
}

fn is_malformed(result: Result<Value, DecodeError>) -> bool {
    matches!(result, Err(DecodeError::Malformed(_)))
}

fn over(result: &Result<Value, DecodeError>, expected: &str) -> bool {
    matches!(result, Err(DecodeError::OverBudget { what, .. }) if *what == expected)
}

/// A body with each opcode that is known.
pub(super) fn rich() -> Vec<u8> {
    let mut out = b"(NK\x01M\x01\x02J\xff\xff\xff\xff\x88\x89G\x3f\xf0\0\0\0\0\0\0\x8c\x01a\x94h\0C\x01b".to_vec();
    out.extend(b"X\x01\0\0\0cB\x01\0\0\0d\x8a\x09\0\0\0\0\0\0\0\0\x01]K\x01a](K\x01K\x02e}\x8c\x01kNs}(\x8c\x01kNu");
    out.extend(b"\x8f(K\x01\x90(K\x01\x91)K\x01\x85K\x01K\x02\x86K\x01K\x02K\x03\x87");
    out.extend(b"\x82\xf1(K\x05\x8c\x01m\x8c\x01ttR\x82\xf2(K\x06\x8c\x01m\x8c\x01ttR\x82\xf3K\x07\x85R");
    out.extend(b"\x82\xf5\x8c\x01f\x85K\x01\x85\x86R\x82\xf6(M\xe8\x07K\x02K\x1dK\x01K\x02K\x03K\x04NtR");
    out.extend(b"\x82\xf7M\xe8\x07K\x02K\x1d\x87R\x82\xf8(K\x01K\x02K\x03K\x04tR\x82\xf9K\x01K\x02K\x03\x87R");
    out.extend(
        b"\x82\xfa\x8c\x031.1\x85R\x82\xfbC\x100123456789abcdef\x85R\x82\xfcG\0\0\0\0\0\0\0\0G\0\0\0\0\0\0\0\0\x86R",
    );
    out.extend(b"\x96\x01\0\0\0\0\0\0\0xt");
    body(&out)
}

#[test]
fn a_ref_that_the_result_was_not_said_to_hold_or_that_stands_in_it_twice_is_malformed() {
    for (said, counts) in [(vec![5], true), (vec![6, 5], true), (vec![], false), (vec![6], false)] {
        let (refs, counter) = counted();
        let refs =
            RefSource { left: Some(std::cell::RefCell::new(said.into_iter().map(crate::RefId).collect())), ..refs };
        let one = &b"\x82\xf1K\x05\x8c\x01m\x8c\x01t\x87R"[..];
        let result = decode_value(&body(one), &refs, &Budget::default());
        assert_eq!(result.is_ok(), counts);
        drop(result);
        assert_eq!(counter.0.load(Ordering::SeqCst), usize::from(counts), "it is freed once, by its handle");
        let again = decode_value(&body(&[b"](", one, one, b"e"].concat()), &refs, &Budget::default());
        assert!(matches!(again, Err(DecodeError::Malformed(_))), "{again:?}");
    }
}

#[test]
fn a_body_decodes_whole_and_in_no_other_length() {
    let whole = rich();
    let value = value_of(&whole).expect("it is whole");
    assert_eq!(value.as_slice().map(<[_]>::len), Some(35), "{value}");
    for length in 0..whole.len() {
        assert!(is_malformed(value_of(&whole[..length])), "cut at {length}");
    }
    let mut longer = whole.clone();
    longer.push(b'N');
    assert!(is_malformed(value_of(&longer)));
}

#[test]
fn a_flipped_bit_is_never_a_panic() {
    let whole = rich();
    for at in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        drop(value_of(&flipped));
        drop(typed::<serde_json::Value>(&flipped).map_err(|_| ()));
        drop(decode_error(&flipped).map_err(|_| ()));
    }
}

#[test]
fn a_ref_of_a_body_that_fails_is_let_go() {
    let (refs, counter) = counted();
    let result = decode_value(&body(b"\x82\xf1(K\x05\x8c\x01m\x8c\x01ttR\x00"), &refs, &Budget::default());
    assert!(is_malformed(result));
    assert_eq!(counter.0.load(Ordering::SeqCst), 1);
}

#[test]
fn what_no_worker_writes_is_malformed() {
    let bodies: [&[u8]; 21] = [
        b"",
        b"NN",
        b"(N",
        b"a",
        b"]a",
        b"Na",
        b"N(K\x01e",
        b"t",
        b"R",
        b"NNR",
        b"h\0",
        b"\x94",
        b"cos\nsystem\n)R",
        b"\x8c\x02os\x8c\x06system\x93)R",
        b"\x82\xf0K\x01\x85R",
        b"\x82\xf1",
        b"\x82\xf1)R",
        b"\x82\xf6)R",
        b"]\x82\xf1a",
        b"}(K\x01u",
        b"\x82\xfa\x8c\x03a'b\x85R",
    ];
    for opcodes in bodies {
        assert!(is_malformed(value_of(&body(opcodes))), "{opcodes:?}");
    }
    assert!(is_malformed(value_of(b"\x80\x04N.")));
    assert!(is_malformed(value_of(b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\xffN.")));
    // Lengths past the body cost nothing.
    for opcode in [b'X', b'B', 0x8b] {
        assert!(!is_plain(&body(&[opcode, 0xff, 0xff, 0xff, 0x7f])));
    }
    for opcode in [0x8d, 0x8e, 0x96] {
        assert!(!is_plain(&body(&[&[opcode][..], &[0xff; 8]].concat())));
    }
    assert!(is_malformed(value_of(&body(b"j\xff\xff\xff\x7f"))));
}

fn is_plain(body: &[u8]) -> bool {
    value_of(body).is_ok()
}

#[test]
fn a_bomb_of_shared_lists_is_refused_where_it_passes_the_budget() {
    // Each list holds the one before twice: 2^40 values in some 250 bytes.
    let mut opcodes = b"]\x94".to_vec();
    for level in 0..40 {
        opcodes.extend([b'h', level, 0x86, 0x94]);
    }
    let begun = std::time::Instant::now();
    assert!(over(&value_of(&body(&opcodes)), "values"));
    assert!(begun.elapsed().as_millis() < 100);
}

#[test]
fn depth_is_bounded_and_a_hundred_thousand_levels_do_no_harm() {
    let nested = |levels: usize| body(&[&vec![b')'; 1][..], &vec![0x85; levels - 1]].concat());
    let nested_lists = |levels: usize| body(&[&vec![b']'; levels][..], &vec![b'a'; levels - 1]].concat());
    for make in [&nested as &dyn Fn(usize) -> Vec<u8>, &nested_lists] {
        assert!(value_of(&make(399)).is_ok());
        assert!(value_of(&make(400)).is_ok());
        assert!(over(&value_of(&make(402)), "nesting"));
        assert!(over(&value_of(&make(100_000)), "nesting"));
    }
}

#[test]
fn each_budget_holds_at_its_limit_and_not_one_past_it() {
    let tight = Budget { nodes: 10, refs: 2, int_bytes: 16 };
    let decode = |opcodes: &[u8]| decode_value(&body(opcodes), &source(), &tight);
    let list = |items: usize| [b"](", &vec![b'N'; items][..], b"e"].concat();
    assert!(decode(&list(8)).is_ok() && decode(&list(9)).is_ok());
    assert!(over(&decode(&list(10)), "values"));
    let refs = |count: usize| [b"](", &b"\x82\xf1K\x05\x8c\x01m\x8c\x01t\x87R".repeat(count)[..], b"e"].concat();
    let roomy = Budget { nodes: 1_000, ..tight.clone() };
    let decode_refs = |count| decode_value(&body(&refs(count)), &source(), &roomy);
    assert!(decode_refs(1).is_ok() && decode_refs(2).is_ok());
    assert!(over(&decode_refs(3), "refs"));
    let int = |bytes: u8| [&[0x8a, bytes][..], &vec![1; bytes.into()]].concat();
    assert!(decode(&int(15)).is_ok() && decode(&int(16)).is_ok());
    assert!(over(&decode(&int(17)), "bytes in one int"));
    let error = decode(&list(10)).expect_err("over").into_error(&source().worker);
    assert_eq!((error.code(), error.ran()), ("convert", crate::Ran::Yes));
    let error = value_of(b"").expect_err("empty").into_error(&source().worker);
    assert_eq!((error.code(), error.ran()), ("protocol", crate::Ran::Yes));
}

#[test]
fn a_cycle_is_an_error_in_each_of_its_forms() {
    for opcodes in [&b"]\x94h\0a"[..], b"]\x94]h\0aa", b"]\x94h\0\x85a", b"}\x94\x8c\x01kh\0s", b"]\x94h\0\x850"] {
        assert!(matches!(value_of(&body(opcodes)), Err(DecodeError::Convert(_))), "{opcodes:?}");
    }
}

#[test]
fn data_is_not_mistaken_for_a_ticket() {
    assert!(typed::<crate::PyRef>(&body(b"C\x180123456789abcdef01234567")).is_err());
    assert!(typed::<crate::PyRef>(&body(b"K\0")).is_err());
    #[derive(Debug, serde::Deserialize)]
    #[serde(untagged)]
    enum Either {
        Object(#[expect(dead_code, reason = "it must not be made")] crate::PyRef),
        Number(i64),
    }
    assert!(matches!(typed::<Either>(&body(b"K\x05")), Ok(Either::Number(5))));
    assert!(serde_json::from_str::<crate::PyRef>("5").is_err());
}

#[test]
fn a_ref_in_another_format_is_an_error() {
    let value = value_of(&body(b"\x82\xf1K\x05\x8c\x01m\x8c\x01t\x87R")).expect("a ref");
    let error = serde_json::to_string(&value).expect_err("JSON holds no objects").to_string();
    assert!(error.contains("stays in Python"), "{error}");
    let json: Result<serde_json::Value, _> = typed(&body(b"](K\x01\x82\xf1K\x05\x8c\x01m\x8c\x01t\x87Re"));
    let Err(DecodeError::Convert(error)) = json else { panic!("JSON holds no objects") };
    assert_eq!((error.path.as_str(), error.found.as_str()), ("[1]", "an object of type m.t"));
}
