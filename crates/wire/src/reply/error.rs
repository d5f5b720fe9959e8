//! What went wrong, in the one form that it has everywhere: in the reply to a request, and before a Close. Never a token.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::value::RawValue;

use crate::{
    code::{ErrorCode, Reconnect, lookup},
    command::Json,
    time::Timestamp,
};

/// The server is about to close the connection: the error object says why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    #[serde(flatten)]
    pub object: ErrorObject,
    pub reconnect: Advice,
    /// When to reconnect, at the earliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
}

/// Whether to reconnect after a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Advice {
    Yes,
    /// With a new token; the same one is refused again.
    NewToken,
    /// The same attempt would end the same way.
    No,
}

impl Advice {
    /// What the table of codes says about a close with this number.
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

impl Closing {
    /// Announces a close with this number. An empty message stands for the meaning of the code.
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
pub struct Failure {
    #[serde(flatten)]
    pub object: ErrorObject,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Json>,
    pub timestamp: Timestamp,
}

/// Serde's flattening buffers values, which raw JSON does not survive: the two parts are read one after the other.
impl<'de> Deserialize<'de> for Failure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Rest {
            id: Option<Json>,
            timestamp: Timestamp,
        }
        let text = <&RawValue>::deserialize(deserializer)?.get();
        let object = serde_json::from_str(text).map_err(D::Error::custom)?;
        let Rest { id, timestamp } = serde_json::from_str(text).map_err(D::Error::custom)?;
        Ok(Self { object, id, timestamp })
    }
}

/// What went wrong, in the one form that it has everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorObject {
    pub code: u16,
    /// The name of the code.
    pub error: Cow<'static, str>,
    /// What was wrong and what would be right, for people.
    pub message: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Details::is_empty")]
    pub details: Details,
}

/// Machine-readable details of an error. Only those that apply are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// The same request may succeed after this time; without it, it will not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Of a publication: whether it was `refused`, certainly not stored, or its outcome is `unknown`.
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
    /// Without details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        let (code, error) = (code.number(), code.name().into());
        Self { code, error, message: message.into(), details: Details::default() }
    }
}

impl Failure {
    /// A failure without details, of a command with this `id`.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>, id: Option<Json>, now_ms: u64) -> Self {
        Self { object: ErrorObject::new(code, message), id, timestamp: Timestamp::from_ms(now_ms) }
    }
}
