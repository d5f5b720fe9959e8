//! What is printed: messages on standard output, notices on standard error.

use super::frame::Frame;
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
    pub(super) fn message(&mut self, text: &str, frame: &Frame<'_>) -> Result<bool, Failure> {
        if self.json {
            print(text)?;
        } else if let Some(line) = line(text, frame) {
            print(&line)?;
        } else if let Some(notice) = notice(text, frame) {
            eprintln!("{notice}");
        }
        if frame.meta.is_some() {
            self.left = self.left.map(|left| left.saturating_sub(1));
        }
        Ok(self.left == Some(0))
    }
}

/// A publication, for people: channel, id, what applies, and the publisher's object.
fn line(text: &str, frame: &Frame<'_>) -> Option<String> {
    let meta = frame.meta.as_ref()?;
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
    Some(format!("{line} {}", without_meta(text)))
}

/// The publisher's object. The gateway puts its key last, so the text before it is the publisher's own.
fn without_meta(text: &str) -> String {
    match text.rfind("\"_meta\":") {
        Some(at) => format!("{}}}", text[..at].trim_end_matches(',')),
        None => text.into(),
    }
}

/// Everything else that people should know.
fn notice(text: &str, frame: &Frame<'_>) -> Option<String> {
    match frame.kind() {
        "heartbeat" | "pong" => None,
        "connection_established" => Some("connected".into()),
        "subscribed" => {
            let names: Vec<_> = frame.subscribed().iter().map(|channel| channel.channel.as_str()).collect();
            let refused = frame.refusals();
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

    #[test]
    fn people_see_the_publishers_object_as_it_was_written() {
        let text = r#"{"price": "1.10","_meta":{"channel":"ticker:A","id":"1-2","conflated":3,"snapshot":true}}"#;
        let shown = line(text, &Frame::read(text)).unwrap();
        assert_eq!(shown, r#"ticker:A 1-2 snapshot conflated=3 {"price": "1.10"}"#);
        let empty = r#"{"_meta":{"channel":"a"}}"#;
        assert_eq!(line(empty, &Frame::read(empty)).unwrap(), "a {}");
    }

    #[test]
    fn only_publications_are_counted() {
        let mut show = Show::new(true, Some(1));
        let heartbeat = r#"{"type":"heartbeat"}"#;
        assert_eq!(show.message(heartbeat, &Frame::read(heartbeat)), Ok(false));
        let push = r#"{"_meta":{"channel":"a"}}"#;
        assert_eq!(show.message(push, &Frame::read(push)), Ok(true));
    }

    #[test]
    fn gaps_are_told_to_people() {
        let gap = r#"{"type":"gap","channel":"a","after":"1-1","before":"1-4","count":2,"reason":"retention"}"#;
        assert_eq!(notice(gap, &Frame::read(gap)).as_deref(), Some(gap));
        assert_eq!(notice("", &Frame::read(r#"{"type":"heartbeat"}"#)), None);
    }
}
