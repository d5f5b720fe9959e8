//! Refusals of messages.

use tickgate_wire::{
    code::{CloseCode, ErrorCode},
    command::Json,
};

/// A refusal of one message, sent to the client. The connection stays open unless `close` is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageFault {
    /// The client's id of the message.
    pub id: Option<Json>,
    /// The error code on the wire.
    pub code: ErrorCode,
    /// One sentence that states what is required.
    pub message: String,
    /// The invalid field.
    pub field: Option<String>,
    /// When the same message may succeed, in milliseconds; `None`: never.
    pub retry_after_ms: Option<u64>,
    /// For a failed publication that may be retried: `refused` (certainly not stored) or `unknown`.
    pub outcome: Option<&'static str>,
    /// Set if the connection is closed after the error.
    pub close: Option<CloseCode>,
}

impl MessageFault {
    /// A fault that keeps the connection open.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { id: None, code, message: message.into(), field: None, retry_after_ms: None, outcome: None, close: None }
    }
}
