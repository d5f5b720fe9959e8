//! What of a command comes back in its reply. Never the command itself.

use tickgate_wire::command::Json;

/// What of a command comes back in its reply.
#[derive(Debug, Default)]
pub(super) struct Echo {
    pub(super) id: Option<Json>,
    /// Names of fields that meant nothing.
    pub(super) ignored: Vec<String>,
}
