//! The table of bounds in SECURITY.md matches the code and the defaults, and includes every queue and table.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    nothing,
    source::{root, sources},
};

/// Names of constants that bound what clients can make grow.
const NAMES: [&str; 36] = [
    "ANSWERS_MAX",
    "ASKED_MAX",
    "BYTES_MAX",
    "CACHE_MAX",
    "DEDUPE_MAX",
    "EVENTS_MAX",
    "FLYING_MAX",
    "FRAMES_MAX",
    "HELD_BYTES_MAX",
    "HELD_MAX",
    "ITEMS_MAX",
    "KEPT_BYTES_MAX",
    "KEPT_MAX",
    "LEFT_MAX",
    "LEFT_PER_ADDRESS_MAX",
    "LINES_MAX",
    "LONG_MAX",
    "LOST_MAX",
    "NAMING_ADDRESSES_MAX",
    "PAGES_MAX",
    "PAIRS_MAX",
    "QUEUE_BYTES_MAX",
    "QUEUE_MAX",
    "REQUESTED_MAX",
    "REQUESTS_MAX",
    "STREAMS_MAX",
    "THROTTLED_MAX",
    "TICKETS_MAX",
    "TOPICS_MAX",
    "TRACES_MAX",
    "TRIALS_MAX",
    "TRIALS_PER_ADDRESS_MAX",
    "UNDER_WAY_BYTES_MAX",
    "UNDER_WAY_MAX",
    "WAITING_MAX",
    "WRITTEN_PER_ADDRESS_BYTES_MAX",
];
/// The maximum value of a setting, which is not a bound of what grows.
const NOT_A_BOUND: [&str; 1] = ["src/config/limits.rs"];
/// Settings that are bounds, in addition to those of `[limits]` and `[hub]` that end in `_max`.
const SETTINGS: [&str; 4] =
    ["server.header_bytes_max", "auth.token_bytes_max", "redis.pool_size", "limits.bytes_read_per_address"];

#[test]
fn the_table_of_bounds_matches_the_code() {
    let mut wanted = constants();
    wanted.extend(settings());
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for BoundRow { name, of_two, value } in rows() {
        if of_two {
            continue;
        }
        match wanted.get(&name) {
            None => wrong.push(format!("SECURITY.md: {name} is not a bound of the code")),
            Some(own) if Some(*own) != number(&value) => {
                wrong.push(format!("SECURITY.md: {name} is {own}, not {value}"));
            }
            Some(_) => {}
        }
        seen.insert(name);
    }
    let left_out = wanted.keys().filter(|name| !seen.contains(*name));
    wrong.extend(left_out.map(|name| format!("SECURITY.md: its table of bounds lacks {name}")));
    nothing(wrong);
}

/// The names of all rows, as `src/hub/mail.rs BYTES_MAX` or `limits.subscriptions_max`.
pub fn bounds_of_the_table() -> BTreeSet<String> {
    rows().into_iter().map(|row| row.name).collect()
}

/// A row of the table.
struct BoundRow {
    name: String,
    /// Two places share the row, each with a value of its own.
    of_two: bool,
    value: String,
}

fn rows() -> Vec<BoundRow> {
    let document = read("SECURITY.md");
    let table = document.split("## Bounds").nth(1).expect("the table");
    let mut rows = Vec::new();
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let name = cells[1].split('`').skip(1).step_by(2).collect::<Vec<_>>().join(" ");
        if !name.is_empty() {
            rows.push(BoundRow { name, of_two: cells[1].contains(" and "), value: cells[2].to_owned() });
        }
    }
    rows
}

/// `src/hub/mail.rs BYTES_MAX` and its value, for every constant with one of these names.
fn constants() -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for source in sources().iter().filter(|source| !source.path.starts_with("crates/") && !source.is_test) {
        for line in source.text.lines() {
            let Some((name, rest)) = line.split_once("const ").and_then(|(_, rest)| rest.split_once(": ")) else {
                continue;
            };
            let path = format!("src/{}", source.path);
            if !NAMES.contains(&name) || NOT_A_BOUND.contains(&path.as_str()) {
                continue;
            }
            let value = rest.split_once(" = ").and_then(|(_, value)| evaluate(value.trim_end_matches(';')));
            found.insert(format!("{path} {name}"), value.unwrap_or_else(|| panic!("{path}: {line}")));
        }
    }
    found
}

/// `limits.subscriptions_max` and its default, for every setting that is a bound.
fn settings() -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut section = String::new();
    for line in read("config/default.toml").lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((name, value)) = line.split_once(" = ") {
            let key = format!("{section}.{name}");
            let is_bound = ["limits", "hub"].contains(&section.as_str()) && name.ends_with("_max");
            if !is_bound && !SETTINGS.contains(&key.as_str()) {
                continue;
            }
            match value.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                None => found.extend([(key, value.parse().expect("a number"))]),
                Some(parts) => found.extend(parts.split(',').map(|part| {
                    let (name, value) = part.trim().split_once(" = ").expect("a part of a rate");
                    (format!("{key}.{name}"), value.parse().expect("a number"))
                })),
            }
        }
    }
    found
}

/// `64 MiB`, `1,000`, `1,000 of 64 bytes each`.
fn number(text: &str) -> Option<u64> {
    let text = text.split(" of ").next().unwrap_or_default();
    let (number, unit) = text.split_once(' ').map_or((text, 1), |(number, unit)| match unit {
        "KiB" => (number, 1 << 10),
        "MiB" => (number, 1 << 20),
        _ => ("", 0),
    });
    number.replace(',', "").parse::<u64>().ok().map(|number| number * unit)
}

/// `64 << 20`, `256 * 1024`, `65_536`.
fn evaluate(text: &str) -> Option<u64> {
    let plain = |text: &str| text.trim().replace('_', "").parse::<u64>().ok();
    if let Some((value, bits)) = text.split_once("<<") {
        return Some(plain(value)? << plain(bits)?);
    }
    text.split('*').map(plain).product()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}
