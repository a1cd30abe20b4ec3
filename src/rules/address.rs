//! Where a call goes before any pool is asked: the first rows of the routing table.
//!
//! It reads what the call names and what its refs say of themselves; it does not know whether a
//! worker lives, which is the pool's to say.

use crate::id::{PoolName, RefId, SessionId, SessionKey, WorkerId};

/// What a ref that a call carries says of itself.
#[derive(Clone, Debug)]
pub(crate) struct RefAddress {
    pub(crate) id: RefId,
    pub(crate) session: SessionKey,
    pub(crate) worker: WorkerId,
}

/// Where a call goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) pool: PoolName,
    /// The session of its refs, if it carries any: that incarnation and no other.
    pub(crate) session: Option<SessionKey>,
    /// The worker that holds its refs, if it carries any.
    pub(crate) pinned_to: Option<WorkerId>,
}

/// Why a call goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Misaddressed {
    UnknownPool {
        pool: PoolName,
        known: Vec<PoolName>,
    },
    SessionMismatch {
        session: SessionId,
        other: SessionId,
    },
    /// Refs of two workers.
    RefsOnTwoWorkers {
        one: (RefId, WorkerId),
        other: (RefId, WorkerId),
    },
    /// A pool is given that is not the refs'.
    RefsOfAnotherPool {
        id: RefId,
        worker: WorkerId,
        pool: PoolName,
    },
    /// Refs of two incarnations of one session: those of the older one were freed with it.
    RefOfEndedSession {
        id: RefId,
        session: SessionId,
    },
}

/// Decides from the session and the pool that the call names, the refs that it carries and the
/// pools that are configured, the default one first.
pub(crate) fn address(
    session: Option<&SessionId>,
    pool: Option<&PoolName>,
    refs: &[RefAddress],
    configured: &[PoolName],
    default: &PoolName,
) -> Result<Address, Misaddressed> {
    if let Some(pool) = pool
        && !configured.contains(pool)
    {
        return Err(Misaddressed::UnknownPool { pool: pool.clone(), known: configured.to_vec() });
    }
    let Some(first) = refs.first() else {
        let pool = pool.unwrap_or(default).clone();
        return Ok(Address { pool, session: None, pinned_to: None });
    };
    let of = session.unwrap_or_else(|| first.session.id());
    if let Some(other) = refs.iter().find(|other| other.session.id() != of) {
        return Err(Misaddressed::SessionMismatch { session: of.clone(), other: other.session.id().clone() });
    }
    if let Some(newest) = refs.iter().map(|held| &held.session).max()
        && let Some(old) = refs.iter().find(|held| held.session != *newest)
    {
        return Err(Misaddressed::RefOfEndedSession { id: old.id, session: of.clone() });
    }
    if let Some(other) = refs.iter().find(|other| other.worker != first.worker) {
        return Err(Misaddressed::RefsOnTwoWorkers {
            one: (first.id, first.worker.clone()),
            other: (other.id, other.worker.clone()),
        });
    }
    if let Some(pool) = pool
        && pool != first.worker.pool()
    {
        return Err(Misaddressed::RefsOfAnotherPool { id: first.id, worker: first.worker.clone(), pool: pool.clone() });
    }
    Ok(Address {
        pool: first.worker.pool().clone(),
        session: Some(first.session.clone()),
        pinned_to: Some(first.worker.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_is_not_configured_is_unknown_and_the_names_are_listed() {
        let wrong = go(None, Some("p3"), &[]).expect_err("p3 is not configured");
        assert_eq!(wrong, Misaddressed::UnknownPool { pool: "p3".into(), known: vec!["p1".into(), "p2".into()] });
    }

    #[test]
    fn an_unknown_pool_comes_before_all_that_is_wrong_with_the_refs() {
        let refs = [held(1, "a", 1, "p1/0#1"), held(2, "b", 2, "p2/0#1")];
        assert!(matches!(go(Some("c"), Some("p3"), &refs), Err(Misaddressed::UnknownPool { .. })));
    }

    #[test]
    fn a_named_session_must_be_that_of_the_refs() {
        let wrong = go(Some("b"), None, &[held(1, "a", 1, "p1/0#1")]).expect_err("the ref is of a");
        assert_eq!(wrong, Misaddressed::SessionMismatch { session: "b".into(), other: "a".into() });
    }

    #[test]
    fn refs_of_two_sessions_do_not_go_together() {
        let refs = [held(1, "a", 1, "p1/0#1"), held(2, "b", 2, "p1/0#1")];
        assert!(matches!(go(None, None, &refs), Err(Misaddressed::SessionMismatch { .. })));
    }

    #[test]
    fn a_ref_of_an_ended_incarnation_does_not_go_with_one_of_the_next() {
        let refs = [held(1, "a", 1, "p1/0#1"), held(2, "a", 2, "p1/0#1")];
        let wrong = go(Some("a"), None, &refs).expect_err("the first is of an ended session");
        assert_eq!(wrong, Misaddressed::RefOfEndedSession { id: RefId(1), session: "a".into() });
    }

    #[test]
    fn refs_of_two_workers_do_not_go_together_nor_do_those_of_two_generations() {
        for other in ["p1/1#1", "p1/0#2", "p2/0#1"] {
            let refs = [held(1, "a", 1, "p1/0#1"), held(2, "a", 1, other)];
            assert!(matches!(go(None, None, &refs), Err(Misaddressed::RefsOnTwoWorkers { .. })), "{other}");
        }
    }

    #[test]
    fn a_pool_that_is_given_must_be_that_of_the_refs() {
        let wrong = go(None, Some("p2"), &[held(1, "a", 1, "p1/0#1")]).expect_err("the ref is in p1");
        assert!(matches!(wrong, Misaddressed::RefsOfAnotherPool { .. }));
    }

    #[test]
    fn a_call_with_refs_goes_to_their_pool_worker_and_session() {
        let refs = [held(1, "a", 7, "p2/1#3"), held(2, "a", 7, "p2/1#3")];
        for (session, pool) in [(None, None), (Some("a"), None), (None, Some("p2")), (Some("a"), Some("p2"))] {
            let address = go(session, pool, &refs).expect("all agree");
            assert_eq!(address.pool, "p2");
            assert_eq!(address.session, Some(SessionKey::new("a".into(), 7)));
            assert_eq!(address.pinned_to, Some("p2/1#3".parse().expect("a worker id")));
        }
    }

    #[test]
    fn a_call_without_refs_goes_to_the_pool_that_it_names_else_to_the_default() {
        assert_eq!(go(None, None, &[]).expect("nothing is wrong").pool, "p1");
        let address = go(Some("a"), Some("p2"), &[]).expect("nothing is wrong");
        assert_eq!((address.pool.as_str(), address.session, address.pinned_to), ("p2", None, None));
    }

    fn go(session: Option<&str>, pool: Option<&str>, refs: &[RefAddress]) -> Result<Address, Misaddressed> {
        let configured: Vec<PoolName> = vec!["p1".into(), "p2".into()];
        let session = session.map(SessionId::from);
        let pool = pool.map(PoolName::from);
        address(session.as_ref(), pool.as_ref(), refs, &configured, &configured[0])
    }

    fn held(id: u64, session: &str, incarnation: u64, worker: &str) -> RefAddress {
        RefAddress {
            id: RefId(id),
            session: SessionKey::new(session.into(), incarnation),
            worker: worker.parse().expect("a worker id"),
        }
    }
}
