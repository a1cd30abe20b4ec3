//! Every decision, as pure state machines: no clock, no I/O, no random source, no bodies.
