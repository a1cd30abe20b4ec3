//! For tests only: a panic in whatever an actor of this thread is handling.
//!
//! Every message is written to the log, or would be at a lower level: that is where it strikes, once.

use std::cell::Cell;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// After so many messages.
    After(u32),
    /// At the next of that name.
    Next(&'static str),
}

thread_local! {
    static FAULT: Cell<Fault> = const { Cell::new(Fault::None) };
}

pub(crate) fn set(fault: Fault) {
    FAULT.set(fault);
}

/// Whether it has yet to strike.
pub(crate) fn is_set() -> bool {
    FAULT.get() != Fault::None
}

pub(super) fn point(message: &str) {
    let strikes = match FAULT.get() {
        Fault::None => false,
        Fault::After(0) => true,
        Fault::After(left) => {
            FAULT.set(Fault::After(left - 1));
            false
        }
        Fault::Next(name) => name == message,
    };
    // A second panic while the first unwinds would end the process.
    if strikes && !std::thread::panicking() {
        FAULT.set(Fault::None);
        panic!("on purpose, of {message}");
    }
}
