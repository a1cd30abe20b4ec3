//! What a user holds. Nothing is decided here.

mod args;
mod bridge;
mod builder;
mod call;
mod guard;
mod pyref;
mod session;
mod stream;
#[cfg(test)]
mod tests;

pub use args::{Args, IntoArgs};
pub use bridge::{SnakeBridge, WeakBridge};
pub use builder::Builder;
pub use call::{Call, CallFuture};
pub use guard::Guard;
pub use session::Session;
pub use stream::PyStream;
