//! The functions of this process that Python may call: what finds one, and what runs one.
//!
//! A registered function is kept here until it is unregistered or the bridge stops; that of a
//! [`Callback`] lives with the callback, and is only known here. No lock is held while foreign code
//! runs, nor while what it has captured is dropped.

use super::hold::{Hold, hold_of};
use super::request::Reply;
use super::scope::{Scope, Scoped};
use crate::error::{ConvertError, Error, Ran, Result};
use crate::id::WorkerId;
use crate::pickle::{self, Body};
use crate::process::LARGEST_BODY;
use crate::value::{Callback, HostFunction};
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::{self, Any};
use std::collections::HashMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::task::{Context, Poll};

/// The name of a type may be as long as the program; this goes with each call.
const LONGEST_TYPE_NAME: usize = 255;

/// One for the whole process, so that an id never means a function of another bridge.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// All functions of one bridge.
pub(crate) struct Functions {
    this: Weak<Self>,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    by_id: HashMap<u64, Weak<Function>>,
    registered: HashMap<Arc<str>, Arc<Function>>,
    /// The bridge has stopped.
    is_closed: bool,
}

/// One function, whatever its types.
pub(crate) struct Function {
    id: u64,
    name: Arc<str>,
    want: Arc<[u8]>,
    run: Run,
    functions: Weak<Functions>,
}

type Run = Box<dyn Fn(Reply) -> BoxFuture<'static, Result<Body>> + Send + Sync>;

