//! The end of a session: every pool that had a ticket of it is to forget it.
//!
//! A call that still runs may make calls in a callback, and those are let through. So a pool may have
//! forgotten the session, or be about to say so, when it gets a ticket of it once more; it is then told
//! to forget it again, and the session is not over before the answer to that.

use crate::id::PoolName;
use std::collections::BTreeMap;

/// The pools that have been told to forget it and have not answered, and whether each was sent a ticket
/// since.
#[derive(Default)]
pub(crate) struct Forgetting(BTreeMap<PoolName, bool>);

impl Forgetting {
    pub(crate) fn of<'a>(pools: impl IntoIterator<Item = &'a PoolName>) -> Self {
        Self(pools.into_iter().map(|pool| (pool.clone(), false)).collect())
    }

    /// A ticket goes to that pool. `true`: it is to be told behind it.
    #[must_use]
    pub(crate) fn on_ticket(&mut self, pool: &PoolName) -> bool {
        match self.0.get_mut(pool) {
            Some(had_ticket) => {
                *had_ticket = true;
                false
            }
            None => {
                self.0.insert(pool.clone(), false);
                true
            }
        }
    }

    /// That pool has answered. `true`: perhaps before that ticket, and it is to be told again.
    #[must_use]
    pub(crate) fn on_answer(&mut self, pool: &PoolName) -> bool {
        match self.0.get_mut(pool) {
            Some(had_ticket @ true) => {
                *had_ticket = false;
                true
            }
            Some(false) | None => {
                self.0.remove(pool);
                false
            }
        }
    }

    /// What one answers may be to what was asked before, and so not be the last.
    pub(crate) fn ask_again(&mut self) {
        for had_ticket in self.0.values_mut() {
            *had_ticket = true;
        }
    }

    pub(crate) fn waits_for(&self, pool: &PoolName) -> bool {
        self.0.contains_key(pool)
    }

    /// How many are to answer.
    pub(crate) fn left(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_when_each_pool_has_answered() {
        let (p, q) = (PoolName::from("p"), PoolName::from("q"));
        let mut forgetting = Forgetting::of([&p, &q]);
        assert!(!forgetting.on_answer(&q));
        assert_eq!(forgetting.left(), 1);
        assert!(!forgetting.on_answer(&p));
        assert_eq!(forgetting.left(), 0);
    }

    #[test]
    fn an_answer_that_a_ticket_may_have_crossed_is_not_the_last() {
        let p = PoolName::from("p");
        let mut forgetting = Forgetting::of([&p]);
        assert!(!forgetting.on_ticket(&p), "it has been told, and is asked again when it answers");
        assert!(forgetting.on_answer(&p));
        assert_eq!(forgetting.left(), 1);
        assert!(!forgetting.on_answer(&p));
        assert_eq!(forgetting.left(), 0);
    }

    #[test]
    fn a_pool_that_has_answered_or_never_had_a_ticket_is_told_behind_a_late_one() {
        let (p, q) = (PoolName::from("p"), PoolName::from("q"));
        let mut forgetting = Forgetting::of([&p]);
        assert!(!forgetting.on_answer(&p));
        assert!(forgetting.on_ticket(&p) && forgetting.on_ticket(&q));
        assert_eq!(forgetting.left(), 2);
        assert!(!forgetting.on_answer(&p) && !forgetting.on_answer(&q));
        assert_eq!(forgetting.left(), 0);
    }
}
