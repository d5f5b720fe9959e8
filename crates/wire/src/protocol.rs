//! A dialect over a transport: together they determine how messages are encoded.

use bytes::BytesMut;

use crate::{
    dialect::{Dialect, MessageStamp},
    push::{GapPush, PushMeta},
    reply::Reply,
    transport::Transport,
};

/// Typical length of a reply in bytes. It decides the size of the frame head that is reserved.
const REPLY_BYTES: usize = 192;

/// A dialect over a transport; JSON over WebSockets unless an endpoint configures another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Protocol {
    /// How messages are carried.
    pub transport: Transport,
    /// How messages are written.
    pub dialect: Dialect,
}

impl Protocol {
    /// Appends a notice; nothing if the dialect has no such message.
    pub fn notice(self, out: &mut BytesMut, notice: &Reply, stamp: impl FnOnce() -> MessageStamp) {
        self.reply(out, notice, &[], stamp);
    }

    /// Appends a reply; nothing if the dialect has no such message. `ignored` names the fields of the command that had
    /// no meaning.
    pub fn reply(self, out: &mut BytesMut, reply: &Reply, ignored: &[String], stamp: impl FnOnce() -> MessageStamp) {
        self.transport.message(out, REPLY_BYTES, |out| self.dialect.encode(out, reply, ignored, stamp));
    }

    /// Whether clients are notified when the server ends a subscription, and can request it again.
    #[must_use]
    pub const fn tells_ends(self) -> bool {
        matches!(self.transport, Transport::WebSocket) && self.dialect.tells_ends()
    }

    /// Whether clients receive their session.
    #[must_use]
    pub const fn has_sessions(self) -> bool {
        matches!(self.transport, Transport::WebSocket) && self.dialect.has_sessions()
    }

    /// Appends a publication.
    pub fn push(self, out: &mut BytesMut, meta: &PushMeta<'_>, payload: &[u8]) {
        self.transport.message(out, meta.len_hint(payload), |out| self.dialect.push(out, meta, payload));
    }

    /// Appends a gap.
    pub fn gap(self, out: &mut BytesMut, gap: &GapPush<'_>, stamp: impl FnOnce() -> MessageStamp) {
        self.transport.message(out, REPLY_BYTES, |out| self.dialect.gap(out, gap, stamp));
    }
}
