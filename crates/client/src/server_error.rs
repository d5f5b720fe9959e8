//! The error object of the gateway's messages. Plain values.

use std::{fmt, time::Duration};

use serde::Deserialize;

/// Why the gateway refuses something.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServerError {
    /// Its number in the table of codes.
    pub code: u16,
    /// Its name, for programs.
    pub error: String,
    /// A sentence, for people.
    #[serde(default)]
    pub message: String,
    /// More, for programs.
    #[serde(default)]
    pub details: ErrorDetails,
}

/// Further details of an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ErrorDetails {
    /// The field of the request that is wrong.
    pub field: Option<String>,
    /// Milliseconds after which the same request may succeed; `None` if it will not.
    pub retry_after_ms: Option<u64>,
    /// For a publication: `refused`, certainly not stored, or `unknown`.
    pub outcome: Option<String>,
}

impl ServerError {
    /// Time after which the same request may succeed; `None` if it will not.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.details.retry_after_ms.map(Duration::from_millis)
    }
}

impl std::error::Error for ServerError {}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.error)?;
        if self.message.is_empty() { Ok(()) } else { write!(f, ": {}", self.message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_sentence() {
        let text = r#"{"code":4100,"error":"rate_limited","message":"wait","details":{"retry_after_ms":250}}"#;
        let error: ServerError = serde_json::from_str(text).unwrap();
        assert_eq!(error.to_string(), "4100 rate_limited: wait");
        assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
    }
}
