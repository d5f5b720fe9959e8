//! The vocabulary of the wire: ids and names, codes, framing, dialects. Pure: no clock, no I/O, no sockets.
//!
//! - `code` is the one table of close and error codes.
//! - `command` decodes the JSON dialect, `envelope` the `SocketMessage` dialect of producers.
//! - `reply` encodes what one client is told; `push` encodes publications, once for all who share a wire form; `run`
//!   encodes what engines are told.
//! - `frame` wraps a text for its transport: WebSocket frames and Server-Sent Events.
//! - `payload` checks what publishers send; `json` and `time` are what all of them read and write with.

pub mod code;
pub mod command;
pub mod envelope;
mod fields;
pub mod frame;
pub mod json;
pub mod model;
pub mod payload;
pub mod push;
pub mod reply;
pub mod run;
pub mod time;
pub mod websocket;

#[cfg(test)]
mod doc_tests;
