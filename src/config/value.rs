//! Parses single values: times, addresses, choices. Pure; each failure is a sentence that states what is expected.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use ipnet::IpNet;

use super::Problems;

/// Parses a time: a whole number and `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
/// A sentence that names the units.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("must be a time with a unit (ms, s, m, h, d), such as \"30s\", got {}", quoted(text));
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)
}

/// Parses `127.0.0.1:8000` or `[::1]:8000`; `localhost:8000` means the former.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(text).parse().map_err(|_| {
        let example = if text.matches(':').count() > 1 && !text.starts_with('[') {
            "an IPv6 address in brackets, such as \"[::1]:8000\""
        } else {
            "such as \"127.0.0.1:8000\""
        };
        format!("must be an IP address and a port, {example}, got {}", quoted(text))
    })
}

/// Parses `10.0.0.0/8`; a bare address is a range of one.
pub(super) fn address_range(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse().map(|address: IpAddr| address.into()))
        .map_err(|_| format!("must be an address range, such as \"10.0.0.0/8\", not {}", quoted(text)))
}

/// The value in quotes, truncated to fit on a line.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(64).collect::<String>())
}

/// The candidate that was probably meant: the one within a few edits.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let far = word.chars().count() / 3 + 1;
    let measured = candidates.map(|candidate| (strsim::levenshtein(word, candidate), candidate));
    measured.filter(|(distance, _)| *distance <= far).min().map(|(_, candidate)| candidate)
}

/// One table of the configuration during validation: keys are named within it.
pub(super) struct Section<'a> {
    name: String,
    problems: &'a mut Problems,
}

impl<'a> Section<'a> {
    pub(super) fn new(name: impl Into<String>, problems: &'a mut Problems) -> Self {
        Self { name: name.into(), problems }
    }

    pub(super) fn report(&mut self, key: &str, text: impl Into<String>) {
        self.problems.report(format!("{}.{key}", self.name), text);
    }

    /// The value, or `instead` and a problem.
    pub(super) fn take<T>(&mut self, key: &str, read: Result<T, String>, instead: T) -> T {
        read.unwrap_or_else(|text| {
            self.report(key, text);
            instead
        })
    }

    /// All valid values, and a problem for each invalid one.
    pub(super) fn take_all<T>(&mut self, key: &str, texts: &[String], read: fn(&str) -> Result<T, String>) -> Vec<T> {
        let mut values = Vec::with_capacity(texts.len());
        for text in texts {
            match read(text) {
                Ok(value) => values.push(value),
                Err(text) => self.report(key, text),
            }
        }
        values
    }

    /// A time between two bounds, inclusive, which are written as in the configuration.
    pub(super) fn duration(&mut self, key: &str, text: &str, [least, most]: [&str; 2]) -> Duration {
        let bounds = duration(least).unwrap_or_default()..=duration(most).unwrap_or(Duration::MAX);
        let read = duration(text).and_then(|value| {
            if bounds.contains(&value) {
                Ok(value)
            } else {
                Err(format!("must be between {least} and {most}, got {text}"))
            }
        });
        self.take(key, read, *bounds.start())
    }

    /// A whole number between two bounds, inclusive, both of which must fit `T`.
    pub(super) fn number<T: TryFrom<u64> + Default>(
        &mut self,
        key: &str,
        value: u64,
        bounds: RangeInclusive<u64>,
    ) -> T {
        let (least, most) = (bounds.start(), bounds.end());
        let read = T::try_from(value)
            .ok()
            .filter(|_| bounds.contains(&value))
            .ok_or_else(|| format!("must be between {least} and {most}, got {value}"));
        self.take(key, read, T::default())
    }

    /// One of several names; the first replaces an invalid value.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, text: &str, choices: &[(&str, T)]) -> T {
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        self.report(key, format!("must be one of {}, got {}", words.join(", "), quoted(text)));
        choices[0].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        let good =
            [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("24h", 86_400_000), ("7d", 604_800_000), ("0s", 0)];
        for (text, millis) in good {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "30", "s", "1.5s", "-1s", "30 s", "30sec", "99999999999999999999s", "9999999999999999999d"] {
            assert!(duration(text).unwrap_err().contains("ms, s, m, h, d"), "{text}");
        }
    }

    #[test]
    fn addresses_and_ranges_are_numeric() {
        assert_eq!(address("localhost:1").unwrap().to_string(), "127.0.0.1:1");
        assert_eq!(address("[::1]:1").unwrap().to_string(), "[::1]:1");
        for text in ["", "8000", "host:1", "127.0.0.1", "127.0.0.1:99999"] {
            assert!(address(text).is_err(), "{text}");
        }
        assert_eq!(address_range("10.0.0.0/8").unwrap().prefix_len(), 8);
        assert_eq!(address_range("::1").unwrap().prefix_len(), 128);
        for text in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/"] {
            assert!(address_range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_typo_finds_the_intended_name_and_nonsense_finds_none() {
        let keys = ["listen", "ops_listen", "header_timeout"];
        assert_eq!(nearest("lisen", keys.into_iter()), Some("listen"));
        assert_eq!(nearest("header_time_out", keys.into_iter()), Some("header_timeout"));
        assert_eq!(nearest("colour", keys.into_iter()), None);
    }

    #[test]
    fn values_outside_their_bounds_are_reported() {
        let mut problems = Problems::default();
        let mut section = Section::new("limits", &mut problems);
        assert_eq!(section.number::<u8>("a", 300, 0..=1000), 0);
        assert_eq!(section.number::<u32>("b", 0, 1..=10), 0);
        assert_eq!(section.duration("c", "2h", ["1s", "1h"]), Duration::from_secs(1));
        assert_eq!(section.choice("d", "Refuse", &[("refuse", 1), ("evict-oldest", 2)]), 1);
        let reported: Vec<String> = problems.iter().map(|p| format!("{}: {}", p.key, p.text)).collect();
        assert_eq!(
            reported,
            [
                "limits.a: must be between 0 and 1000, got 300",
                "limits.b: must be between 1 and 10, got 0",
                "limits.c: must be between 1s and 1h, got 2h",
                "limits.d: must be one of refuse, evict-oldest, got \"Refuse\"",
            ]
        );
    }
}
