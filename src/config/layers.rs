//! The configuration layers and how they are merged: shipped defaults, file, environment, flags. A key's default
//! determines its type. Does not validate values.

use std::{collections::BTreeMap, path::PathBuf};

use toml::{Table, Value};

use super::{Problems, environment, lines, lists, named_file::without_marks, raw::Raw, value::nearest};

/// `config/default.toml`: the defaults and the reference.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// The layers above the defaults.
#[derive(Clone, Debug, Default)]
pub struct ConfigSources {
    /// A configuration file.
    pub file: Option<PathBuf>,
    /// Environment variables; those of other programs are ignored.
    pub environment: Vec<(String, String)>,
    /// Flag as typed (`--listen`), key it sets (`server.listen`), value.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

impl ConfigSources {
    /// The environment of this process; the file is the given one, or the one that `TICKGATE_CONFIG` names.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>) -> Self {
        let environment = environment::of_process();
        let named = environment.iter().find(|(name, value)| name == environment::FILE && !value.is_empty());
        let file = file.or_else(|| named.map(|(_, path)| path.into()));
        Self { file, environment, flags: Vec::new() }
    }

    /// Adds a flag.
    #[must_use]
    pub fn flag(mut self, flag: &'static str, key: &'static str, value: impl Into<String>) -> Self {
        self.flags.push((flag, key, value.into()));
        self
    }
}

/// The merged tables, the origin of each value, and the problems found.
pub(super) struct Layers {
    known: Table,
    merged: Table,
    pub origins: BTreeMap<String, String>,
    pub problems: Problems,
}

impl Layers {
    /// Merges all layers of `sources`. Invalid parts are omitted and reported.
    pub(super) fn read(sources: &ConfigSources) -> Self {
        let mut layers = Self::defaults();
        if let Some(path) = &sources.file {
            let name = path.display().to_string();
            match std::fs::read_to_string(path) {
                Ok(text) => layers.file(&name, &without_marks(text)),
                Err(error) => layers.problems.report(name, format!("cannot be read: {error}")),
            }
        }
        layers.environment(&sources.environment);
        for (flag, key, value) in &sources.flags {
            layers.text(flag, key, value);
        }
        layers
    }

    /// The shipped defaults alone.
    fn defaults() -> Self {
        let mut problems = Problems::default();
        let known: Table = toml::from_str(DEFAULTS).unwrap_or_else(|error| {
            problems.report("default.toml", error.message());
            Table::new()
        });
        Self { merged: known.clone(), known, origins: BTreeMap::new(), problems }
    }

    /// Merges a file over the current tables.
    fn file(&mut self, name: &str, text: &str) {
        match toml::from_str::<Table>(text) {
            Ok(table) => {
                self.table(name, "", table);
                for (key, line) in lines::of_keys(text) {
                    // A section stands for its keys that were not written.
                    let is_section = matches!(find(&self.known, &key), Some(Value::Table(_)));
                    if !is_section || self.origins.contains_key(&key) {
                        self.origins.insert(key, format!("{name}:{line}"));
                    }
                }
            }
            // Not the parser's own text: it quotes the line, which may hold a secret.
            Err(error) => {
                let line = lines::at(text, error.span().map_or(0, |span| span.start));
                let hint = text.lines().nth(line - 1).and_then(hint_for).unwrap_or_default();
                self.problems.report(name, format!("line {line} is not TOML: {}{hint}", error.message()));
            }
        }
    }

    /// Merges a table over the section `at`.
    fn table(&mut self, origin: &str, at: &str, table: Table) {
        for (name, value) in table {
            let key = if at.is_empty() { name } else { format!("{at}.{name}") };
            match (find(&self.known, &key), value) {
                (None, _) => self.unknown(&key, &key, origin),
                (Some(Value::Table(_)), Value::Table(inner)) => self.table(origin, &key, inner),
                (Some(_), value) => self.set(origin, &key, value),
            }
        }
    }

