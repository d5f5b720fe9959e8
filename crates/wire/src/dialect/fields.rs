//! Typed access to the fields of one incoming JSON object, for every dialect that uses JSON. Never echoes a value: it
//! may be a secret.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::{
    code::ErrorCode,
    command::{ChannelRequest, InvalidElement, ListedName, MessageLimits, Since, SubscribeOptions, ignored},
    json::{JsonError, kind_of, scan_object},
    model::{InvalidName, check_name},
};

/// What is wrong with a field, or with the whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) code: ErrorCode,
    /// The field, if the error is about one: `channels`, `channels[2]`.
    pub(super) field: Option<String>,
    pub(super) message: String,
}

impl Wrong {
    pub(super) fn field(field: impl Into<String>, message: String) -> Self {
        Self { code: ErrorCode::InvalidMessage, field: Some(field.into()), message }
    }

    pub(super) fn message(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::InvalidMessage, field: None, message: message.into() }
    }
}

impl From<JsonError> for Wrong {
    fn from(error: JsonError) -> Self {
        Self::message(error.to_string())
    }
}

/// Keys, unescaped, with their values as written.
#[derive(Debug, Default)]
pub(super) struct ObjectFields<'a> {
    list: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'a> ObjectFields<'a> {
    /// Reads an object. The fields before an error are available too, so that an `id` among them can be echoed.
    pub(super) fn read(text: &'a str, depth_max: usize) -> (Self, Result<(), JsonError>) {
        let mut list = Vec::with_capacity(8);
        let result = scan_object(text, depth_max, |key, value| list.push((key, value)));
        (Self { list }, result)
    }

    /// The value as written. `null` counts as absent: many clients write it for absent values.
    pub(super) fn raw(&self, name: &str) -> Option<&'a str> {
        self.list.iter().find(|(key, _)| key == name).map(|(_, value)| *value).filter(|value| *value != "null")
    }

    pub(super) fn string(&self, name: &str, what: &str) -> Result<Option<Cow<'a, str>>, Wrong> {
        self.raw(name).map(|raw| unquote(raw).ok_or_else(|| wrong_kind(name, what, raw))).transpose()
    }

    pub(super) fn needed_string(&self, name: &str, what: &str) -> Result<Cow<'a, str>, Wrong> {
        self.string(name, what)?.ok_or_else(|| missing(name, what))
    }

    pub(super) fn needed(&self, name: &str, what: &str) -> Result<&'a str, Wrong> {
        self.raw(name).ok_or_else(|| missing(name, what))
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, Wrong> {
        match self.raw(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(raw) => Err(wrong_kind(name, "true or false", raw)),
        }
    }

    pub(super) fn whole(&self, name: &str) -> Result<Option<u32>, Wrong> {
        let parse = |raw: &str| {
            raw.parse().map_err(|_| {
                let kind = if kind_of(raw) == "a number" { "another number" } else { kind_of(raw) };
                Wrong::field(name, format!("`{name}` must be a whole number from 0 to {}, not {kind}", u32::MAX))
            })
        };
        self.raw(name).map(parse).transpose()
    }

    /// As [`ObjectFields::whole`], but not 0.
    pub(super) fn counted(&self, name: &str) -> Result<Option<u32>, Wrong> {
        match self.whole(name)? {
            Some(0) => Err(Wrong::field(name, format!("`{name}` must be at least 1"))),
            count => Ok(count),
        }
    }

    /// A string or a number of at most 64 characters, as written.
    pub(super) fn scalar(&self, name: &str) -> Result<Option<&'a str>, Wrong> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let (kind, quotes) = (kind_of(raw), if raw.starts_with('"') { 2 } else { 0 });
        if !matches!(kind, "a string" | "a number") {
            return Err(wrong_kind(name, "a string or a number", raw));
        }
        if raw.chars().count() > SCALAR_CHARS_MAX + quotes {
            return Err(Wrong::field(name, format!("`{name}` has more than {SCALAR_CHARS_MAX} characters")));
        }
        Ok(Some(raw))
    }

    pub(super) fn since(&self, name: &str) -> Result<Option<Since>, Wrong> {
        self.raw(name).map(|raw| since(name, raw)).transpose()
    }

    /// The names that are not `known`, bounded in number and length. `null` counts as absent here too.
    pub(super) fn unknown(&self, known: &[&str]) -> Vec<String> {
        let others = self.list.iter().filter(|(name, value)| *value != "null" && !known.contains(&&**name));
        ignored(others.map(|(name, _)| &**name))
    }

    /// A list of names, such as channels or symbols, within the limit for one message.
    pub(super) fn names(&self, field: &'static str, limits: &MessageLimits) -> Result<Vec<ListedName>, Wrong> {
        let items = self.items(field, NAMES, limits)?;
        Ok(items.iter().enumerate().map(|(index, item)| listed(field, index, item.get())).collect())
    }

    fn items(&self, field: &'static str, what: &str, limits: &MessageLimits) -> Result<Vec<&'a RawValue>, Wrong> {
        let raw = self.raw(field).ok_or_else(|| missing(field, NAMES))?;
        let items: Vec<&RawValue> = serde_json::from_str(raw).map_err(|_| wrong_kind(field, what, raw))?;
        check_count(field, items.len(), limits)?;
        Ok(items)
    }

    /// Options of a subscribe are allowed in one place only. Elsewhere they would be silently ignored.
    pub(super) fn no_options(&self, right: &str) -> Result<(), Wrong> {
        match OPTIONS.into_iter().find(|name| self.raw(name).is_some()) {
            Some(name) => Err(Wrong::field(name, format!("`{name}` {right}"))),
            None => Ok(()),
        }
    }

    /// The `channels` of a subscribe: names, or objects with options.
    pub(super) fn elements(&self, limits: &MessageLimits) -> Result<Vec<ChannelRequest>, Wrong> {
        let items = self.items(CHANNELS, "an array of names, or of objects with `channel` and options", limits)?;
        Ok(items.iter().enumerate().map(|(index, item)| element(index, item.get(), limits)).collect())
    }
}

