//! Market data feeds, and logging.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tickgate_wire::model::check_name;

use super::{
    Problems, is_loopback_host, raw,
    value::{Section, quoted},
};

/// The market data that a replica publishes itself. At most one of the two feeds is on.
#[derive(Clone, Debug)]
pub struct Feeds {
    /// The synthetic feed; `None`: off.
    pub synthetic: Option<Synthetic>,
    /// The feed from an exchange; `None`: off.
    pub binance: Option<Binance>,
    /// Data received from an exchange is appended to this file (`serve --record`).
    pub record: Option<PathBuf>,
}

/// The spot market of Binance, or of an exchange with the same API.
#[derive(Clone, Debug)]
pub struct Binance {
    /// Without a path, such as `wss://data-stream.binance.vision`.
    pub stream_url: String,
    /// Without a path.
    pub rest_url: String,
    /// Always followed, at least one: its data shows that the connection works.
    pub symbols: Vec<String>,
    /// Whether the symbols that clients follow are followed as well.
    pub on_demand: bool,
    /// Maximum number of followed symbols. Each uses three streams of a connection.
    pub symbols_max: usize,
    /// How long a symbol is followed after its last client leaves.
    pub linger: Duration,
    /// After this time without any data, the last values are stale.
    pub stale_after: Duration,
    /// The minimum time between two requests for the list of symbols, and how long a symbol must be silent to cause
    /// one.
    pub symbols_refresh: Duration,
    /// A connection to the exchange is replaced at this age, or slightly earlier.
    pub connection_age_max: Duration,
}

/// A seeded random walk, so that a first run has live data.
#[derive(Clone, Debug)]
pub struct Synthetic {
    /// The symbols to generate; at least one.
    pub symbols: Vec<String>,
    /// Time between two ticks of one symbol.
    pub interval: Duration,
    /// The seed of the random walk: the same one gives the same data.
    pub seed: u64,
}

/// The log of the process.
#[derive(Clone, Debug)]
pub struct Log {
    /// Levels by target, such as `info` or `info,tickgate::hub=debug`.
    pub filter: String,
    /// Whether lines are JSON instead of text.
    pub json: bool,
    /// Additional destination of the audit log.
    pub audit_file: Option<PathBuf>,
}

/// The target of the audit log's lines.
pub const AUDIT_TARGET: &str = "audit";

impl Feeds {
    pub(super) fn check(raw: &raw::RawFeeds, development: bool, problems: &mut Problems) -> Self {
        let binance = Binance::check(&raw.binance, problems);
        let mut section = Section::new("feeds.synthetic", problems);
        let raw = &raw.synthetic;
        // Synthetic prices are never mixed with real ones unless the configuration requests it.
        let choices = [("auto", development && binance.is_none()), ("on", true), ("off", false)];
        let enabled = section.choice("enabled", &raw.enabled, &choices);
        let symbols = section.take_all("symbols", &raw.symbols, symbol);
        if enabled && raw.symbols.is_empty() {
            section.report("symbols", "requires at least one symbol");
        }
        let shared = |symbol: &&String| binance.as_ref().is_some_and(|binance| binance.symbols.contains(*symbol));
        if let Some(symbol) = symbols.iter().find(shared).filter(|_| enabled) {
            section.report("symbols", format!("must not share {symbol} with feeds.binance.symbols"));
        }
        let interval = section.duration("interval", &raw.interval, ["1ms", "1h"]);
        Self { synthetic: enabled.then_some(Synthetic { symbols, interval, seed: raw.seed }), binance, record: None }
    }
}

impl Feeds {
    /// Exchange addresses where prices can be changed in transit.
    pub(super) fn warn(&self) -> impl Iterator<Item = String> {
        let addresses = self.binance.iter().flat_map(|binance| {
            [("feeds.binance.stream_url", &binance.stream_url), ("feeds.binance.rest_url", &binance.rest_url)]
        });
        let is_open = |url: &str| {
            let plain = url.strip_prefix("ws://").or_else(|| url.strip_prefix("http://"));
            plain.is_some_and(|rest| !is_loopback_host(host_of(rest)))
        };
        addresses.filter(move |(_, url)| is_open(url)).map(|(key, url)| {
            format!("prices can be changed in transit: {key} is {}, which is not encrypted", quoted(url))
        })
    }
}

