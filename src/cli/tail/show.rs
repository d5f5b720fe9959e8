//! What is printed: messages on standard output, notices on standard error, or everything as JSON.

use serde_json::{Value, json};
use tickgate_client::{ClientState, Event, ReceivedMessage};

use crate::cli::{CommandFailure, print};

/// Prints events, and counts messages.
#[derive(Debug)]
pub(super) struct EventPrinter {
    json: bool,
    left: Option<u64>,
}

impl EventPrinter {
    /// `count`: how many messages to print.
    pub(super) fn new(json: bool, count: Option<u64>) -> Self {
        Self { json, left: count }
    }

    /// Prints an event; returns whether it was the last requested message.
    pub(super) fn event(&mut self, event: &Event) -> Result<bool, CommandFailure> {
        match event {
            Event::Message(message) if self.json => print(&message.text)?,
            Event::Message(message) => print(&line(message))?,
            event if self.json => notice_json(event).map_or(Ok(()), |notice| print(&notice.to_string()))?,
            event => notice(event).iter().for_each(|notice| eprintln!("{notice}")),
        }
        if matches!(event, Event::Message(_)) {
            self.left = self.left.map(|left| left.saturating_sub(1));
        }
        Ok(self.left == Some(0))
    }
}

/// A publication, for people: channel, id, flags, and the publisher's object.
fn line(message: &ReceivedMessage) -> String {
    let meta = &message.meta;
    let mut line = meta.channel.clone();
    if let Some(id) = &meta.id {
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
    format!("{line} {}", message.payload())
}

/// All other events that people should see.
fn notice(event: &Event) -> Option<String> {
    Some(match event {
        Event::Connected { .. } => "connected".into(),
        Event::Subscribed { channel, .. } => format!("subscribed {channel}"),
        Event::Refused { channel, error } => format!("refused {channel}: {error}"),
        Event::State(ClientState::Waiting { wait, error }) => {
            format!("{error}; retrying in {:.1} s", wait.as_secs_f64())
        }
        Event::State(ClientState::Stale) => "nothing received for a heartbeat interval".into(),
        // Rare, and every field matters.
        Event::Gap(_) | Event::CaughtUp { complete: false, .. } => notice_json(event)?.to_string(),
        Event::Unknown { kind } => format!("unknown notice {kind:?}"),
        _ => return None,
    })
}

/// An event other than a message, for programs.
fn notice_json(event: &Event) -> Option<Value> {
    Some(match event {
        Event::Gap(gap) => json!({
            "type": "gap", "channels": gap.channels, "after": gap.after, "before": gap.before, "count": gap.count,
            "reason": gap.reason, "cursor": gap.cursor,
        }),
        Event::Connected { user, .. } => json!({ "type": "connected", "user": user }),
        Event::Subscribed { channel, class, live } => {
            json!({ "type": "subscribed", "channel": channel, "class": class, "live": live })
        }
        Event::CaughtUp { channel, replayed, complete } => {
            json!({ "type": "caught_up", "channel": channel, "replayed": replayed, "complete": complete })
        }
        Event::Refused { channel, error } => json!({
            "type": "refused", "channel": channel, "code": error.code, "error": error.error, "message": error.message,
        }),
        Event::State(ClientState::Waiting { wait, error }) => json!({
            "type": "state", "state": "waiting", "wait_ms": wait.as_millis() as u64, "error": error.to_string(),
            "code": error.code(),
        }),
        Event::State(state) => json!({ "type": "state", "state": state.name() }),
        Event::Unknown { kind } => json!({ "type": "unknown", "kind": kind }),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use tickgate_client::{Gap, MessageMeta};

    use super::*;

    fn message(meta: Value, text: &str) -> Event {
        let meta: MessageMeta = serde_json::from_value(meta).unwrap();
        Event::Message(ReceivedMessage { meta, text: text.into() })
    }

    #[test]
    fn the_publishers_object_is_shown_as_written() {
        let text = r#"{"price": "1.10","_meta":{"channel":"ticker:A","id":"1-2","conflated":3,"snapshot":true}}"#;
        let meta = json!({ "channel": "ticker:A", "id": "1-2", "conflated": 3, "snapshot": true });
        let Event::Message(message) = message(meta, text) else { panic!("a message") };
        assert_eq!(line(&message), r#"ticker:A 1-2 snapshot conflated=3 {"price": "1.10"}"#);
    }

    #[test]
    fn only_publications_are_counted() {
        let mut show = EventPrinter::new(true, Some(1));
        assert_eq!(show.event(&Event::State(ClientState::Live)), Ok(false));
        let push = message(json!({ "channel": "a" }), r#"{"_meta":{"channel":"a"}}"#);
        assert_eq!(show.event(&push), Ok(true));
    }

    #[test]
    fn gaps_are_reported_to_people() {
        let gap = r#"{"after":"1-1","before":"1-4","channels":["a"],"count":2,"cursor":"1-3","reason":"retention","type":"gap"}"#;
        let event = Event::Gap(serde_json::from_str::<Gap>(gap).unwrap());
        assert_eq!(notice(&event).as_deref(), Some(gap));
        assert_eq!(notice(&Event::State(ClientState::Live)), None);
    }
}