const CHANNELS: &str = "channels";
const CHANNEL: &str = "the name of a channel";

/// Names of options that are allowed only in elements of a subscribe.
const OPTIONS: [&str; 4] = ["since", "last", "max_rate", "snapshot"];

/// One name of a list.
fn listed(field: &str, index: usize, raw: &str) -> ListedName {
    let place = || format!("{field}[{index}]");
    let (name, checked) = name(raw, place, "a string");
    ListedName { name, index, fault: checked.err().map(|wrong| wrong.message) }
}

/// The text of a name, empty if it is not text, and whether it is valid.
fn name(raw: &str, place: impl Fn() -> String, what: &str) -> (String, Result<(), Wrong>) {
    match unquote(raw) {
        Some(name) => {
            let checked = check_name(&name).map_err(|error| not_a_name(place(), error));
            (name.into_owned(), checked)
        }
        None => (String::new(), Err(wrong_kind(&place(), what, raw))),
    }
}

fn element(index: usize, raw: &str, limits: &MessageLimits) -> ChannelRequest {
    let place = || format!("{CHANNELS}[{index}]");
    let (channel, options) = if raw.starts_with('{') {
        let (fields, _) = ObjectFields::read(raw, limits.depth_max);
        let within = || format!("{}.channel", place());
        let (channel, checked) = match fields.raw("channel") {
            Some(raw) => name(raw, within, CHANNEL),
            None => (String::new(), Err(missing(&within(), CHANNEL))),
        };
        let options = || {
            options(&fields).map_err(|wrong| {
                let field = wrong.field.as_ref().map(|field| format!("{}.{field}", place()));
                Wrong { field, ..wrong }
            })
        };
        (channel, checked.and_then(|()| options()))
    } else {
        let (channel, checked) = name(raw, place, "a name, or an object with `channel`");
        (channel, checked.map(|()| SubscribeOptions::default()))
    };
    let options =
        options.map_err(|Wrong { field, message, .. }| InvalidElement { field: field.unwrap_or_else(place), message });
    ChannelRequest { channel, list: CHANNELS, index, options }
}

