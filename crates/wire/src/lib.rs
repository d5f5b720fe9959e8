//! The vocabulary of the wire: ids and names, codes, framing, dialects. Pure: no clock, no I/O, no sockets.
//!
//! - `code` is the one table of close and error codes.
//! - `dialect` makes requests of a client's messages and text of what it is told, one folder per dialect; `transport`
//!   carries the text, as `websocket` frames or as an `event_stream`; `protocol` is the one over the other.
//! - `command` is what clients ask, `reply` what one client is told, `push` what all subscribers of a topic are told,
//!   `run` what engines are told.
//! - `payload` checks what publishers send; `json` and `time` are what all of them read and write with; `model` has the
//!   ids and names.

pub mod code;
pub mod command;
pub mod dialect;
pub mod event_stream;
pub mod json;
pub mod model;
pub mod payload;
pub mod protocol;
pub mod push;
pub mod reply;
pub mod run;
pub mod time;
pub mod transport;
pub mod websocket;

#[cfg(test)]
mod doc_tests;
