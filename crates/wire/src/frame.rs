//! The names that `connection` still calls; each is a function of `websocket` or `event_stream`.

use bytes::BytesMut;

pub use crate::event_stream::comment as sse_comment;
use crate::{code::CloseCode, event_stream, websocket};
pub use websocket::{ping, pong};

pub fn frame_text(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    websocket::text(out, 126, write);
}

pub fn close(out: &mut BytesMut, code: CloseCode, reason: &str) {
    websocket::close(out, Some(code.number()), reason);
}

pub fn close_number(out: &mut BytesMut, number: u16, reason: &str) {
    websocket::close(out, Some(number), reason);
}

pub fn close_empty(out: &mut BytesMut) {
    websocket::close(out, None, "");
}

pub fn sse_event(out: &mut BytesMut, _id: Option<&str>, write: impl FnOnce(&mut BytesMut)) {
    event_stream::event(out, write);
}
