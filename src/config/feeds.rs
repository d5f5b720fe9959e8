//! Market data made inside the gateway, and what is logged.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tickgate_wire::model::check_name;

use super::{
    Problems, raw,
    value::{Section, quoted},
};

#[derive(Clone, Debug)]
pub struct Feeds {
    pub synthetic: Option<Synthetic>,
}

/// A seeded random walk, so that a first run shows something alive.
#[derive(Clone, Debug)]
pub struct Synthetic {
    pub symbols: Vec<String>,
    /// Time between two ticks of one symbol.
    pub interval: Duration,
    pub seed: u64,
}

#[derive(Clone, Debug)]
pub struct Log {
    /// Levels by target, such as `info` or `info,tickgate::hub=debug`.
    pub filter: String,
    pub json: bool,
    /// Where the audit log is written to as well.
    pub audit_file: Option<PathBuf>,
}

/// The target of the audit log's lines.
pub const AUDIT_TARGET: &str = "audit";

impl Feeds {
    pub(super) fn check(raw: &raw::Feeds, development: bool, problems: &mut Problems) -> Self {
        let mut section = Section::new("feeds.synthetic", problems);
        let raw = &raw.synthetic;
        let choices = [("auto", development), ("on", true), ("off", false)];
        let enabled = section.choice("enabled", &raw.enabled, &choices);
        let symbols = section.take_all("symbols", &raw.symbols, symbol);
        if enabled && raw.symbols.is_empty() {
            section.tell("symbols", "wants at least one symbol");
        }
        let interval = section.duration("interval", &raw.interval, ["1ms", "1h"]);
        Self { synthetic: enabled.then_some(Synthetic { symbols, interval, seed: raw.seed }) }
    }
}

/// Symbols end up in topic names, behind `orderbook:`.
fn symbol(text: &str) -> Result<String, String> {
    if text.len() <= 64 && check_name(text).is_ok() {
        return Ok(text.into());
    }
    Err(format!("wants symbols such as \"BTCUSDT\", got {}", quoted(text)))
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A level, or a target with one. A target alone would turn all others off, and a level without a name counts for
/// everything: `warning` must not be taken for a target.
fn is_filter(part: &str) -> bool {
    let is_level = |level: &str| LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level));
    match part.split_once('=') {
        None => is_level(part),
        Some((target, level)) => !target.is_empty() && !target.contains(char::is_whitespace) && is_level(level),
    }
}

/// Whether the text can be `log.filter`.
#[must_use]
pub fn is_log_filter(text: &str) -> bool {
    text.split(',').all(is_filter) && text.parse::<tracing_subscriber::filter::Targets>().is_ok()
}

impl Log {
    pub(super) fn check(raw: &raw::Log, problems: &mut Problems) -> Self {
        let mut section = Section::new("log", problems);
        let wrong = raw.filter.split(',').find(|part| !is_filter(part));
        if !is_log_filter(&raw.filter) {
            let hint = wrong.and_then(|part| {
                let level = part.rsplit('=').next().unwrap_or_default().to_ascii_lowercase();
                LEVELS
                    .into_iter()
                    .find(|known| !level.is_empty() && (level.starts_with(known) || known.starts_with(&*level)))
            });
            let hint = hint.map_or_else(String::new, |level| format!(" (did you mean \"{level}\"?)"));
            let wants = "must be levels (off, error, warn, info, debug, trace), such as \"info\" or \
                         \"info,tickgate::hub=debug\", not ";
            section.tell("filter", format!("{wants}{}{hint}", quoted(&raw.filter)));
        }
        let json = section.choice("format", &raw.format, &[("text", false), ("json", true)]);
        let audit_file = section.take("audit_file", audit_file(&raw.audit_file), None);
        Self { filter: raw.filter.clone(), json, audit_file }
    }
}

/// A path in a folder that is there; the file itself is made by the first line.
fn audit_file(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let path = PathBuf::from(text);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() && !path.is_dir() {
        return Ok(Some(path));
    }
    Err(format!("wants a file in a folder that exists, got {}", quoted(text)))
}
