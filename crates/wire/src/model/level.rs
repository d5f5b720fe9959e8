//! The importance of a log message. Pure.

use serde::{Deserialize, Serialize};

/// Log levels, least important first. Names from other libraries are recognized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LogLevel {
    /// Details for debugging; also `TRACE`.
    Debug,
    /// Normal operation.
    Info,
    /// A potential problem; also `WARN`.
    Warning,
    /// A failure.
    Error,
    /// A failure that stops the program; also `FATAL`.
    Critical,
}

/// `TRACE` of other libraries counts as `DEBUG`.
const LEVELS: [(&str, LogLevel); 8] = [
    ("DEBUG", LogLevel::Debug),
    ("INFO", LogLevel::Info),
    ("WARNING", LogLevel::Warning),
    ("ERROR", LogLevel::Error),
    ("CRITICAL", LogLevel::Critical),
    ("TRACE", LogLevel::Debug),
    ("WARN", LogLevel::Warning),
    ("FATAL", LogLevel::Critical),
];

impl LogLevel {
    /// Five names, as configured.
    pub const ALL: [(&'static str, Self); 5] = [LEVELS[0], LEVELS[1], LEVELS[2], LEVELS[3], LEVELS[4]];

    /// All names that a publication may use.
    pub const NAMES: [&'static str; LEVELS.len()] = {
        let (mut names, mut at) = ([""; LEVELS.len()], 0);
        while at < names.len() {
            names[at] = LEVELS[at].0;
            at += 1;
        }
        names
    };

    /// The level with this name, in upper or lower case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        LEVELS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, level)| *level)
    }

    /// The level of a publication: its field `level`, or that of its `data` or `payload`. `None` if it has no known
    /// level.
    #[must_use]
    pub fn of(payload: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct LeveledMessage {
            level: Option<serde_json::Value>,
            data: Option<LogPayload>,
            payload: Option<LogPayload>,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum LogPayload {
            Record { level: serde_json::Value },
            Other(serde::de::IgnoredAny),
        }
        let message: LeveledMessage = serde_json::from_slice(payload).ok()?;
        let inner = |inner: Option<LogPayload>| match inner {
            Some(LogPayload::Record { level }) => Some(level),
            Some(LogPayload::Other(_)) | None => None,
        };
        let level = message.level.or_else(|| inner(message.data)).or_else(|| inner(message.payload))?;
        Self::named(level.as_str()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_of_a_publication_is_where_the_documents_have_it() {
        for (payload, level) in [
            (r#"{"level":"DEBUG"}"#, Some(LogLevel::Debug)),
            (r#"{"type":"system_log","data":{"level":"info","message":""}}"#, Some(LogLevel::Info)),
            (r#"{"msg_type":"log_record","payload":{"message":"","level":"Warn"}}"#, Some(LogLevel::Warning)),
            (r#"{"level":"FATAL","data":{"level":"DEBUG"}}"#, Some(LogLevel::Critical)),
            (r#"{"level":"trace"}"#, Some(LogLevel::Debug)),
            (r#"{"level":"loud"}"#, None),
            (r#"{"level":20}"#, None),
            (r#"{"data":[{"level":"DEBUG"}]}"#, None),
            (r#"{"data":"DEBUG","payload":{"level":"ERROR"}}"#, Some(LogLevel::Error)),
            ("{}", None),
        ] {
            assert_eq!(LogLevel::of(payload.as_bytes()), level, "{payload}");
        }
        assert!(LogLevel::Debug < LogLevel::Info && LogLevel::Error < LogLevel::Critical);
    }
}