    /// Sets one key.
    fn set(&mut self, origin: &str, key: &str, value: Value) {
        if lists::is_list_of_tables(key) {
            return self.list(origin, key, value);
        }
        let Some(default) = find(&self.known, key) else { return };
        let refusal = (!same_type(default, &value)).then(|| expectation(default));
        self.origins.insert(key.into(), origin.into());
        match (refusal, find_mut(&mut self.merged, key)) {
            (Some(text), _) => self.problems.report(key, text),
            (None, Some(slot)) => *slot = value,
            // `merged` started as a copy of `known`.
            (None, None) => {}
        }
    }

    /// Merges a list of tables (`[[profiles]]`) over the shipped one.
    fn list(&mut self, origin: &str, key: &str, value: Value) {
        self.origins.insert(key.into(), origin.into());
        let Value::Array(elements) = value else {
            return self.problems.report(key, format!("must be tables, each with the header [[{key}]]"));
        };
        let known = find(&self.known, key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let checked = lists::check(key, elements, known, &mut self.problems);
        for name in &checked.names {
            self.origins.insert(name.clone(), origin.into());
        }
        if let Some(Value::Array(present)) = find_mut(&mut self.merged, key) {
            lists::merge(key, present, checked.elements);
        }
    }

    fn environment(&mut self, variables: &[(String, String)]) {
        // The short names first, so that a `TICKGATE__` variable overrides them.
        for (name, key) in environment::SHORT_NAMES {
            if let Some((_, value)) = variables.iter().find(|(variable, value)| variable == name && !value.is_empty()) {
                self.text(name, key, &environment::short_value(key, value));
            }
        }
        for (name, value) in variables {
            match environment::key_of(name) {
                Some(key) if !value.is_empty() => self.text(name, &key, value),
                // Usually a secret that was not delivered: the gateway must not be open by accident.
                Some(key) if environment::SECRETS.contains(&key.as_str()) => {
                    self.problems.report(name, "is set but empty: set a value or remove it");
                }
                Some(key) if find(&self.known, &key).is_none() => self.unknown(name, &key, name),
                Some(_) => {}
                None => self.stray(name),
            }
        }
    }

    /// Reports a variable that looks like a setting but sets none, such as one with a single underscore.
    fn stray(&mut self, name: &str) {
        let Some(rest) = environment::stray(name) else { return };
        let rest = rest.to_ascii_lowercase();
        let is_of = |section: &String| {
            rest.strip_prefix(section.as_str()).is_some_and(|it| it.is_empty() || it.starts_with('_'))
        };
        if !self.known.keys().any(is_of) {
            return;
        }
        let meant = keys().into_iter().find(|key| key.replace('.', "_") == rest.replace("__", "_"));
        let hint = meant.map_or_else(String::new, |key| format!(", did you mean {}?", environment::name_of(&key)));
        self.problems.report(name, format!("sets nothing{hint}"));
    }

    /// Sets a key from text, as in variables and flags: the type of the default determines how to parse it.
    fn text(&mut self, origin: &str, key: &str, text: &str) {
        if lists::is_list_of_tables(key) {
            return self.problems.report(origin, "can be set only in a file");
        }
        let Some(wanted) = find(&self.known, key) else { return self.unknown(origin, key, origin) };
        let read = match wanted {
            Value::String(_) => Some(Value::String(text.into())),
            Value::Integer(_) => text.trim().parse().ok().map(Value::Integer),
            Value::Boolean(_) => text.trim().parse().ok().map(Value::Boolean),
            Value::Array(_) => Some(Value::Array(parts(text).map(|part| Value::String(part.into())).collect())),
            _ => return self.problems.report(origin, format!("`{key}` is a section: name one of its keys")),
        };
        match read {
            Some(value) => self.set(origin, key, value),
            None => {
                let text = expectation(wanted);
                self.origins.insert(key.into(), origin.into());
                self.problems.report(key, text);
            }
        }
    }

    /// Reports an unknown key, and what was probably meant.
    fn unknown(&mut self, shown: &str, key: &str, origin: &str) {
        let hint = self.meant(key).map_or_else(String::new, |known| {
            let from_environment = origin.starts_with(environment::PREFIX);
            format!(", did you mean {}?", if from_environment { environment::name_of(&known) } else { known })
        });
        self.origins.insert(shown.into(), origin.into());
        self.problems.report(shown, format!("unknown key{hint}"));
    }

    /// The known key with a similar name in the same section, or the same name in another one.
    fn meant(&self, key: &str) -> Option<String> {
        let mut keys = Vec::new();
        collect(&self.known, "", &mut keys);
        let split =
            |key: &str| key.rsplit_once('.').map_or((String::new(), key.to_owned()), |(a, b)| (a.into(), b.into()));
        let (section, name) = split(key);
        let siblings: Vec<String> =
            keys.iter().map(|key| split(key)).filter(|(s, _)| *s == section).map(|(_, n)| n).collect();
        if let Some(sibling) = nearest(&name, siblings.iter().map(String::as_str)) {
            return Some(if section.is_empty() { sibling.into() } else { format!("{section}.{sibling}") });
        }
        keys.into_iter().find(|key| split(key).1 == name)
    }

    /// The merged tables, deserialized.
    pub(super) fn typed(&mut self) -> Option<Raw> {
        match Value::Table(self.merged.clone()).try_into() {
            Ok(raw) => Some(raw),
            Err(error) => {
                self.problems.report("configuration", error.message());
                None
            }
        }
    }
}

/// Every key with its default, in alphabetical order: `server.listen`, `limits.messages_per_user.burst`.
#[must_use]
pub fn keys() -> Vec<String> {
    let known = Layers::defaults().known;
    let mut keys = Vec::new();
    collect(&known, "", &mut keys);
    keys.retain(|key| find(&known, key).is_some_and(|value| !value.is_table()));
    keys
}

fn collect(table: &Table, at: &str, keys: &mut Vec<String>) {
    for (name, value) in table {
        let key = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        if let Value::Table(inner) = value {
            collect(inner, &key, keys);
        }
        keys.push(key);
    }
}

fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((head, rest)) => find(table.get(head)?.as_table()?, rest),
    }
}

