//! The clock of the actors: the machine's. In unit tests it is the runtime's, which a test may stop.

/// This moment.
#[cfg(not(test))]
#[inline]
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Whether time stands still unless somebody waits for it: then to look again until a moment has come is for ever.
#[cfg(not(test))]
pub(crate) const fn is_stopped() -> bool {
    false
}

#[cfg(test)]
pub(crate) use stopped::{epoch, is_stopped, now, stop};

#[cfg(test)]
mod stopped {
    use std::cell::Cell;
    use std::time::Instant;

    thread_local! {
        static EPOCH: Cell<Option<Instant>> = const { Cell::new(None) };
    }

    pub(crate) fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    /// The runtime of this thread has a clock that stands still, until the guard is dropped.
    pub(crate) fn stop() -> Stopped {
        EPOCH.set(Some(now()));
        Stopped(())
    }

    pub(crate) fn is_stopped() -> bool {
        epoch().is_some()
    }

    /// When it was stopped: what the ticks of actors are counted from, so that a run repeats itself.
    pub(crate) fn epoch() -> Option<Instant> {
        EPOCH.get()
    }

    #[must_use]
    pub(crate) struct Stopped(());

    impl Drop for Stopped {
        fn drop(&mut self) {
            EPOCH.set(None);
        }
    }
}
