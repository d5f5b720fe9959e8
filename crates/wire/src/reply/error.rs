//! Errors in their one form: in the reply to a request, and before a Close. Never contains a token.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::value::RawValue;

use crate::{
    code::{ErrorCode, Reconnect, lookup},
    command::Json,
    time::Timestamp,
};

/// The server is about to close the connection; the error object contains the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosingNotice {
    /// Why it closes.
    #[serde(flatten)]
    pub object: ErrorObject,
    /// Whether to reconnect.
    pub reconnect: Advice,
    /// Minimum delay before reconnecting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
}

/// Whether to reconnect after a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Advice {
    /// Reconnect with the same token.
    Yes,
    /// With a new token; the same one is refused again.
    NewToken,
    /// The same attempt would fail again.
    No,
}

impl Advice {
    /// The rule in the table of codes for this number.
    #[must_use]
    pub fn of(number: u16) -> Self {
        match lookup(number).map(|code| code.reconnect) {
            Some(Reconnect::WithNewToken) => Self::NewToken,
            Some(Reconnect::No | Reconnect::Never) => Self::No,
            Some(Reconnect::Yes) => Self::Yes,
            None if number < 4500 => Self::Yes,
            None => Self::No,
        }
    }
}

impl ClosingNotice {
    /// Announces a close with this number. An empty message is replaced by the meaning of the code.
    #[must_use]
    pub fn new(number: u16, message: impl Into<Cow<'static, str>>, after_ms: Option<u64>) -> Self {
        let (code, message) = (lookup(number), message.into());
        let meaning = || Cow::Borrowed(code.map_or("", |code| code.meaning));
        let object = ErrorObject {
            code: number,
            error: code.map_or("unknown", |code| code.name).into(),
            message: if message.is_empty() { meaning() } else { message },
            details: Details::default(),
        };
        Self { object, reconnect: Advice::of(number), after_ms }
    }
}

/// The reply to a request that failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailureReply {
    /// Why the command failed.
    #[serde(flatten)]
    pub object: ErrorObject,
    /// The command's `id`, if it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    /// When it was written.
    pub timestamp: Timestamp,
}

/// Serde's flattening buffers values, which raw JSON does not support: the two parts are parsed separately.
impl<'de> Deserialize<'de> for FailureReply {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct RemainingFields {
            id: Option<Json>,
            timestamp: Timestamp,
        }
        let text = <&RawValue>::deserialize(deserializer)?.get();
        let object = serde_json::from_str(text).map_err(D::Error::custom)?;
        let RemainingFields { id, timestamp } = serde_json::from_str(text).map_err(D::Error::custom)?;
        Ok(Self { object, id, timestamp })
    }
}

/// The one form of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorObject {
    /// The number in the table of codes.
    pub code: u16,
    /// The name of the code.
    pub error: Cow<'static, str>,
    /// What is wrong and what is expected, for people.
    pub message: Cow<'static, str>,
    /// Machine-readable details.
    #[serde(default, skip_serializing_if = "Details::is_empty")]
    pub details: Details,
}

/// Machine-readable details of an error. Only applicable ones are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// The same request may succeed after this time; if absent, it will not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// For a publication: whether it was `refused`, certainly not stored, or its outcome is `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Cow<'static, str>>,
    /// Which field was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl Details {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl ErrorObject {
    /// An error without details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        let (code, error) = (code.number(), code.name().into());
        Self { code, error, message: message.into(), details: Details::default() }
    }
}

impl FailureReply {
    /// An error without details, for a command with this `id`.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>, id: Option<Json>, now_ms: u64) -> Self {
        Self { object: ErrorObject::new(code, message), id, timestamp: Timestamp::from_ms(now_ms) }
    }
}
