//! Lists of tables: `[[profiles]]`, `[[topics]]`, `[[auth.public_keys]]`, `[[auth.keys]]`. How entries of a file merge
//! with the shipped ones, and which keys an entry may have. Does not validate values.

use serde::{
    Deserializer,
    de::{self, DeserializeOwned, Visitor, value::Error},
    forward_to_deserialize_any,
};
use toml::Value;

use super::{Problems, raw, value::nearest};

/// Whether the key holds tables, and can therefore be set only in files.
pub(super) fn is_list_of_tables(key: &str) -> bool {
    matches!(key, "profiles" | "topics" | "auth.public_keys" | "auth.keys")
}

/// Valid entries, and their names in messages.
pub(super) struct Checked {
    pub elements: Vec<Value>,
    pub names: Vec<String>,
}

/// Reports unknown, missing and mistyped keys of every entry, and keeps the valid entries. `known`: the shipped
/// entries.
pub(super) fn check(key: &str, elements: Vec<Value>, known: &[Value], problems: &mut Problems) -> Checked {
    let mut checked =
        Checked { elements: Vec::with_capacity(elements.len()), names: Vec::with_capacity(elements.len()) };
    for (at, mut element) in elements.into_iter().enumerate() {
        let title = element.get("name").or_else(|| element.get("pattern")).and_then(Value::as_str);
        let name = title.map_or_else(|| format!("{key}[{at}]"), |title| format!("{key}.{title}"));
        if title.is_some() && checked.names.contains(&name) {
            problems.report(&name, "appears twice");
        }
        if key == "profiles" {
            check_channels(&name, &mut element, problems);
        }
        let sound = match key {
            "profiles" => admit::<raw::RawProfile>(&name, &mut element, problems),
            "topics" => admit::<raw::RawTopic>(&name, &mut element, problems),
            "auth.keys" => admit::<raw::RawKey>(&name, &mut element, problems),
            _ => admit::<raw::RawPublicKey>(&name, &mut element, problems),
        };
        if sound && key == "profiles" && !is_defined(&element, known) {
            let known: Vec<_> = known.iter().filter_map(|profile| profile.get("name")?.as_str()).collect();
            let text = format!("no such profile, and a new one requires a path; there are {}", known.join(", "));
            problems.report(&name, text);
        } else if sound {
            checked.elements.push(element);
        }
        checked.names.push(name);
    }
    checked
}

/// Whether a profile changes a known one or completely defines a new one. Anything else is a misspelled name, which
/// would leave the intended profile unchanged.
fn is_defined(profile: &Value, known: &[Value]) -> bool {
    let name = profile.get("name");
    let has_path = profile.get("path").and_then(Value::as_str).is_some_and(|path| !path.is_empty());
    name.is_none() || has_path || known.iter().any(|known| known.get("name") == name)
}

/// The channels of a profile are tables as well; only valid ones are kept.
fn check_channels(profile: &str, element: &mut Value, problems: &mut Problems) {
    let Some(Value::Array(channels)) = element.get_mut("channels") else { return };
    let mut at = 0;
    channels.retain_mut(|channel| {
        at += 1;
        admit::<raw::RawChannel>(&format!("{profile}.channels[{}]", at - 1), channel, problems)
    });
}

/// Removes and reports the unknown keys of an entry, then checks the types of the known ones.
fn admit<T: DeserializeOwned>(name: &str, element: &mut Value, problems: &mut Problems) -> bool {
    let Value::Table(table) = element else {
        problems.report(name, "must be a table");
        return false;
    };
    let fields = fields_of::<T>();
    let unknown: Vec<String> = table.keys().filter(|key| !fields.contains(&key.as_str())).cloned().collect();
    for key in unknown {
        table.remove(&key);
        let hint =
            nearest(&key, fields.iter().copied()).map_or_else(String::new, |key| format!(", did you mean {key}?"));
        problems.report(format!("{name}.{key}"), format!("unknown key{hint}"));
    }
    let negative = table.iter().filter(|(_, value)| value.as_integer().is_some_and(|number| number < 0));
    let negative: Vec<_> = negative.map(|(key, _)| format!("{name}.{key}")).collect();
    for key in &negative {
        problems.report(key, "must be a whole number from 0");
    }
    if !negative.is_empty() {
        return false;
    }
    match element.clone().try_into::<T>() {
        Ok(_) => true,
        Err(error) => {
            problems.report(name, error.message().trim_end());
            false
        }
    }
}

