//! What must hold for any bytes at all: one function for each reader of what strangers send. A target fails by a panic.
//! Shared by the short run of the tests and by the guided one, so it names nothing of either.

mod configuration;
mod exchange;
mod frames;
mod handshake;
mod json;
mod names;
mod tokens;

use serde_json::{Map, Value};

pub(crate) type Target = fn(&[u8]);

/// All targets by the name of their corpus.
pub(crate) const TARGETS: &[(&str, Target)] = &[
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
