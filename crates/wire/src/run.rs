//! What the gateway itself publishes for engines: a client's command to the run it watches. Never says who may.

use bytes::BytesMut;

use super::json::Object;

/// A command on its way to the engine that executes the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunCommand<'a> {
    /// The path's parameter.
    pub run_id: &'a str,
    pub command: &'a str,
    /// JSON text, as the client wrote it.
    pub args: Option<&'a str>,
    /// Who sent it; `None` where clients need no token.
    pub user: Option<&'a str>,
}

/// Appends the payload that engines read from the commands' topic.
pub fn run_command(out: &mut BytesMut, command: &RunCommand<'_>, now_ms: u64) {
    let mut object = Object::begin(out);
    object.string("type", "command");
    object.string("run_id", command.run_id);
    object.string("command", command.command);
    object.raw("args", command.args.unwrap_or("null"));
    object.string_or_null("user", command.user);
    object.time("timestamp", now_ms);
    object.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::check_payload;

    #[test]
    fn an_engine_learns_what_is_asked_by_whom_and_when() {
        let mut out = BytesMut::new();
        let command =
            RunCommand { run_id: "r-1", command: "pause", args: Some(r#"{"after": 1.50}"#), user: Some("alice") };
        run_command(&mut out, &command, 0);
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            r#"{"type":"command","run_id":"r-1","command":"pause","args":{"after": 1.50},"user":"alice","timestamp":"1970-01-01T00:00:00.000Z"}"#
        );
        assert_eq!(check_payload(&out, 32), Ok(()));
        out.clear();
        run_command(&mut out, &RunCommand { args: None, user: None, ..command }, 0);
        assert!(std::str::from_utf8(&out).unwrap().contains(r#""args":null,"user":null"#));
    }
}