fn find_mut<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut Value> {
    match key.split_once('.') {
        None => table.get_mut(key),
        Some((head, rest)) => find_mut(table.get_mut(head)?.as_table_mut()?, rest),
    }
}

fn same_type(wanted: &Value, value: &Value) -> bool {
    match (wanted, value) {
        (Value::Integer(_), Value::Integer(number)) => *number >= 0,
        (Value::Array(_), Value::Array(values)) => values.iter().all(Value::is_str),
        _ => wanted.same_type(value),
    }
}

/// What a key with this default accepts. Shows the default, never the value, which may be a secret.
fn expectation(default: &Value) -> String {
    match default {
        Value::String(text) if text.is_empty() => "must be a string in quotes".into(),
        Value::String(text) => format!("must be a string in quotes, such as \"{text}\""),
        Value::Integer(number) => format!("must be a whole number from 0, such as {number}"),
        Value::Boolean(_) => "must be true or false".into(),
        Value::Table(_) => "is a section".into(),
        _ => "must be a list of strings, such as [\"a\", \"b\"]".into(),
    }
}

/// What an invalid line probably lacks, without its value.
fn hint_for(line: &str) -> Option<String> {
    let (key, value) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim()))?;
    let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    let is_text = !value.starts_with(['"', '\'', '[', '{']) && value.contains(|c: char| !c.is_ascii_digit());
    (is_key && is_text && !value.is_empty()).then(|| format!("; strings require quotes: {key} = \"…\""))
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}
