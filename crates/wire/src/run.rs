//! What the gateway itself publishes for engines: a client's command to the run it follows. Does not decide who may
//! send one.

use bytes::{Bytes, BytesMut};
use serde::Serialize;

use crate::{command::Json, json::push_value, time::Timestamp};

/// A command to the engine that executes the run: the payload that engines read from the commands' topic.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "type", rename = "command")]
pub struct RunCommand<'a> {
    /// The path's parameter.
    pub run_id: &'a str,
    /// What the engine should do, such as `pause`.
    pub command: &'a str,
    /// As the client wrote it.
    pub args: Option<&'a Json>,
    /// The sender; `None` on endpoints without tokens.
    pub user: Option<&'a str>,
    /// When the gateway accepted it.
    pub timestamp: Timestamp,
}

impl RunCommand<'_> {
    /// The JSON text.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(256);
        push_value(&mut out, self);
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::check_payload;

    #[test]
    fn an_engine_receives_the_command_its_sender_and_its_time() {
        let args = Json::keep(r#"{"after": 1.50}"#);
        let command = RunCommand {
            run_id: "r-1",
            command: "pause",
            args: args.as_ref(),
            user: Some("alice"),
            timestamp: Timestamp::from_ms(0),
        };
        let text = command.payload();
        assert_eq!(
            text,
            r#"{"type":"command","run_id":"r-1","command":"pause","args":{"after": 1.50},"user":"alice","timestamp":"1970-01-01T00:00:00.000Z"}"#
        );
        assert_eq!(check_payload(&text, 32), Ok(()));
        let text = RunCommand { args: None, user: None, ..command }.payload();
        assert!(std::str::from_utf8(&text).unwrap().contains(r#""args":null,"user":null"#));
    }
}
