//! Which channels are followed, and the position to continue from of each. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};
use tickgate_wire::model::StreamId;

use crate::message::{CaughtUp, Message, Subscribed};

/// The cursor of every channel that was asked for or heard of.
#[derive(Clone, Debug, Default)]
pub struct Cursors {
    channels: BTreeMap<String, Option<StreamId>>,
    /// The stream of each channel that shares one.
    streams: HashMap<String, String>,
    /// Channels whose past is being sent: they move by what is sent of themselves only.
    replaying: HashSet<String>,
}

impl Cursors {
    /// These channels, all of them from `since` on; from now on with `None`. Without channels the endpoint subscribes
    /// its own.
    pub fn new<C: Into<String>>(channels: impl IntoIterator<Item = C>, since: Option<StreamId>) -> Self {
        let channels = channels.into_iter().map(|channel| (channel.into(), since)).collect();
        Self { channels, ..Self::default() }
    }

    /// The command that subscribes all of them, each from where it stands; `None` when there is none. `last`: how many
    /// messages of the past to begin with where there is no position.
    #[must_use]
    pub fn subscribe(&self, last: Option<u32>) -> Option<String> {
        if self.channels.is_empty() {
            return None;
        }
        let element = |(channel, cursor): (&String, &Option<StreamId>)| match (cursor, last) {
            (Some(cursor), _) => json!({ "channel": channel, "since": cursor }),
            (None, Some(last)) => json!({ "channel": channel, "last": last }),
            (None, None) => json!(channel),
        };
        let elements: Vec<Value> = self.channels.iter().map(element).collect();
        Some(json!({ "type": "subscribe", "channels": elements }).to_string())
    }

    /// Takes note of a message.
    pub fn take(&mut self, message: &Message) {
        match message {
            Message::Publication(meta) => self.advance(&meta.channel, meta.id),
            Message::Subscribed(subscribed) => self.subscribed(subscribed),
            Message::CaughtUp(caught_up) => self.caught_up(caught_up),
            Message::Gap(gap) => gap.channels.iter().for_each(|channel| self.advance(channel, gap.cursor)),
            Message::Heartbeat(heartbeat) => {
                heartbeat.cursors.iter().for_each(|(stream, cursor)| self.advance_stream(stream, *cursor));
            }
            _ => {}
        }
    }

    fn subscribed(&mut self, subscribed: &Subscribed) {
        for channel in &subscribed.channels {
            if let Some(stream) = &channel.stream {
                self.streams.insert(channel.channel.clone(), stream.clone());
            }
            if channel.live {
                self.replaying.remove(&channel.channel);
            } else {
                self.replaying.insert(channel.channel.clone());
            }
            self.store(&channel.channel, channel.cursor);
        }
    }

    fn caught_up(&mut self, caught_up: &CaughtUp) {
        for channel in &caught_up.channels {
            self.replaying.remove(&channel.channel);
            self.advance(&channel.channel, channel.cursor);
        }
    }

    /// A position of the channel, and of all that share its stream, once their past has been sent.
    fn advance(&mut self, channel: &str, id: Option<StreamId>) {
        let Some(id) = id else { return };
        self.store(channel, Some(id));
        if let Some(stream) = self.streams.get(channel).filter(|_| !self.replaying.contains(channel)).cloned() {
            self.advance_stream(&stream, id);
        }
    }

    fn advance_stream(&mut self, stream: &str, id: StreamId) {
        let shares = |channel: &String| match self.streams.get(channel) {
            Some(own) => own == stream,
            None => channel == stream,
        };
        let others = self.channels.keys().filter(|channel| shares(channel) && !self.replaying.contains(*channel));
        others.cloned().collect::<Vec<_>>().iter().for_each(|channel| self.store(channel, Some(id)));
    }

    /// The server's last word counts. Positions without an id are none.
    fn store(&mut self, channel: &str, id: Option<StreamId>) {
        match self.channels.get_mut(channel) {
            Some(cursor) => *cursor = id.or(*cursor),
            None => {
                self.channels.insert(channel.into(), id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(channels: &[&str], texts: &[&str]) -> Value {
        let mut cursors = Cursors::new(channels.iter().copied(), None);
        texts.iter().for_each(|text| cursors.take(&Message::read(text)));
        serde_json::from_str::<Value>(&cursors.subscribe(None).unwrap()).unwrap()["channels"].take()
    }

    fn push(channel: &str, id: &str) -> String {
        format!(r#"{{"x":1,"_meta":{{"channel":"{channel}","id":"{id}"}}}}"#)
    }

    #[test]
    fn it_continues_after_the_last_position_that_the_server_named() {
        assert_eq!(after(&["a"], &[]), json!(["a"]));
        let answer = r#"{"type":"subscribed","channels":[{"channel":"a","cursor":"1-3","live":false}]}"#;
        assert_eq!(after(&["a"], &[answer]), json!([{"channel":"a","since":"1-3"}]));
        assert_eq!(after(&["a"], &[answer, &push("a", "1-4")]), json!([{"channel":"a","since":"1-4"}]));
        let gap = r#"{"type":"gap","channels":["a"],"after":"1-4","before":"1-9","cursor":"1-8"}"#;
        assert_eq!(after(&["a"], &[answer, gap]), json!([{"channel":"a","since":"1-8"}]));
    }

    #[test]
    fn channels_of_one_stream_move_together_once_their_past_was_sent() {
        let answer = r#"{"type":"subscribed","channels":[{"channel":"a","stream":"@","cursor":"1-1","live":false},
            {"channel":"b","stream":"@","cursor":"1-2","live":true}]}"#;
        let both = |a: &str, b: &str| json!([{"channel":"a","since":a},{"channel":"b","since":b}]);
        assert_eq!(after(&["a", "b"], &[answer, &push("a", "1-4")]), both("1-4", "1-2"));
        assert_eq!(after(&["a", "b"], &[answer, &push("b", "1-5")]), both("1-1", "1-5"));
        let end = r#"{"type":"caught_up","channels":[{"channel":"a","cursor":"1-6","replayed":1,"complete":true}]}"#;
        assert_eq!(after(&["a", "b"], &[answer, end]), both("1-6", "1-6"));
        let heartbeat = r#"{"type":"heartbeat","cursors":{"@":"1-9"}}"#;
        assert_eq!(after(&["a", "b"], &[answer, end, heartbeat]), both("1-9", "1-9"));
        assert_eq!(after(&["a", "b"], &[answer, heartbeat]), both("1-1", "1-9"));
    }

    #[test]
    fn channels_heard_of_are_followed() {
        assert_eq!(after(&["a"], &[&push("b", "7-0")]), json!(["a", {"channel":"b","since":"7-0"}]));
    }

    #[test]
    fn an_endpoint_that_subscribes_by_itself_is_left_to_it() {
        assert_eq!(Cursors::new([""; 0], None).subscribe(Some(5)), None);
    }
}