fn options(fields: &ObjectFields<'_>) -> Result<SubscribeOptions, Wrong> {
    let mut known = vec!["channel"];
    known.extend(OPTIONS);
    if let Some(unknown) = fields.unknown(&known).pop() {
        let message = format!("`{unknown}` is not an option here; options are {}", OPTIONS.join(", "));
        return Err(Wrong::field(unknown, message));
    }
    let options = SubscribeOptions {
        since: fields.since("since")?,
        last: fields.counted("last")?,
        max_rate: fields.counted("max_rate")?,
        snapshot: fields.boolean("snapshot")?,
    };
    if options.since.is_some() && options.last.is_some() {
        return Err(Wrong::field("last", "`last` and `since` exclude each other".to_owned()));
    }
    Ok(options)
}

fn check_count(field: &str, count: usize, limits: &MessageLimits) -> Result<(), Wrong> {
    if count <= limits.channels_max {
        return Ok(());
    }
    let message = format!("`{field}` has {count} names; a message can have at most {}", limits.channels_max);
    Err(Wrong { code: ErrorCode::TooManySubscriptions, ..Wrong::field(field, message) })
}

/// A field does not hold a valid name.
pub(super) fn not_a_name(field: impl Into<String>, error: InvalidName) -> Wrong {
    let field = field.into();
    let message = format!("`{field}` is {error}");
    Wrong::field(field, message)
}

const NAMES: &str = "an array of names";

/// Maximum length of an echoed `id` or `timestamp`.
const SCALAR_CHARS_MAX: usize = 64;

/// Parses a position from its JSON text.
fn since(field: &str, raw: &str) -> Result<Since, Wrong> {
    let text = unquote(raw).ok_or_else(|| wrong_kind(field, "a cursor in quotes, or \"earliest\"", raw))?;
    text.parse().map_err(|_| Wrong::field(field, format!("`{field}` is not a cursor of this server")))
}

/// The text of a JSON string; `None` for any other value. `raw` was scanned before.
pub(super) fn unquote(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

pub(super) fn missing(field: &str, what: &str) -> Wrong {
    Wrong::field(field, format!("`{field}` is missing: {what}"))
}

pub(super) fn wrong_kind(field: &str, what: &str, raw: &str) -> Wrong {
    Wrong::field(field, format!("`{field}` must be {what}, not {}", kind_of(raw)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_field_and_null_are_the_same() {
        let (fields, result) = ObjectFields::read(r#"{"a":null,"b":"x"}"#, 32);
        assert_eq!(result, Ok(()));
        assert_eq!((fields.raw("a"), fields.raw("b"), fields.raw("c")), (None, Some("\"x\""), None));
    }

    #[test]
    fn strings_are_unescaped() {
        assert_eq!(unquote(r#""a\u0062\n""#).unwrap(), "ab\n");
        assert_eq!(unquote(r#""""#).unwrap(), "");
        assert!(unquote("1").is_none());
    }

    #[test]
    fn values_are_not_echoed() {
        let (fields, _) = ObjectFields::read(r#"{"a":["secret"],"b":"secret","c":-5}"#, 32);
        let faults = [
            fields.string("a", "a string").unwrap_err(),
            fields.whole("b").unwrap_err(),
            fields.whole("c").unwrap_err(),
            fields.boolean("b").unwrap_err(),
            fields.since("b").unwrap_err(),
            fields.scalar("a").unwrap_err(),
        ];
        for fault in faults {
            assert!(!fault.message.contains("secret"), "{}", fault.message);
        }
    }
}