/// The host of an address with or without a port.
fn host_of(address: &str) -> &str {
    match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => address.split(':').next().unwrap_or_default(),
    }
}

impl Binance {
    fn check(raw: &raw::RawBinance, problems: &mut Problems) -> Option<Self> {
        let mut section = Section::new("feeds.binance", problems);
        let enabled = section.choice("enabled", &raw.enabled, &[("off", false), ("on", true)]);
        let stream_url = section.take("stream_url", base_url(&raw.stream_url, ["ws", "wss"]), String::new());
        let rest_url = section.take("rest_url", base_url(&raw.rest_url, ["http", "https"]), String::new());
        let symbols = section.take_all("symbols", &raw.symbols, exchange_symbol);
        let symbols_max = section.number("symbols_max", raw.symbols_max, 1..=340);
        if enabled && raw.symbols.is_empty() {
            section.report("symbols", "requires at least one symbol: its data shows that the connection works");
        }
        if raw.symbols.len() > symbols_max {
            section.report("symbols", "must not name more symbols than feeds.binance.symbols_max");
        }
        let linger = section.duration("linger", &raw.linger, ["1s", "1h"]);
        let stale_after = section.duration("stale_after", &raw.stale_after, ["2s", "1m"]);
        let symbols_refresh = section.duration("symbols_refresh", &raw.symbols_refresh, ["1s", "15m"]);
        let connection_age_max = section.duration("connection_age_max", &raw.connection_age_max, ["10s", "23h"]);
        enabled.then_some(Self {
            stream_url,
            rest_url,
            symbols,
            on_demand: raw.on_demand,
            symbols_max,
            linger,
            stale_after,
            symbols_refresh,
            connection_age_max,
        })
    }
}

/// An address without a path.
fn base_url(text: &str, [plain, secure]: [&str; 2]) -> Result<String, String> {
    let wrong =
        || format!("must be an address such as \"{secure}://example.com\" without a path, not {}", quoted(text));
    let text = text.trim_end_matches('/');
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let is_address = !rest.is_empty() && !rest.contains(['/', '?', '#', '@', ' ']);
    if (scheme == plain || scheme == secure) && is_address { Ok(text.to_owned()) } else { Err(wrong()) }
}

/// The exchange writes its symbols in capitals; some contain letters of other alphabets.
fn exchange_symbol(text: &str) -> Result<String, String> {
    let is_spelled = |c: char| !c.is_ascii() || c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let is_one = symbol(text).is_ok() && text.chars().all(is_spelled);
    if is_one { Ok(text.into()) } else { Err(format!("must be symbols such as \"BTCUSDT\", not {}", quoted(text))) }
}

/// Symbols become part of topic names, after `orderbook:`.
fn symbol(text: &str) -> Result<String, String> {
    if text.len() <= 64 && check_name(text).is_ok() {
        return Ok(text.into());
    }
    Err(format!("must be symbols such as \"BTCUSDT\", got {}", quoted(text)))
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A level, or a target with one. A target without a level would turn all others off, and a level without a target
/// applies to everything: `warning` must not be parsed as a target.
fn is_filter(part: &str) -> bool {
    let is_level = |level: &str| LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level));
    match part.split_once('=') {
        None => is_level(part),
        Some((target, level)) => !target.is_empty() && !target.contains(char::is_whitespace) && is_level(level),
    }
}

/// Whether the text is a valid `log.filter`.
#[must_use]
pub fn is_log_filter(text: &str) -> bool {
    text.split(',').all(is_filter) && text.parse::<tracing_subscriber::filter::Targets>().is_ok()
}

impl Log {
    pub(super) fn check(raw: &raw::RawLog, problems: &mut Problems) -> Self {
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
            let expected = "must be levels (off, error, warn, info, debug, trace), such as \"info\" or \
                         \"info,tickgate::hub=debug\", not ";
            section.report("filter", format!("{expected}{}{hint}", quoted(&raw.filter)));
        }
        let json = section.choice("format", &raw.format, &[("text", false), ("json", true)]);
        let audit_file = section.take("audit_file", audit_file(&raw.audit_file), None);
        Self { filter: raw.filter.clone(), json, audit_file }
    }
}

/// A path in an existing folder; the file itself is created by the first line.
fn audit_file(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let path = PathBuf::from(text);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() && !path.is_dir() {
        return Ok(Some(path));
    }
    Err(format!("must be a file in an existing folder, got {}", quoted(text)))
}
