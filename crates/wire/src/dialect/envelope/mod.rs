//! The envelope dialect of producers (the wire contract, section 9): `SocketMessage` in both directions. Where the endpoint
//! offers channels, a producer can subscribe as well; what it subscribes comes as it was published. Never publishes: it
//! says what was sent.

mod decode;
mod encode;

pub(crate) use decode::decode;
pub(crate) use encode::{encode, gap};
