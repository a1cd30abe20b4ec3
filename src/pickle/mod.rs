//! serde to and from pickle 5; knows no actor.
