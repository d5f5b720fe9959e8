//! The vocabulary of the wire: ids and names, codes, framing, dialects. Pure: no clock, no I/O, no sockets.
//!
//! - `code` is the table of close and error codes.
//! - `dialect` decodes requests and encodes replies and pushes, one folder per dialect; `transport` carries the text,
//!   in `websocket` frames or as an `event_stream`; `protocol` combines the two.
//! - `command` is what clients send; `reply` goes to one client, `push` to all subscribers of a topic, `run` to
//!   engines.
//! - `payload` validates what publishers send; `json` and `time` are shared by all of these; `model` has ids and names.
#![warn(missing_docs)]

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
