//! The vocabulary of the wire: ids and names, codes, framing, dialects. Pure: no clock, no I/O, no sockets.
//!
//! - `code` is the one table of close and error codes.
//! - `command` decodes the JSON dialect, `envelope` the `SocketMessage` dialect of producers.
//! - `reply` encodes what one client is told; `push` encodes publications, once for all who share a wire form; `run`
//!   encodes what engines are told.
//! - `transport` is what carries a text: `websocket` frames, in both directions, or an `event_stream`.
//! - `payload` checks what publishers send; `json` and `time` are what all of them read and write with.

pub mod code;
pub mod command;
pub mod envelope;
pub mod event_stream;
mod fields;
pub mod frame;
pub mod json;
pub mod model;
pub mod payload;
pub mod push;
pub mod reply;
pub mod run;
pub mod time;
pub mod transport;
pub mod websocket;

#[cfg(test)]
mod doc_tests;
