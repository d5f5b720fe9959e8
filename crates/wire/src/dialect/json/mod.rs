//! The JSON dialect of clients (the wire contract, sections 5 and 6): one object per message, in both directions.

mod decode;
mod encode;
mod read;

pub use read::{ServerMessage, read};

pub(crate) use decode::decode;
pub(crate) use encode::{encode, gap};
