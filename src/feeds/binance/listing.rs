//! Which symbols the exchange has, and whether they have data. Pure.

use std::{borrow::Cow, collections::HashMap};

use serde::Deserialize;

use super::frame::is_symbol;

/// Maximum number of symbols that are remembered.
const SYMBOLS_MAX: usize = 20_000;

/// The exchange's list.
#[derive(Debug)]
pub(super) struct SymbolListing {
    statuses: HashMap<String, String>,
    /// Symbols that cannot be part of a topic name.
    pub skipped: usize,
}

/// The exchange's status of a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SymbolStatus<'a> {
    /// It has data.
    Live,
    /// It is known, but has no data.
    Halted(&'a str),
    Unknown,
}

impl SymbolListing {
    /// Parses the body of `exchangeInfo`; `None` if it is invalid.
    pub(super) fn read(body: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Info<'a> {
            #[serde(borrow)]
            symbols: Vec<SymbolEntry<'a>>,
        }
        #[derive(Deserialize)]
        struct SymbolEntry<'a> {
            #[serde(borrow)]
            symbol: Cow<'a, str>,
            #[serde(borrow)]
            status: Cow<'a, str>,
        }
        let info: Info<'_> = serde_json::from_str(body).ok()?;
        let (mut statuses, mut skipped) = (HashMap::new(), 0);
        for entry in info.symbols.into_iter().take(SYMBOLS_MAX) {
            let is_word = entry.status.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
            if is_symbol(&entry.symbol) && is_word {
                statuses.insert(entry.symbol.into_owned(), entry.status.into_owned());
            } else {
                skipped += 1;
            }
        }
        Some(Self { statuses, skipped })
    }

    pub(super) fn of(&self, symbol: &str) -> SymbolStatus<'_> {
        match self.statuses.get(symbol).map(String::as_str) {
            None => SymbolStatus::Unknown,
            // Halted trading still has data; a break has none, and its old prices must not be published.
            Some("TRADING" | "HALT" | "CANCEL_ONLY") => SymbolStatus::Live,
            Some(status) => SymbolStatus::Halted(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_is_live_halted_or_unknown_and_odd_ones_are_counted() {
        let body = r#"{"timezone":"UTC","symbols":[
            {"symbol":"BTCUSDT","status":"TRADING","x":1},{"symbol":"STOPUSDT","status":"HALT"},
            {"symbol":"OLDUSDT","status":"BREAK"},{"symbol":"测试USDT","status":"TRADING"},{"symbol":"B*D","status":"TRADING"},
            {"symbol":"ODDUSDT","status":"\"}"}]}"#;
        let listing = SymbolListing::read(body).unwrap();
        assert_eq!(listing.skipped, 2);
        let found = ["BTCUSDT", "STOPUSDT", "OLDUSDT", "NOUSDT", "B*D", "测试USDT"].map(|symbol| listing.of(symbol));
        let wanted = [
            SymbolStatus::Live,
            SymbolStatus::Live,
            SymbolStatus::Halted("BREAK"),
            SymbolStatus::Unknown,
            SymbolStatus::Unknown,
            SymbolStatus::Live,
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_proxy_error_page_is_not_a_list() {
        for body in ["", "<html></html>", "{}", "[]", r#"{"symbols":[{"symbol":1}]}"#] {
            assert!(SymbolListing::read(body).is_none(), "{body}");
        }
    }
}
