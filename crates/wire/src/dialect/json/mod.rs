//! The JSON dialect of clients: one object per message, in both directions.

mod decode;
mod encode;
mod read;

pub use read::{ServerMessage, frame, read};

pub(crate) use decode::decode;
pub(crate) use encode::{encode, gap};
