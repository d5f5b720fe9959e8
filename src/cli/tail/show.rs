//! What is printed: messages on standard output, notices on standard error.

use tickgate_client::implicit::{Message, Meta};

use crate::cli::{Failure, print};

/// Prints messages, and counts them.
#[derive(Debug)]
pub(super) struct Show {
    json: bool,
    left: Option<u64>,
}

impl Show {
    /// `count`: how many messages to print.
    pub(super) fn new(json: bool, count: Option<u64>) -> Self {
        Self { json, left: count }
    }

    /// Prints one; whether it was the last one asked for.
    pub(super) fn message(&mut self, text: &str, message: &Message) -> Result<bool, Failure> {
        match message {
            _ if self.json => print(text)?,
            Message::Publication(meta) => print(&line(text, meta))?,
            message => notice(text, message).iter().for_each(|notice| eprintln!("{notice}")),
        }
        if matches!(message, Message::Publication(_)) {
            self.left = self.left.map(|left| left.saturating_sub(1));
        }
        Ok(self.left == Some(0))
    }
}

/// A publication, for people: channel, id, what applies, and the publisher's object.
fn line(text: &str, meta: &Meta) -> String {
    let mut line = meta.channel.clone();
    if let Some(id) = meta.id {
        line.push_str(&format!(" {id}"));
    }
    if meta.replayed {
        line.push_str(" replayed");
    }
    if meta.snapshot {
        line.push_str(" snapshot");
    }
    if meta.conflated > 0 {
        line.push_str(&format!(" conflated={}", meta.conflated));
    }
    format!("{line} {}", without_meta(text))
}

/// The publisher's object. The gateway puts its key last, so the text before it is the publisher's own.
fn without_meta(text: &str) -> String {
    match text.rfind("\"_meta\":") {
        Some(at) => format!("{}}}", text[..at].trim_end_matches(',')),
        None => text.into(),
    }
}

/// Everything else that people should know.
fn notice(text: &str, message: &Message) -> Option<String> {
    match message {
        Message::Heartbeat(_) | Message::Pong | Message::CaughtUp(_) => None,
        Message::Welcome => Some("connected".into()),
        Message::Subscribed(subscribed) => {
            let names: Vec<_> = subscribed.channels.iter().map(|channel| channel.channel.as_str()).collect();
            let refused = subscribed.refusals();
            let refused = if refused.is_empty() { refused } else { format!(", refused {refused}") };
            Some(format!("subscribed {}{refused}", names.join(" ")))
        }
        // Gaps, errors, hints: rare, and all of it matters.
        _ => Some(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How it is shown to people, where it is.
    fn shown(text: &str) -> Option<String> {
        match Message::read(text) {
            Message::Publication(meta) => Some(line(text, &meta)),
            message => notice(text, &message),
        }
    }

    #[test]
    fn people_see_the_publishers_object_as_it_was_written() {
        let text = r#"{"price": "1.10","_meta":{"channel":"ticker:A","id":"1-2","conflated":3,"snapshot":true}}"#;
        assert_eq!(shown(text).unwrap(), r#"ticker:A 1-2 snapshot conflated=3 {"price": "1.10"}"#);
        assert_eq!(shown(r#"{"_meta":{"channel":"a"}}"#).unwrap(), "a {}");
    }

    #[test]
    fn only_publications_are_counted() {
        let mut show = Show::new(true, Some(1));
        let heartbeat = r#"{"type":"heartbeat"}"#;
        assert_eq!(show.message(heartbeat, &Message::read(heartbeat)), Ok(false));
        let push = r#"{"_meta":{"channel":"a"}}"#;
        assert_eq!(show.message(push, &Message::read(push)), Ok(true));
    }

    #[test]
    fn gaps_are_told_to_people() {
        let gap = r#"{"type":"gap","channels":["a"],"after":"1-1","before":"1-4","count":2,"reason":"retention","cursor":"1-3"}"#;
        assert_eq!(shown(gap).as_deref(), Some(gap));
        assert_eq!(shown(r#"{"type":"heartbeat"}"#), None);
    }
}
