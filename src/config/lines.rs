//! On which line of a configuration file each key is set. Pure; reads only names, not values.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

/// The line of each key: `server`, `server.listen`, `profiles.trading.path`, `auth.public_keys[0]`. Empty for text that
/// is not TOML.
pub(super) fn of_keys(text: &str) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    if let Ok(table) = DeTable::parse(text) {
        collect(table.get_ref(), "", text, &mut lines);
    }
    lines
}

/// The line of a byte, starting at 1.
pub(super) fn at(text: &str, byte: usize) -> usize {
    text.as_bytes().iter().take(byte).filter(|byte| **byte == b'\n').count() + 1
}

fn collect(table: &DeTable<'_>, prefix: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    for (name, value) in table {
        let line = at(text, name.span().start);
        let name = name.get_ref();
        let key = if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
        match value.get_ref() {
            DeValue::Table(inner) => {
                collect(inner, &key, text, lines);
                lines.insert(key, line);
            }
            DeValue::Array(elements) => {
                for (number, element) in elements.iter().enumerate() {
                    let DeValue::Table(inner) = element.get_ref() else { continue };
                    let element_key = element_key(&key, number, inner);
                    lines.insert(element_key.clone(), at(text, element.span().start));
                    collect(inner, &element_key, text, lines);
                }
                lines.insert(key, line);
            }
            _ => _ = lines.insert(key, line),
        }
    }
}

/// The name of an element of a list of tables in messages.
fn element_key(list: &str, number: usize, element: &DeTable<'_>) -> String {
    let title =
        ["name", "pattern"].into_iter().find_map(|name| element.get(name)).and_then(|title| match title.get_ref() {
            DeValue::String(title) if !list.ends_with(".channels") => Some(title),
            _ => None,
        });
    title.map_or_else(|| format!("{list}[{number}]"), |title| format!("{list}.{title}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_line() {
        let text = "server.workers = 1\n\n[server]\n# a comment\nlisten = \"x\"\nallowed_origins = [\n  \"a\",\n]\n\
                    [[profiles]]\nname = \"own\"\nchannels = [\n  { name = \"a\" },\n  { name = \"b\" },\n]\n\
                    [[topics]]\npattern = \"t:*\"\nclass = \"state\"\n[[auth.public_keys]]\npath = \"/f\"\n";
        // TOML refuses a dotted key next to a header of the same table.
        assert!(of_keys(text).is_empty());
        let lines = of_keys(text.strip_prefix("server.workers = 1\n").unwrap());
        for (key, line) in [
            ("server", 2),
            ("server.listen", 4),
            ("server.allowed_origins", 5),
            ("profiles.own", 8),
            ("profiles.own.name", 9),
            ("profiles.own.channels[0]", 11),
            ("profiles.own.channels[1].name", 12),
            ("topics.t:*", 14),
            ("topics.t:*.class", 16),
            ("auth.public_keys[0].path", 18),
        ] {
            assert_eq!(lines.get(key), Some(&line), "{key}: {lines:?}");
        }
    }
}
