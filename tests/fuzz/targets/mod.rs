//! The properties that hold for any bytes: one function per parser of untrusted input. A target fails with a panic.
//! Used by both the short run of the tests and the guided fuzzer, so it depends on neither.

mod configuration;
mod exchange;
mod frames;
mod handshake;
mod json;
mod names;
mod tokens;

use serde_json::{Map, Value};

pub(crate) type FuzzTarget = fn(&[u8]);

/// All targets by the name of their corpus.
pub(crate) const TARGETS: &[(&str, FuzzTarget)] = &[
    ("json", json::commands),
    ("envelope", json::envelopes),
    ("names", names::names),
    ("cursors", names::cursors),
    ("configuration", configuration::files),
    ("frames", frames::frames),
    ("handshake", handshake::heads),
    ("tokens", tokens::tokens),
    ("exchange", exchange::texts),
];

fn object(text: &[u8]) -> Map<String, Value> {
    serde_json::from_slice(text).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(text)))
}
