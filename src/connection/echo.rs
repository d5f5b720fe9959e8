//! The fields of a command that its reply repeats.

use tickgate_wire::command::Json;

/// The fields of a command that its reply repeats.
#[derive(Debug, Default)]
pub(super) struct CommandEcho {
    pub(super) id: Option<Json>,
    /// Names of unknown fields.
    pub(super) ignored: Vec<String>,
}
