//! The envelope dialect of producers (the wire contract, section 9): `SocketMessage` in both directions. On an endpoint
//! with channels, producers can also subscribe; publications arrive as they were published. Publishes nothing itself.

mod decode;
mod encode;

pub(crate) use decode::decode;
pub(crate) use encode::{encode, gap};