impl Functions {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new_cyclic(|this| Self { this: this.clone(), known: RwLock::default() })
    }

    /// Keeps a function under a name.
    ///
    /// # Errors
    /// `Config` for a name that is taken, or empty; `ShuttingDown`.
    pub(crate) fn register<A, R, F, Fut>(&self, name: impl Into<String>, f: F) -> Result<()>
    where
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Error>> + Send + 'static,
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
    {
        let name: String = name.into();
        if name.is_empty() {
            return Err(Error::config("a function needs a name to be registered under, and this one is empty"));
        }
        // Dropped after the lock if it is refused.
        let function = self.make(name.into(), f);
        let mut known = self.write();
        if known.is_closed {
            return Err(Error::ShuttingDown { ran: Ran::No });
        }
        if known.registered.contains_key(&function.name) {
            let what = format!("a function '{}' is registered already: unregister it first", function.name);
            return Err(Error::config(what));
        }
        known.by_id.insert(function.id, Arc::downgrade(&function));
        known.registered.insert(Arc::clone(&function.name), function);
        Ok(())
    }

    /// Forgets the function of that name, if there is one. Calls of it that are under way finish.
    pub(crate) fn unregister(&self, name: &str) {
        let mut known = self.write();
        let function = known.registered.remove(name);
        if let Some(function) = &function {
            known.by_id.remove(&function.id);
        }
        drop(known);
        drop(function);
    }

    pub(crate) fn callback<A, R, F, Fut>(&self, f: F) -> Callback
    where
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Error>> + Send + 'static,
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
    {
        let name = match any::type_name::<F>() {
            name if name.len() <= LONGEST_TYPE_NAME => name,
            _ => "callback",
        };
        let function = self.make(name.into(), f);
        let mut known = self.write();
        if !known.is_closed {
            known.by_id.insert(function.id, Arc::downgrade(&function));
        }
        drop(known);
        Callback::new(function)
    }

    fn make<A, R, F, Fut>(&self, name: Arc<str>, f: F) -> Arc<Function>
    where
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Error>> + Send + 'static,
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
    {
        let (f, called, functions) = (Arc::new(f), Arc::clone(&name), self.this.clone());
        let run = move |arguments: Reply| -> BoxFuture<'static, Result<Body>> {
            let (f, name, functions) = (Arc::clone(&f), Arc::clone(&called), functions.clone());
            Box::pin(async move {
                let caller = (arguments.worker().clone(), Arc::clone(arguments.hold()));
                let arguments = arguments.decode(pickle::decode::<A>).map_err(|error| match error {
                    Error::Convert(error) => Arc::unwrap_or_clone(error).in_arguments_of(&name).into(),
                    error => error,
                })?;
                let result = f(arguments).await?;
                let body = pickle::to_fragment(&result).map_err(|error| error.in_result_of(&name))?.into_body();
                check_result(&body, &name, &caller, &functions)?;
                Ok(body)
            })
        };
        Arc::new(Function {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name,
            want: pickle::want_of::<A>(),
            run: Box::new(run),
            functions: self.this.clone(),
        })
    }

    /// # Errors
    /// One of another bridge, whose functions no worker of this one can reach.
    pub(crate) fn check(&self, callbacks: &[Callback]) -> Result<(), ConvertError> {
        let is_foreign = |callback: &&Callback| {
            let function: &dyn Any = callback.function();
            !function.downcast_ref::<Function>().is_some_and(|known| ptr::eq(known.functions.as_ptr(), self))
        };
        match callbacks.iter().find(is_foreign) {
            Some(foreign) => {
                Err(ConvertError::of_argument("a callback of this bridge", format!("{foreign:?} of another")))
            }
            None => Ok(()),
        }
    }

    /// The bridge has stopped: none is found any more, and what the registered ones had captured goes.
    pub(crate) fn close(&self) {
        let closed = Known { is_closed: true, ..Known::default() };
        let known = std::mem::replace(&mut *self.write(), closed);
        for function in known.registered.into_values() {
            // What it has captured is foreign, and must not keep the bridge from stopping.
            let _panic = contain(|| drop(function));
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Functions {
    /// `None`: it was unregistered or dropped.
    pub(crate) fn find(&self, id: u64) -> Option<Arc<Function>> {
        self.read().by_id.get(&id).and_then(Weak::upgrade)
    }

    /// The id of what is registered under that name, and what its arguments are to be encoded for.
    pub(crate) fn named(&self, name: &str) -> Option<(u64, Arc<[u8]>)> {
        let known = self.read();
        known.registered.get(name).map(|function| (function.id, Arc::clone(&function.want)))
    }
}

impl Function {
    /// Calls it with what Python has sent; the calls that it makes belong to that scope. Dropped before
    /// its end, it is given up.
    ///
    /// # Errors
    /// What the function fails with; `Convert` if the arguments are not what it takes, or what it returns
    /// cannot be sent; `RefsOnDifferentWorkers` and `RefNotFound` for refs in what it returns that the
    /// calling worker does not have; `Internal` if it panics.
    pub(crate) fn run(&self, arguments: Reply, scope: Scope) -> BoxFuture<'static, Result<Body>> {
        let future = Scoped::new(scope, (self.run)(arguments));
        Box::pin(Contained { future: Some(future), name: Arc::clone(&self.name) })
    }
}

impl HostFunction for Function {
    fn id(&self) -> u64 {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn want(&self) -> &[u8] {
        &self.want
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        if let Some(functions) = self.functions.upgrade() {
            functions.write().by_id.remove(&self.id);
        }
    }
}

/// Whether the worker that called can be sent what the function returns.
fn check_result(
    body: &Body,
    name: &Arc<str>,
    (worker, hold): &(WorkerId, Arc<Hold>),
    functions: &Weak<Functions>,
) -> Result<()> {
    let length = body.bytes.len() as u64;
    if length > LARGEST_BODY {
        let error = ConvertError::of_result(format!("at most {LARGEST_BODY} bytes"), format!("{length} bytes"));
        return Err(error.in_result_of(name).into());
    }
    for handle in &body.refs {
        hold_of(handle, &hold.life)?;
        if handle.worker() != worker {
            let what = format!(
                "callback '{name}' was called by worker {worker}, and returns {} of worker {}",
                handle.id(),
                handle.worker()
            );
            return Err(Error::RefsOnDifferentWorkers { what: what.into() });
        }
    }
    match functions.upgrade() {
        Some(functions) => functions.check(&body.callbacks).map_err(|error| error.in_result_of(name).into()),
        None => Err(Error::ShuttingDown { ran: Ran::Yes }),
    }
}

/// The future of a function, which is foreign code: its panic, also while it is dropped, must not be that
/// of whoever runs it.
struct Contained {
    future: Option<Scoped<BoxFuture<'static, Result<Body>>>>,
    name: Arc<str>,
}

impl Contained {
    fn let_go(&mut self) {
        let future = self.future.take();
        let _panic = contain(|| drop(future));
    }
}

impl Future for Contained {
    type Output = Result<Body>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Result<Body>> {
        let this = &mut *self;
        let future = this.future.as_mut().expect("it is not polled after its end");
        let outcome = match contain(|| Pin::new(future).poll(task)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(outcome)) => outcome,
            Err(message) => Err(Error::internal(format!("callback '{}' panicked: {message}", this.name), Ran::Maybe)),
        };
        this.let_go();
        Poll::Ready(outcome)
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// # Errors
/// What it panicked with.
fn contain<T>(foreign: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(foreign)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        text.unwrap_or("with no text").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::bare;
    use crate::actors::core::Life;
    use crate::actors::scope::{self, Tree};
    use crate::id::{CallId, RefId};
    use crate::pickle::Fragment;
    use crate::value::{PyRef, Value};
    use futures::FutureExt;
    use serde::Deserialize;
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    const ROOT: CallId = CallId(7);

    /// A bridge, and a session of it whose call in worker `p/0#1` makes the callbacks.
    struct Caller {
        life: Arc<Life>,
        hold: Arc<Hold>,
    }

    impl Caller {
        fn new() -> Self {
            let life = bare::bridge();
            Self { hold: bare::session(&life, "s"), life }
        }

        fn functions(&self) -> &Functions {
            &self.life.core.functions
        }

        fn scope(&self) -> Scope {
            Scope {
                tree: Tree { root: ROOT, hold: Arc::clone(&self.hold), deadline: None, below: None },
                rebuilds: None,
            }
        }

        fn find(&self, name: &str) -> Option<Arc<Function>> {
            self.functions().named(name).and_then(|(id, _)| self.functions().find(id))
        }

        /// Calls it with what pickles like that.
        fn call<A: Serialize>(&self, function: &Function, arguments: &A) -> Result<Value> {
            let body = pickle::to_fragment(arguments).expect("it can be pickled").into_body();
            self.call_with(function, bare::reply(&self.hold, body.bytes, Vec::new()))
        }

        fn call_with(&self, function: &Function, arguments: Reply) -> Result<Value> {
            let outcome = function.run(arguments, self.scope()).now_or_never().expect("it waits for nothing");
            outcome.map(|body| pickle::decode_plain(&body.bytes).expect("it is plain data"))
        }

        /// As if that worker had returned an object.
        fn object(&self, id: u64, slot: u32) -> PyRef {
            let owner = Arc::clone(&self.hold);
            let left = None;
            let (session, worker) = (self.hold.key().clone(), bare::worker(slot));
            assert!(self.hold.admit_refs(1), "the session may hold it");
            let source = crate::value::RefSource { session, worker, owner, left };
            source.make(RefId(id), "m", "T").expect("any id will do")
        }
    }

    /// Says that it was dropped.
    struct Captured(Arc<AtomicU64>);

    impl Drop for Captured {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn captured() -> (Captured, Arc<AtomicU64>) {
        let drops = Arc::new(AtomicU64::new(0));
        (Captured(Arc::clone(&drops)), drops)
    }

    #[derive(Debug, Deserialize)]
    struct User {
        name: String,
        age: u8,
    }

    fn whole(call: &Value) -> Result<i64> {
        call.as_i64().ok_or_else(|| Error::raise("TypeError", "an int is needed"))
    }

    #[actix::test]
    async fn closures_of_every_shape_are_taken_and_called_with_what_they_ask_for() {
        let caller = Caller::new();
        let functions = caller.functions();
        let register = || -> Result<()> {
            functions.register("one", |id: u64| async move { Ok(id * 2) })?;
            functions.register("two", |(a, b): (i64, i64)| async move { Ok(a + b) })?;
            functions.register("none", |(): ()| async move { Ok("none") })?;
            functions.register("keywords", |user: User| async move { Ok(format!("{} {}", user.name, user.age)) })?;
            functions.register("mixed", |(a, rest): (i64, BTreeMap<String, i64>)| async move { Ok(a + rest["b"]) })?;
            functions.register("any", |value: Value| async move { Ok(value) })?;
            functions.register("object", |object: PyRef| async move { Ok(object.type_name().to_owned()) })?;
            functions.register("nothing", |_: Value| async { Ok(()) })?;
            functions.register(String::from("fails"), |value: Value| async move {
                let number = whole(&value)?;
                Ok(number)
            })?;
            async fn double(x: i64) -> Result<i64> {
                Ok(2 * x)
            }
            functions.register("fn", double)
        };
        register().expect("no name is taken");

        let call = |name: &str, arguments: Value| {
            caller.call(&caller.find(name).expect("it is registered"), &arguments).map_err(|error| error.to_string())
        };
        let keywords = |entries: &[(&str, Value)]| Value::Dict(entries.iter().cloned().collect());
        let tuple = Value::Tuple;
        assert_eq!(call("one", Value::from(21)), Ok(Value::from(42)));
        assert_eq!(call("fn", Value::from(21)), Ok(Value::from(42)));
        assert_eq!(call("two", tuple(vec![1.into(), 2.into()])), Ok(Value::from(3)));
        assert_eq!(call("none", tuple(vec![])), Ok(Value::from("none")));
        let ada = keywords(&[("name", "Ada".into()), ("age", 36.into())]);
        assert_eq!(call("keywords", ada.clone()), Ok(Value::from("Ada 36")));
        assert_eq!(call("mixed", tuple(vec![1.into(), keywords(&[("b", 2.into())])])), Ok(Value::from(3)));
        assert_eq!(call("any", ada.clone()), Ok(ada));
        assert_eq!(call("any", tuple(vec![])), Ok(tuple(vec![])));
        assert_eq!(call("nothing", Value::None), Ok(Value::None));
        assert_eq!(call("fails", "x".into()), Err("TypeError: an int is needed".into()));
    }

    #[actix::test]
    async fn an_object_that_python_passes_is_a_ref_of_the_calling_session_and_is_freed_by_its_drop() {
        let caller = Caller::new();
        let function = caller.functions().make("object".into(), |object: PyRef| async move { Ok(object) });
        // `(id, module, type_name)` of an extension code, as `codec.py` writes it.
        let body = b"\x80\x05\x82\xf1K\x05\x8c\x01m\x8c\x01T\x87R.".to_vec();
        let outcome = function.run(bare::reply(&caller.hold, body, vec![RefId(5)]), caller.scope());
        let body = outcome.now_or_never().expect("it waits for nothing").expect("it came from there");
        let [object] = &*body.refs else { panic!("one object is returned") };
        assert_eq!((object.id(), object.session(), object.worker()), (RefId(5), caller.hold.id(), &bare::worker(0)));
        assert_eq!(caller.hold.state.refs(), 1);
        drop(body);
        assert_eq!(caller.hold.state.refs(), 0);
    }

    #[actix::test]
    async fn what_does_not_fit_says_of_which_function_and_whether_it_is_argument_or_result() {
        let caller = Caller::new();
        let arguments = caller.functions().make("sum".into(), |(a, b): (u8, u8)| async move { Ok(a + b) });
        let error = caller.call(&arguments, &(1, "x")).expect_err("a str is no u8");
        assert_eq!(error.to_string(), "argument of callback 'sum' at [1]: expected u8, found str 'x'");
        assert_eq!((error.code(), error.ran()), ("convert", Ran::No));
        let error = caller.call(&arguments, &1).expect_err("one argument is missing");
        assert_eq!(error.to_string(), "argument of callback 'sum': expected a tuple of size 2, found int 1");
        let unhashable = || async { Ok(BTreeMap::from([(vec![1], 2)])) };
        let result = caller.functions().make("map".into(), move |(): ()| unhashable());
        let error = caller.call(&result, &()).expect_err("a list is no key");
        assert_eq!(
            error.to_string(),
            "result of callback 'map': expected a key, or item of a set, that Python can hash, found a list"
        );
        assert_eq!((error.code(), error.ran()), ("convert", Ran::Yes));
    }

    #[actix::test]
    async fn a_panic_is_an_error_wherever_it_happens_and_the_next_call_works() {
        let caller = Caller::new();
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("in a drop");
            }
        }
        let function = caller.functions().make("bad".into(), |what: String| {
            assert_ne!(what, "closure", "in the closure");
            async move {
                match what.as_str() {
                    "future" => panic!("in the {what}"),
                    "odd" => std::panic::panic_any(7),
                    "endless" => {
                        let _bomb = Bomb;
                        std::future::pending().await
                    }
                    _ => Ok(what),
                }
            }
        });
        let panicked = |what: &str| {
            let error = caller.call(&function, &what).expect_err("it panics");
            assert_eq!((error.code(), error.ran()), ("internal", Ran::Maybe));
            error.to_string()
        };
        assert!(panicked("closure").starts_with("internal error: callback 'bad' panicked: assertion"));
        assert_eq!(panicked("future"), "internal error: callback 'bad' panicked: in the future");
        assert_eq!(panicked("odd"), "internal error: callback 'bad' panicked: with no text");
        let body = pickle::to_fragment("endless").expect("it is text").into_body();
        let mut endless = function.run(bare::reply(&caller.hold, body.bytes, Vec::new()), caller.scope());
        assert!((&mut endless).now_or_never().is_none());
        drop(endless);
        assert_eq!(caller.call(&function, &"fine").expect("it is"), Value::from("fine"));
    }

    #[actix::test]
    async fn the_closure_and_its_future_are_inside_the_tree() {
        let caller = Caller::new();
        let (life, seen) = (Arc::downgrade(&caller.life), Arc::new(Mutex::new(Vec::new())));
        let log = Arc::clone(&seen);
        let function = caller.functions().make("f".into(), move |(): ()| {
            let (life, log) = (life.upgrade().expect("the bridge runs"), Arc::clone(&log));
            let root = move || scope::current(&life).map(|scope| scope.tree.root);
            log.lock().expect("nobody panics").push(root());
            async move {
                log.lock().expect("nobody panics").push(root());
                Ok(())
            }
        });
        caller.call(&function, &()).expect("it does nothing");
        assert_eq!(*seen.lock().expect("nobody panics"), [Some(ROOT); 2]);
    }

    #[actix::test]
    async fn refs_in_a_result_are_of_the_worker_that_called_and_live() {
        let caller = Caller::new();
        let returned = Arc::new(Mutex::new(None));
        let returns = Arc::clone(&returned);
        let function = caller.functions().make("f".into(), move |(): ()| {
            let result = vec![returns.lock().expect("nobody panics").take()];
            async move { Ok(result) }
        });
        let call = |object: PyRef| {
            *returned.lock().expect("nobody panics") = Some(object);
            let arguments = bare::reply(&caller.hold, Fragment::none().into_body().bytes, Vec::new());
            function.run(arguments, caller.scope()).now_or_never().expect("it waits for nothing")
        };
        assert_eq!(call(caller.object(1, 0)).map(|body| body.refs.len()).ok(), Some(1));
        let error = call(caller.object(2, 1)).expect_err("it is elsewhere");
        assert_eq!(error.code(), "refs_on_different_workers");
        assert!(error.to_string().contains("p/0#1") && error.to_string().contains("p/1#1"), "{error}");

        let released = caller.object(3, 0);
        released.let_go();
        assert_eq!(call(released).expect_err("it is gone").code(), "ref_not_found");
        let foreign = Caller::new();
        let error = call(foreign.object(4, 0)).expect_err("no worker of this bridge has it");
        assert_eq!(error.code(), "refs_on_different_workers");

        // The objects of a session that has ended live while a call of it runs; those of another do not.
        let other = Caller { life: Arc::clone(&caller.life), hold: bare::session(&caller.life, "t") };
        caller.hold.state.set_ended(crate::event::EndReason::Released);
        other.hold.state.set_ended(crate::event::EndReason::Released);
        assert!(call(caller.object(5, 0)).is_ok());
        assert_eq!(call(other.object(6, 0)).expect_err("its session has ended").code(), "ref_not_found");
    }

    #[actix::test]
    async fn a_callback_is_sent_with_its_id_want_and_name_and_lives_as_long_as_what_holds_it() {
        let caller = Caller::new();
        let (guard, drops) = captured();
        let callback = caller.functions().callback(move |x: i64| {
            let _kept = &guard;
            async move { Ok(2 * x) }
        });
        let id = callback.function().id();
        let body = pickle::to_fragment(&BTreeMap::from([("f", &callback)])).expect("it can be sent").into_body();
        assert!(callback.function().name().ends_with("{{closure}}"), "{callback:?}");
        assert_eq!(callback.function().want(), &*pickle::want_of::<i64>());
        let (want, name) = (crate::Bytes::from(callback.function().want().to_vec()), callback.function().name());
        let arguments = pickle::to_fragment(&(id, want, name)).expect("it is plain").into_body().bytes;
        // Between what begins and ends a body: an extension code, the tuple of its arguments, `REDUCE`.
        let reduced = [b"\x82\xfd", &arguments[2..arguments.len() - 1], b"R"].concat();
        assert!(body.bytes.windows(reduced.len()).any(|found| found == reduced), "{:?}", body.bytes);
        drop(callback);
        let function = caller.functions().find(id).expect("a body holds it");
        assert_eq!(caller.call(&function, &21).expect("it is an int"), Value::from(42));
        drop(body);
        assert!(caller.functions().find(id).is_some(), "a call of it runs");
        drop(function);
        assert_eq!(drops.load(Ordering::SeqCst), 1);
        assert!(caller.functions().find(id).is_none());
    }

    #[actix::test]
    async fn a_callback_is_for_its_own_bridge_and_ids_are_never_shared() {
        let (caller, other) = (Caller::new(), Caller::new());
        let [own, foreign] = [&caller, &other].map(|of| of.functions().callback(|(): ()| async { Ok(()) }));
        assert_ne!(own.function().id(), foreign.function().id());
        assert!(other.functions().find(own.function().id()).is_none());
        assert!(caller.functions().check(std::slice::from_ref(&own)).is_ok());
        let error = caller.functions().check(&[own, foreign.clone()]).expect_err("one is of another");
        assert_eq!(
            error.to_string(),
            format!("argument: expected a callback of this bridge, found {foreign:?} of another")
        );

        let function = caller.functions().make("f".into(), move |(): ()| {
            let foreign = foreign.clone();
            async move { Ok(foreign) }
        });
        let error = caller.call(&function, &()).expect_err("no worker of this bridge could call it");
        assert!(error.to_string().starts_with("result of callback 'f': expected a callback of this bridge"), "{error}");
    }

    #[actix::test]
    async fn a_name_is_taken_once_and_free_again_when_it_is_unregistered() {
        let caller = Caller::new();
        let functions = caller.functions();
        let register = |name: &str, factor| functions.register(name, move |x: i64| async move { Ok(factor * x) });
        register("f", 2).expect("the name is free");
        let error = register("f", 3).expect_err("it is taken");
        assert_eq!(error.to_string(), "a function 'f' is registered already: unregister it first");
        assert_eq!((error.code(), register("", 2).expect_err("it is none").code()), ("config", "config"));

        let before = caller.find("f").expect("it is registered");
        assert_eq!(functions.named("f").map(|(_, want)| want), Some(pickle::want_of::<i64>()));
        functions.unregister("f");
        functions.unregister("f");
        assert!(functions.named("f").is_none() && functions.find(before.id).is_none());
        assert_eq!(caller.call(&before, &21).expect("a call under way finishes"), Value::from(42));
        register("f", 3).expect("the name is free again");
        let after = caller.find("f").expect("it is registered");
        assert_ne!(before.id, after.id);
        assert_eq!(caller.call(&after, &14).expect("it is another function"), Value::from(42));
    }

    #[actix::test]
    async fn what_a_function_has_captured_goes_without_the_lock_and_when_the_bridge_stops() {
        let caller = Caller::new();
        let functions = Arc::clone(&caller.life.core.functions);
        struct Asks {
            functions: Arc<Functions>,
            _captured: Captured,
        }
        impl Drop for Asks {
            fn drop(&mut self) {
                assert!(self.functions.named("f").is_none(), "the lock is free");
                panic!("on purpose");
            }
        }
        let (guard, drops) = captured();
        let asks = Asks { functions: Arc::clone(&functions), _captured: guard };
        let register = |asks: Asks| {
            functions.register("f", move |(): ()| {
                let _kept = &asks;
                async { Ok(()) }
            })
        };
        register(asks).expect("the name is free");
        // A captured handle does not keep it from being let go.
        let handle = Arc::clone(&caller.life);
        functions
            .register("g", move |(): ()| {
                let _kept = &handle;
                async { Ok(()) }
            })
            .expect("the name is free");
        let kept = functions.callback(|(): ()| async { Ok(()) });
        let (life, core) = (Arc::downgrade(&caller.life), Arc::clone(&caller.life.core));
        drop(caller);
        Arc::clone(&core).stop();
        core.until_stopped().await;
        assert_eq!(drops.load(Ordering::SeqCst), 1);
        assert!(life.upgrade().is_none(), "the handle went with the function");
        assert!(functions.find(kept.function().id()).is_none());
        let error = functions.register("f", |(): ()| async { Ok(()) }).expect_err("the bridge has stopped");
        assert_eq!((error.code(), error.ran()), ("shutting_down", Ran::No));
        assert!(functions.find(functions.callback(|(): ()| async { Ok(()) }).function().id()).is_none());
    }
}
