//! The read scripts, called by their digests to keep commands short.

use std::sync::OnceLock;

use redis::{Cmd, Pipeline, Script, Value};

use crate::redis_link::RefusalKind;

/// A script, and its digest once computed.
#[derive(Debug)]
pub(super) struct ReadScript {
    text: &'static str,
    digest: OnceLock<String>,
}

pub(super) static ENDS: ReadScript = ReadScript::new(include_str!("scripts/ends.lua"));
pub(super) static ANCHOR: ReadScript = ReadScript::new(include_str!("scripts/anchor.lua"));
pub(super) static FORGET: ReadScript = ReadScript::new(include_str!("scripts/forget.lua"));

/// The texts of all scripts, to be loaded into every server.
pub(super) fn texts() -> impl Iterator<Item = &'static str> {
    [&ENDS, &ANCHOR, &FORGET].into_iter().map(|script| script.text)
}

impl ReadScript {
    const fn new(text: &'static str) -> Self {
        Self { text, digest: OnceLock::new() }
    }

    /// A call with this many keys, which follow. Fails separately if the server does not have the script: see
    /// [`is_unknown`].
    pub(super) fn call(&self, keys: usize) -> Cmd {
        let digest = self.digest.get_or_init(|| Script::new(self.text).get_hash().to_owned());
        let mut command = redis::cmd("EVALSHA");
        command.arg(digest).arg(keys);
        command
    }
}

/// Whether a call was refused because the server does not have its script, after SCRIPT FLUSH or on another server.
pub(super) fn is_unknown(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == RefusalKind::NoScript.code())
}

/// A pipeline that loads all scripts.
pub(super) fn load() -> Pipeline {
    let mut pipe = redis::pipe();
    for text in texts() {
        pipe.cmd("SCRIPT").arg("LOAD").arg(text);
    }
    pipe
}
