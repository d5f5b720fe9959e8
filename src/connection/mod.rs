//! To come.

pub mod address;
pub mod frame;
pub mod handshake;
mod query;
