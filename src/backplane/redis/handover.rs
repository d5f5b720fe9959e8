//! The handover of acknowledged ids by a replica that leaves: the messages of the control channel, and what was
//! received. Pure and bounded.

use std::collections::HashMap;

use tickgate_wire::model::{StreamId, Topic};

/// Maximum number of ids per message.
const CHUNK: usize = 500;
/// Maximum number of concurrent handovers, and of parts of one.
const MEMBERS_MAX: usize = 64;
const PARTS_MAX: usize = 1_024;

/// The messages that hand over the ids.
pub(super) fn messages(name: &str, ids: &[(Topic, StreamId)]) -> Vec<String> {
    let parts: Vec<_> = if ids.is_empty() { vec![ids] } else { ids.chunks(CHUNK).collect() };
    let count = parts.len();
    let text = |part: &[(Topic, StreamId)]| {
        let pairs: Vec<_> = part.iter().map(|(topic, id)| (topic.as_str(), id)).collect();
        serde_json::to_string(&pairs).unwrap_or_default()
    };
    parts.iter().enumerate().map(|(at, part)| format!("hand {name} {at} {count} {}", text(part))).collect()
}

/// The last id of each topic.
type Ids = Vec<(Topic, StreamId)>;

/// The received parts of handovers.
#[derive(Debug, Default)]
pub(super) struct ReceivedHandovers {
    members: HashMap<String, HashMap<usize, Ids>>,
    complete: Vec<(String, Ids)>,
}

impl ReceivedHandovers {
    /// Processes a message of the control channel. Ignores other messages and this replica's own.
    pub(super) fn take(&mut self, message: &[u8], own: &str) {
        let Some((name, at, count, ids)) = parse(message) else { return };
        let is_own = name.strip_prefix(own).is_some_and(|rest| rest.starts_with('.'));
        if is_own || at >= count || count > PARTS_MAX {
            return;
        }
        if !self.members.contains_key(&name) && self.members.len() >= MEMBERS_MAX {
            self.members.clear();
        }
        let parts = self.members.entry(name.clone()).or_default();
        parts.insert(at, ids);
        if parts.len() == count
            && let Some(parts) = self.members.remove(&name)
        {
            self.complete.push((name, parts.into_values().flatten().collect()));
        }
    }

    /// The handovers completed since the last call.
    pub(super) fn complete(&mut self) -> Vec<(String, Ids)> {
        std::mem::take(&mut self.complete)
    }
}

fn parse(message: &[u8]) -> Option<(String, usize, usize, Ids)> {
    let text = std::str::from_utf8(message).ok()?.strip_prefix("hand ")?;
    let mut words = text.splitn(4, ' ');
    let (name, at, count) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let ids: Vec<(String, StreamId)> = serde_json::from_str(words.next()?).ok()?;
    let ids = ids.into_iter().map(|(topic, id)| (Topic::from_wire(&topic), id)).collect();
    Some((name.to_owned(), at, count, ids))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_make_a_handover_in_any_order() {
        let ids: Vec<_> = (0..1_200).map(|n| (Topic::public(&format!("t{n}")).unwrap(), StreamId::new(5, n))).collect();
        let mut messages = messages("a.0", &ids);
        assert_eq!(messages.len(), 3);
        messages.reverse();
        let mut received = ReceivedHandovers::default();
        for (at, message) in messages.iter().enumerate() {
            assert!(received.complete().is_empty(), "{at}");
            received.take(message.as_bytes(), "b");
        }
        let complete = received.complete();
        assert_eq!((complete.len(), complete[0].0.as_str(), complete[0].1.len()), (1, "a.0", 1_200));
    }

    #[test]
    fn other_messages_and_own_ones_are_ignored() {
        let mut received = ReceivedHandovers::default();
        for message in
            ["", "0123abcd", "hand", "hand a.0 x 1 []", "hand a.0 5 2 []", "hand a.0 0 1 {", "hand b.0 0 1 []"]
        {
            received.take(message.as_bytes(), "b");
        }
        assert!(received.complete().is_empty());
        received.take(messages("a.0", &[])[0].as_bytes(), "b");
        assert_eq!(received.complete(), [("a.0".to_owned(), Vec::new())]);
    }
}