/// Merges the entries of a file with the existing ones. Profiles replace those with the same name, topics come first
/// (except `*`, which replaces the shipped one and stays last), other lists are replaced.
pub(super) fn merge(key: &str, present: &mut Vec<Value>, mut added: Vec<Value>) {
    match key {
        "profiles" => {
            for profile in added {
                match present.iter_mut().find(|other| other.get("name") == profile.get("name")) {
                    Some(slot) => *slot = profile,
                    None => present.push(profile),
                }
            }
        }
        "topics" => {
            present.retain(|rule| !added.iter().any(|other| other.get("pattern") == rule.get("pattern")));
            added.append(present);
            // A stable sort: only the rule for everything moves to the end.
            added.sort_by_key(|rule| rule.get("pattern").and_then(Value::as_str) == Some("*"));
            *present = added;
        }
        _ => *present = added,
    }
}

/// The keys that a table of type `T` may have, taken from the type itself.
pub(super) fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // Always returns an error: it only collects the names that the type requests.
    let _ = T::deserialize(FieldNames(&mut fields));
    fields
}

struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(de::Error::custom("names only"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("names only"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use toml::Table;

    use super::*;

    fn entries(key: &str, text: &str) -> Vec<Value> {
        let table: Table = toml::from_str(text).unwrap();
        table[key].as_array().unwrap().clone()
    }

    fn names(list: &[Value], key: &str) -> Vec<String> {
        list.iter().map(|entry| entry[key].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn profiles_replace_their_namesake_and_others_are_added() {
        let mut present = entries("profiles", "profiles = [{name='a', path='/a'}, {name='b', path='/b'}]");
        merge(
            "profiles",
            &mut present,
            entries("profiles", "profiles = [{name='c', path='/c'}, {name='a', path='/x'}]"),
        );
        assert_eq!(names(&present, "name"), ["a", "b", "c"]);
        assert_eq!(names(&present, "path"), ["/x", "/b", "/c"]);
    }

    #[test]
    fn own_topics_come_first_and_the_catch_all_rule_stays_last() {
        let mut present = entries("topics", "topics = [{pattern='a'}, {pattern='b'}, {pattern='*', class='event'}]");
        let added = entries("topics", "topics = [{pattern='*', class='state'}, {pattern='x'}, {pattern='b'}]");
        merge("topics", &mut present, added);
        assert_eq!(names(&present, "pattern"), ["x", "b", "a", "*"]);
        assert_eq!(present[3]["class"].as_str(), Some("state"));
    }

    #[test]
    fn every_error_of_every_entry_is_reported() {
        let mut problems = Problems::default();
        let text = "profiles = [{name='a', pth='/a', colour=1, channels=[{nam='x'}]}, {path='/b'}, {name='c', path=1}]";
        let checked = check(
            "profiles",
            entries("profiles", text),
            &entries("profiles", "profiles = [{name='a'}]"),
            &mut problems,
        );
        assert_eq!(names(&checked.elements, "name"), ["a"]);
        let reported: Vec<String> =
            problems.iter().map(|problem| format!("{}: {}", problem.key, problem.text)).collect();
        assert_eq!(
            reported,
            [
                "profiles.a.channels[0].nam: unknown key, did you mean name?",
                "profiles.a.channels[0]: missing field `name`",
                "profiles.a.colour: unknown key",
                "profiles.a.pth: unknown key, did you mean path?",
                "profiles[1]: missing field `name`",
                "profiles.c: invalid type: integer `1`, expected a string",
            ]
        );
    }
}
