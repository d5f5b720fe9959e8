//! Wire forms of the endpoints: decode what clients say, encode what they hear. Pure: no clock, no I/O, no sockets.
//!
//! - `code` is the one table of close and error codes.
//! - `command` decodes the JSON dialect, `envelope` the `SocketMessage` dialect of producers.
//! - `reply` encodes what one client is told; `push` encodes publications, once for all who share a wire form.
//! - `payload` checks what publishers send.

pub mod code;
pub mod command;
pub mod envelope;
pub mod payload;
pub mod push;
pub mod reply;
