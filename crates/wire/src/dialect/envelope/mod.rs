//! The envelope dialect of producers (the wire contract, section 9): `SocketMessage` in both directions. Never publishes:
//! it says what was sent.

mod decode;
mod encode;

pub(crate) use decode::decode;
pub(crate) use encode::{encode, gap};
