//! What bad input gets: a clear error, and nothing lost.

use crate::support::{Dir, code, pool, start, within};
use serde::{Deserialize, Serialize, Serializer};
use snakebridge::{Config, Error, PoolConfig, PyRef, Ran, SnakeBridge, Value};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

#[tokio::test]
async fn an_unknown_pool_is_an_error_that_lists_the_names() {
    let py = start([pool("one", 1), pool("two", 1)]).await;
    let error = py.call("math", "sqrt", (4,)).pool("three").await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("unknown_pool", Ran::No));
    assert_eq!(error.to_string(), "unknown pool three; configured: one, two");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_configuration_that_makes_no_sense_is_refused_before_anything_starts() {
    for (config, word) in [
        (Config::new(), "no pool"),
        (Config::new().pool(PoolConfig::new("p").size(0)), "at least one worker"),
        (Config::new().pool(PoolConfig::new("p").concurrency(0)), "at least one call"),
        (Config::new().pool(PoolConfig::new("p")).pool(PoolConfig::new("p")), "two pools"),
        (Config::new().pool(PoolConfig::new("p").init("nothing")), "module:function"),
    ] {
        let error = SnakeBridge::from_config(config).await.unwrap_err();
        assert_eq!(error.code(), "config");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn a_bridge_is_as_its_file_says_and_code_has_the_last_word() {
    let dir = Dir::new();
    let file = dir.0.join("bridge.toml");
    let text = r#"
        default_pool = "second"
        timeout = "none"
        session_ttl = "none"
        [[pools]]
        name = "first"
        size = 3
        [[pools]]
        name = "second"
        size = 1
        timeout = "none"
        queue_timeout = "none"
        cancel_grace = "none"
        shutdown_grace = "none"
        retire_grace = "none"
        start_timeout = "none"
        restart_backoff = { first = "none", longest = "none" }
        env = { OF_THE_FILE = "yes" }
        "#;
    std::fs::write(&file, text).unwrap();
    let config = Config::from_toml_file(&file).unwrap();
    let builder = SnakeBridge::builder().config(config).pool(PoolConfig::new("first").size(1));
    let py = within("a start from a file", builder.start()).await.unwrap();
    let sizes: Vec<_> = py.stats().await.pools.iter().map(|pool| (pool.name.to_string(), pool.size)).collect();
    assert_eq!(sizes, [("first".into(), 1), ("second".into(), 1)]);
    let told: String = py.get("os", "environ").get_item("OF_THE_FILE").extract().await.unwrap();
    assert_eq!(told, "yes");

    std::fs::write(&file, format!("{text}sise = 2")).unwrap();
    let error = Config::from_toml_file(&file).unwrap_err();
    let line = text.lines().count();
    let told = format!("{}:{line}: unknown key `sise` in pool `second`; did you mean `size`?", file.display());
    assert_eq!((error.code(), error.to_string()), ("config", told));
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn no_python_is_an_error_that_names_what_was_looked_at() {
    let dir = Dir::new();
    let missing = dir.0.join("python-that-is-not-there");
    let start = SnakeBridge::builder().pool(PoolConfig::new("p").size(1).python(&missing)).start();
    let error = within("a start without Python", start).await.unwrap_err();
    assert_eq!(error.code(), "spawn");
    assert!(error.to_string().contains("python-that-is-not-there"), "{error}");
}

#[tokio::test]
async fn a_python_that_is_too_old_is_an_error_with_its_version() {
    let dir = Dir::new();
    let old = dir.0.join("python3");
    std::fs::write(&old, "#!/bin/sh\nexec python3 -c 'print(\"/usr/bin/old 3 8 18\")'\n").unwrap();
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).unwrap();
    let start = SnakeBridge::builder().pool(PoolConfig::new("p").size(1).python(&old)).start();
    let error = within("a start with a wrong Python", start).await.unwrap_err();
    assert_eq!(error.code(), "spawn");
}

#[tokio::test]
async fn a_module_or_function_that_does_not_exist_is_pythons_own_error() {
    let py = start([pool("p", 1)]).await;
    let error = py.call("no_such_module", "f", ()).await.unwrap_err();
    assert_eq!(error.python().unwrap().type_name(), "ModuleNotFoundError");
    let error = py.call("math", "no_such_function", ()).await.unwrap_err();
    let raised = error.python().unwrap();
    assert_eq!((raised.type_name(), raised.module()), ("AttributeError", "builtins"));
    assert_eq!(raised.message(), "module 'math' has no attribute 'no_such_function'");
    assert_eq!(error.ran(), Ran::Yes);
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_exception_in_a_chain_names_the_step_that_raised_it() {
    let py = start([pool("p", 1)]).await;
    let path: PyRef = py.call("pathlib", "Path", ("/a/b",)).into_ref().await.unwrap();
    let chains = [
        (py.call("math", "sqrt", (-1,)).getattr("real").getattr("imag"), r#"step 1 of 3: call("math", "sqrt")"#),
        (py.get("math", "no_such").call_with((1,)), r#"step 1 of 2: get("math", "no_such")"#),
        (py.call("pathlib", "Path", (".",)).getattr("no.such").call_with(()), r#"step 2 of 3: .getattr("no.such")"#),
        (path.getattr("parent").call_method("joinpath", (1,)), r#"step 2 of 2: .call_method("joinpath")"#),
        (py.get("os", "environ").get_item("no such variable"), "step 2 of 2: .get_item()"),
        (py.get("operator", "truediv").call_with((1, 0)), "step 2 of 2: .call_with()"),
        // The coroutine that the last step gives raises only when it is awaited.
        (py.get("bridge_helpers", "coroutine_that_fails").call_with(()), "step 2 of 2: .call_with()"),
    ];
    for (chain, step) in chains {
        let error = within(step, chain).await.unwrap_err();
        let raised = error.python().unwrap_or_else(|| panic!("{step}: {error}"));
        assert_eq!(raised.step(), Some(step));
        assert_eq!(error.to_string(), format!("{}\nin {step}", raised.traceback().trim_end()));
        assert!(!raised.traceback().contains("snakebridge"), "the exception is as Python raised it: {error}");
    }
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_exception_that_no_step_of_a_chain_raised_names_none() {
    let py = start([pool("p", 1)]).await;
    for call in [
        py.call("math", "sqrt", (-1,)),
        py.call("builtins", "int", ("x",)).kwarg("base", 10),
        py.call("bridge_helpers", "coroutine_that_fails", ()),
    ] {
        let error = call.await.unwrap_err();
        assert_eq!(error.python().unwrap().step(), None, "{error}");
        assert!(!error.to_string().contains("step"), "{error}");
    }
    let error = py.call("bridge_helpers", "Tracked", ()).getattr("no_such").await.unwrap_err();
    assert_eq!(error.python().unwrap().step(), Some(r#"step 2 of 2: .getattr("no_such")"#));
    drop(error);
    let live: usize = py.call("bridge_helpers", "tracked_live", ()).extract().await.unwrap();
    assert_eq!(live, 0, "what came before the step is let go");

    let error = py.get("bridge_helpers", "fail").call_with(("a text",)).await.unwrap_err();
    let raised = error.python().unwrap();
    assert_eq!(raised.step(), Some("step 2 of 2: .call_with()"));
    assert_eq!(raised.cause().unwrap().step(), None, "the step is of what was raised, not of its cause");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_exception_comes_whole_with_its_cause_chain_and_notes() {
    let py = start([pool("p", 1)]).await;
    let error = py.call("bridge_helpers", "fail", ("the text",)).await.unwrap_err();
    let raised = error.python().unwrap();
    assert_eq!((raised.type_name(), raised.message()), ("RuntimeError", "the text"));
    assert_eq!(raised.cause().unwrap().type_name(), "ValueError");
    assert!(raised.frames().iter().any(|frame| frame.function == "fail" && frame.line > 0));
    let printed = error.to_string();
    for part in ["Traceback (most recent call last)", "in fail", "direct cause", "RuntimeError: the text"] {
        assert!(printed.contains(part), "{printed}");
    }
    assert!(!printed.contains("snakebridge_worker") && !printed.contains("<snakebridge>"), "{printed}");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_argument_that_cannot_be_serialised_is_an_error_with_the_path_to_it() {
    struct Stubborn;
    impl Serialize for Stubborn {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("this one never"))
        }
    }
    #[derive(Serialize)]
    struct Order {
        items: Vec<BTreeMap<String, Option<Stubborn>>>,
    }
    let py = start([pool("p", 1)]).await;
    let items = vec![BTreeMap::new(), BTreeMap::from([("price".to_owned(), Some(Stubborn))])];
    let error = py.call("builtins", "repr", (1, Order { items })).await.unwrap_err();
    let Error::Convert(error) = error else { panic!("{error}") };
    assert_eq!((error.path.as_str(), error.ran), ("[1].items[1].price", Ran::No));
    assert!(error.to_string().contains("this one never"), "{error}");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_result_that_does_not_fit_is_an_error_with_path_expected_and_found() {
    #[derive(Debug, Deserialize)]
    struct Item {
        #[expect(dead_code, reason = "only its type matters")]
        price: u8,
    }
    let py = start([pool("p", 1)]).await;
    let text = r#"[{"price": 1}, {"price": 2}, {"price": 3}, {"price": 300}]"#;
    let error = py.call("json", "loads", (text,)).extract::<Vec<Item>>().await.unwrap_err();
    let Error::Convert(error) = error else { panic!("{error}") };
    assert_eq!((error.path.as_str(), error.ran), ("[3].price", Ran::Yes));
    assert!(error.found.contains("300"), "{error}");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_value_too_deep_or_holding_itself_is_an_error_that_names_the_limit() {
    let py = start([pool("p", 1)]).await;
    assert!(py.call("bridge_helpers", "deep", (390,)).await.is_ok());
    let error = py.call("bridge_helpers", "deep", (1_000,)).await.unwrap_err();
    assert_eq!(error.code(), "convert");
    assert!(error.to_string().contains("400"), "{error}");
    let error = py.call("bridge_helpers", "deep", (1_000_000,)).await.unwrap_err();
    assert_eq!(error.code(), "convert", "{error}");
    assert_eq!(code(py.call("bridge_helpers", "cyclic", ()).await), "convert");

    let mut deep = Value::List(Vec::new());
    for _ in 0..1_000 {
        deep = Value::List(vec![deep]);
    }
    let error = py.call("builtins", "len", (deep,)).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("convert", Ran::No));
    assert!(py.call("math", "sqrt", (4,)).await.is_ok(), "the worker goes on");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_ref_of_another_session_pool_worker_or_bridge_is_refused() {
    let py = start([pool("one", 2), pool("two", 1)]).await;
    let (a, b) = (py.session("a"), py.session("b"));
    let of_a: PyRef = a.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    let of_b: PyRef = b.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    assert_eq!(code(b.call("operator", "eq", (&of_a, 1)).await), "session_mismatch");
    assert_eq!(code(of_a.call_method("__eq__", (&of_b,)).await), "session_mismatch");
    assert_eq!(code(of_a.call_method("add", ()).session("b").await), "session_mismatch");
    assert_eq!(code(of_a.call_method("add", ()).pool("two").await), "refs_on_different_workers");
    let elsewhere: PyRef = a.call("bridge_helpers", "Counter", ()).pool("two").into_ref().await.unwrap();
    assert_eq!(code(a.call("operator", "eq", (&of_a, &elsewhere)).await), "refs_on_different_workers");

    let other = start([pool("one", 1)]).await;
    assert_eq!(code(other.call("operator", "eq", (&of_a, 1)).await), "refs_on_different_workers");
    other.shutdown().await.unwrap();
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_ref_that_is_gone_says_what_became_of_it() {
    let py = start([pool("p", 1)]).await;
    let session = py.session("s");
    let counter: PyRef = session.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    let clone = counter.clone();
    counter.release().await.unwrap();
    assert_eq!(code(clone.call_method("add", ()).await), "ref_not_found");

    let counter: PyRef = session.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    assert_eq!(code(session.call("bridge_helpers", "die", ()).await), "worker_crashed");
    let error = counter.call_method("add", ()).await.unwrap_err();
    assert_eq!(error.code(), "ref_lost");
    assert!(error.to_string().contains("SIGKILL"), "{error}");

    session.release().await.unwrap();
    let error = counter.call_method("add", ()).await.unwrap_err();
    assert_eq!(error.code(), "ref_not_found");
    assert!(py.sessions().await.is_empty(), "a call with a ref of an ended session starts none");
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_writes_garbage_is_killed_its_call_gets_protocol_and_others_go_on() {
    let py = start([pool("p", 2)]).await;
    let (bad, good) = (py.session("bad"), py.session("good"));
    let kept: PyRef = good.call("bridge_helpers", "Counter", ()).into_ref().await.unwrap();
    let error =
        within("garbage", bad.call("bridge_helpers", "garbage", ()).affinity(snakebridge::Affinity::StrictQueue))
            .await
            .unwrap_err();
    assert_eq!((error.code(), error.ran()), ("protocol", Ran::Maybe));
    assert_eq!(kept.call_method("add", ()).extract::<i64>().await.unwrap(), 1);
    py.await_ready(Duration::from_secs(20)).await.unwrap();
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_pool_whose_preload_or_init_fails_does_not_start_and_says_why_in_pythons_words() {
    let preload = pool("p", 1).preload(["no_such_module"]);
    let error = within("a bad preload", SnakeBridge::builder().pool(preload).start()).await.unwrap_err();
    assert_eq!(error.code(), "spawn");
    assert!(error.to_string().contains("No module named 'no_such_module'"), "{error}");

    let init = pool("p", 1).init("bridge_helpers:fail");
    let error = within("a bad init", SnakeBridge::builder().pool(init).start()).await.unwrap_err();
    assert_eq!(error.code(), "spawn");
    assert!(error.to_string().contains("on purpose"), "{error}");
}

#[tokio::test]
async fn what_is_too_large_to_be_sent_is_refused_before_it_begins_and_harms_no_worker() {
    let py = start([pool("p", 1)]).await;
    let name = "x".repeat(300_000);
    let error = within("a long name", py.call("math", name, ())).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("convert", Ran::No));
    let gigabyte = snakebridge::Bytes::from(vec![0; (1 << 30) + 1]);
    let error = within("a large argument", py.call("builtins", "len", (gigabyte,))).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("convert", Ran::No));
    let objects = py.call("bridge_helpers", "objects", (40_000,));
    assert_eq!(code(within("a result of many objects", objects).await), "convert");
    let error = within("a large result", py.call("bridge_helpers", "more_than_a_gigabyte", ())).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("convert", Ran::Yes));
    assert!(error.to_string().contains("1 GiB is the limit"), "{error}");
    assert_eq!(py.stats().await.pools[0].deaths, 0);
    assert!(py.call("math", "sqrt", (4,)).await.is_ok());
    py.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_reports_a_failed_start_after_its_greeting_is_killed() {
    let py = start([pool("p", 1)]).await;
    let error = within("the call", py.call("bridge_helpers", "fail_start_late", ()).discard()).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("protocol", Ran::Maybe));
    py.await_ready(Duration::from_secs(20)).await.unwrap();
    within("the shutdown", py.shutdown()).await.unwrap();
}
