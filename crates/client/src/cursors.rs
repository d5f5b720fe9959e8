//! Which channels are followed, and the last position seen of each. Pure.

use std::collections::BTreeMap;

use serde_json::json;
use tickgate_wire::model::StreamId;

use crate::message::{Gap, Message, Subscribed};

/// The cursor of every channel that was asked for or heard of.
#[derive(Clone, Debug, Default)]
pub struct Cursors(BTreeMap<String, Option<StreamId>>);

impl Cursors {
    /// These channels, all of them from `since` on; from now on with `None`. Without channels the endpoint subscribes
    /// its own.
    pub fn new<C: Into<String>>(channels: impl IntoIterator<Item = C>, since: Option<StreamId>) -> Self {
        Self(channels.into_iter().map(|channel| (channel.into(), since)).collect())
    }

    /// The command that subscribes all of them, each from where it stands; `None` when there is none. `last`: how many
    /// messages of the past to begin with where there is no position.
    #[must_use]
    pub fn subscribe(&self, last: Option<u32>) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let mut command = json!({ "type": "subscribe", "channels": self.0.keys().collect::<Vec<_>>() });
        let since: BTreeMap<_, _> = self.0.iter().filter_map(|(channel, id)| Some((channel, (*id)?))).collect();
        if !since.is_empty() {
            command["since"] = json!(since);
        }
        if let Some(last) = last {
            command["last"] = last.into();
        }
        Some(command.to_string())
    }

    /// Takes note of a message.
    pub fn take(&mut self, message: &Message) {
        match message {
            Message::Publication(meta) => self.advance(&meta.channel, meta.id),
            Message::Subscribed(subscribed) => self.subscribed(subscribed),
            Message::Gap(gap) => self.gap(gap),
            _ => {}
        }
    }

    /// Where nothing of the past follows, the subscription begins at its cursor. Where something follows, the cursor is
    /// ahead of what is here until that was read.
    fn subscribed(&mut self, subscribed: &Subscribed) {
        for channel in subscribed.channels.iter().filter(|channel| channel.replayed == 0) {
            self.advance(&channel.channel, channel.cursor);
        }
    }

    /// What is missing will not come again: continue in front of what is there.
    fn gap(&mut self, gap: &Gap) {
        if let Some(before) = gap.before.filter(|before| before.seq > 0) {
            self.advance(&gap.channel, Some(StreamId::new(before.epoch, before.seq - 1)));
        }
    }

    /// Forwards only: what is replayed lies behind nothing that was seen.
    fn advance(&mut self, channel: &str, id: Option<StreamId>) {
        match self.0.get_mut(channel) {
            Some(cursor) => *cursor = (*cursor).max(id),
            None => {
                self.0.insert(channel.into(), id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(texts: &[&str]) -> serde_json::Value {
        let mut cursors = Cursors::new(["a"], None);
        texts.iter().for_each(|text| cursors.take(&Message::read(text)));
        serde_json::from_str(&cursors.subscribe(None).unwrap()).unwrap()
    }

    #[test]
    fn it_continues_after_the_last_id_it_has_seen() {
        assert_eq!(after(&[]), json!({"type":"subscribe","channels":["a"]}));
        let push = |id: &str| format!(r#"{{"x":1,"_meta":{{"channel":"a","id":"{id}"}}}}"#);
        let command = after(&[&push("1-4"), &push("1-5"), &push("1-3")]);
        assert_eq!(command["since"], json!({"a":"1-5"}));
    }

    #[test]
    fn an_answer_counts_only_when_nothing_of_the_past_follows() {
        let answer = |replayed| {
            format!(r#"{{"type":"subscribed","channels":[{{"channel":"a","cursor":"1-9","replayed":{replayed}}}]}}"#)
        };
        assert_eq!(after(&[&answer(0)])["since"], json!({"a":"1-9"}));
        assert_eq!(after(&[&answer(3)]).get("since"), None);
    }

    #[test]
    fn a_gap_is_left_behind_and_channels_heard_of_are_followed() {
        let gap = r#"{"type":"gap","channel":"a","after":"1-2","before":"1-9","count":6,"reason":"retention"}"#;
        let other = r#"{"_meta":{"channel":"b","id":"7-0"}}"#;
        let command = after(&[gap, other]);
        assert_eq!(command, json!({"type":"subscribe","channels":["a","b"],"since":{"a":"1-8","b":"7-0"}}));
    }

    #[test]
    fn an_endpoint_that_subscribes_by_itself_is_left_to_it() {
        assert_eq!(Cursors::new([""; 0], None).subscribe(Some(5)), None);
    }
}
