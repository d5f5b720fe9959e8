//! The wanted channels, their cursors, and which to subscribe to next. Pure: the time is an argument.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    channel::Channel,
    defect::{OmittedRule, is},
    event::{Event, Gap, MessageMeta},
    read::{CaughtUpMessageChannel, Granted, SubscribedMessage},
    server_error::ServerError,
};

/// Delay before requesting a channel that a reply does not name.
const UNNAMED_RETRY: Duration = Duration::from_secs(5);

/// A change of the application's cursor of a channel: the new cursor, or `None` to forget it.
pub(crate) type Move = (String, Option<String>);

/// State of a channel's subscription on the current connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChannelPhase {
    /// To be requested, not before this time.
    Due(Option<Instant>),
    /// Requested under this number.
    Asked(u64),
    /// Granted; its backlog is still arriving.
    CatchingUp,
    Live,
}

#[derive(Clone, Debug)]
struct ChannelPosition {
    options: Channel,
    cursor: Option<String>,
    stream: String,
    phase: ChannelPhase,
    /// It was requested on the current connection, which may have a subscription to it.
    requested: bool,
}

impl ChannelPosition {
    /// Whether messages of the channel are delivered now. Between a request with `since` and its reply they belong to
    /// the previous subscription, and the replay will repeat them.
    fn receives(&self) -> bool {
        self.granted() || self.cursor.is_none() || is(OmittedRule::NothingDropped)
    }

    fn granted(&self) -> bool {
        matches!(self.phase, ChannelPhase::CatchingUp | ChannelPhase::Live)
    }
}

/// The wanted channels by name.
#[derive(Debug, Default)]
pub(crate) struct Positions(BTreeMap<String, ChannelPosition>);

impl Positions {
    /// Adds a channel. If it is already wanted, its options are replaced and it is subscribed again.
    pub(crate) fn want(&mut self, mut options: Channel) {
        let since = options.since.take();
        let known = self.0.get(&options.channel);
        let requested = known.is_some_and(|wanted| wanted.requested);
        let cursor = since.or_else(|| known.and_then(|wanted| wanted.cursor.clone()));
        let name = options.channel.clone();
        if is(OmittedRule::FirstOptions) && known.is_some() {
            return;
        }
        self.0.insert(
            name.clone(),
            ChannelPosition { options, cursor, stream: name, phase: ChannelPhase::Due(None), requested },
        );
    }

    /// Removes a channel. True if the gateway must unsubscribe it.
    pub(crate) fn drop(&mut self, channel: &str) -> bool {
        self.0.remove(channel).is_some_and(|wanted| wanted.requested)
    }

    /// The connection has ended: all channels must be requested again.
    pub(crate) fn disconnected(&mut self) {
        for wanted in self.0.values_mut() {
            (wanted.phase, wanted.requested) = (ChannelPhase::Due(None), false);
        }
    }

    /// Forgets all cursors, because they belong to another user.
    pub(crate) fn forget(&mut self) -> Vec<Move> {
        let forgotten =
            self.0.iter_mut().filter_map(|(name, wanted)| wanted.cursor.take().map(|_| (name.clone(), None)));
        forgotten.collect()
    }

    /// Whether every wanted channel is live.
    pub(crate) fn live(&self) -> bool {
        let later = |wanted: &ChannelPosition| {
            is(OmittedRule::LaterIsLive) && matches!(wanted.phase, ChannelPhase::Due(Some(_)))
        };
        self.0.values().all(|wanted| wanted.phase == ChannelPhase::Live || later(wanted))
    }

    /// When the next channel is due; `None` if there is none.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let due = self.0.values().filter_map(|wanted| match wanted.phase {
            ChannelPhase::Due(at) => Some(at.unwrap_or(now)),
            _ => None,
        });
        due.min()
    }

    /// The elements of the next `subscribe`, sent under this number: at most `most`, and at most `bytes_max` bytes unless a
    /// single one is longer.
    pub(crate) fn ask(&mut self, now: Instant, request: u64, most: usize, bytes_max: usize) -> Vec<String> {
        let (mut elements, mut bytes) = (Vec::new(), 0);
        for wanted in self.0.values_mut() {
            if elements.len() == most {
                break;
            }
            if !matches!(wanted.phase, ChannelPhase::Due(at) if at.is_none_or(|at| at <= now)) {
                continue;
            }
            let element = element(wanted);
            bytes += element.len() + 1;
            if bytes > bytes_max && !elements.is_empty() {
                break;
            }
            (wanted.phase, wanted.requested) = (ChannelPhase::Asked(request), true);
            elements.push(element);
        }
        elements
    }

    /// Handles the reply to a `subscribe`.
    pub(crate) fn subscribed(
        &mut self,
        now: Instant,
        request: u64,
        reply: SubscribedMessage,
    ) -> (Vec<Event>, Vec<Move>) {
        let (mut events, mut moves) = (Vec::new(), Vec::new());
        for granted in reply.channels {
            let Some(wanted) = self.asked(&granted.channel, request) else { continue };
            let Granted { channel, class, stream, cursor, live } = granted;
            wanted.phase = if live { ChannelPhase::Live } else { ChannelPhase::CatchingUp };
            wanted.stream = stream.unwrap_or_else(|| channel.clone());
            if !is(OmittedRule::NoFirstCursor) {
                wanted.cursor.clone_from(&cursor);
                moves.push((channel.clone(), cursor));
            }
            events.push(Event::Subscribed { channel, class, live });
        }
        for refused in reply.errors {
            if self.asked(&refused.channel, request).is_some() {
                events.extend(self.refused(now, &refused.channel, &refused.error));
            }
        }
        // Channels that the reply does not name were neither granted nor refused.
        self.0.values_mut().filter(|wanted| wanted.phase == ChannelPhase::Asked(request)).for_each(|wanted| {
            let again = ChannelPhase::Due(Some(now + UNNAMED_RETRY));
            wanted.phase = if is(OmittedRule::UnnamedForgotten) { ChannelPhase::Live } else { again };
        });
        (events, moves)
    }

    /// The request as a whole was refused.
    pub(crate) fn request_refused(&mut self, now: Instant, request: u64, error: &ServerError) -> Vec<Event> {
        let of_request = self.0.iter().filter(|(_, wanted)| wanted.phase == ChannelPhase::Asked(request));
        let names: Vec<_> = of_request.map(|(name, _)| name.clone()).collect();
        names.iter().filter_map(|name| self.refused(now, name, error)).collect()
    }

    /// The gateway ended subscriptions.
    pub(crate) fn unsubscribed(&mut self, now: Instant, channels: &[String], error: &ServerError) -> Vec<Event> {
        if is(OmittedRule::UnsubscribedIgnored) {
            return Vec::new();
        }
        channels.iter().filter_map(|name| self.refused(now, name, error)).collect()
    }

    /// A channel is refused, temporarily or permanently.
    fn refused(&mut self, now: Instant, channel: &str, error: &ServerError) -> Option<Event> {
        let wanted = self.0.get_mut(channel)?;
        if let Some(after) = error.retry_after() {
            let after = if is(OmittedRule::AsksAtOnce) { Duration::ZERO } else { after };
            wanted.phase = ChannelPhase::Due(now.checked_add(after));
            return None;
        }
        if is(OmittedRule::RefusedStaysWanted) {
            wanted.phase = ChannelPhase::Live;
        } else {
            self.0.remove(channel);
        }
        Some(Event::Refused { channel: channel.to_owned(), error: error.clone() })
    }

    /// Handles a push: the cursors that move, or `None` if it must not be delivered.
    pub(crate) fn push(&mut self, meta: &MessageMeta) -> Option<Vec<Move>> {
        if is(OmittedRule::LeftDelivered) && !self.0.contains_key(&meta.channel) {
            return Some(Vec::new());
        }
        let wanted = self.0.get(&meta.channel).filter(|wanted| wanted.receives())?;
        let Some(id) = meta.id.as_ref().filter(|_| !is(OmittedRule::NoPushCursor)) else { return Some(Vec::new()) };
        if wanted.phase == ChannelPhase::Live || is(OmittedRule::EarlySharing) || is(OmittedRule::PastMovesLive) {
            let stream = wanted.stream.clone();
            return Some(self.advance(&meta.channel, &stream, id));
        }
        Some(self.advance_alone(&meta.channel, id))
    }

    /// Handles a gap: the channels for which it is reported, and the cursors that move.
    pub(crate) fn gap(&mut self, gap: &Gap) -> (Vec<String>, Vec<Move>) {
        let receives = |name: &&String| self.0.get(*name).is_some_and(ChannelPosition::receives);
        let wanted: Vec<_> = gap.channels.iter().filter(receives).cloned().collect();
        let mut moves = Vec::new();
        let cursor = gap.cursor.as_ref().filter(|_| !is(OmittedRule::NoGapCursor));
        for (name, cursor) in wanted.iter().filter_map(|name| Some((name, cursor?))) {
            moves.extend(self.advance_alone(name, cursor));
        }
        (wanted, moves)
    }

    /// A channel has caught up: the cursors that move, or `None` if it is not wanted.
    pub(crate) fn caught_up(&mut self, end: &CaughtUpMessageChannel) -> Option<Vec<Move>> {
        let wanted = self.0.get_mut(&end.channel).filter(|wanted| wanted.granted())?;
        wanted.phase = ChannelPhase::Live;
        let Some(cursor) = end.cursor.as_ref().filter(|_| !is(OmittedRule::NoSilentMoves)) else {
            return Some(Vec::new());
        };
        let stream = wanted.stream.clone();
        match is(OmittedRule::NamedMoveStream) {
            true => Some(self.advance(&end.channel, &stream, cursor)),
            false => Some(self.advance_alone(&end.channel, cursor)),
        }
    }

    /// Handles the cursors of a heartbeat, keyed by stream.
    pub(crate) fn heartbeat(&mut self, cursors: &BTreeMap<String, Option<String>>) -> Vec<Move> {
        let mut moves = Vec::new();
        for (stream, cursor) in cursors.iter().filter_map(|(stream, cursor)| Some((stream, cursor.as_ref()?))) {
            if !is(OmittedRule::NoSilentMoves) {
                moves.extend(self.advance("", stream, cursor));
            }
        }
        moves
    }

    /// Moves a channel and all live channels of its stream.
    fn advance(&mut self, channel: &str, stream: &str, cursor: &str) -> Vec<Move> {
        let mut moves = Vec::new();
        for (name, wanted) in &mut self.0 {
            let joins = wanted.phase == ChannelPhase::Live || is(OmittedRule::EarlySharing);
            let shares = channel.is_empty() || !is(OmittedRule::NoSharing);
            let shared = wanted.stream == stream && joins && shares;
            if shared || name == channel {
                wanted.cursor = Some(cursor.to_owned());
                moves.push((name.clone(), wanted.cursor.clone()));
            }
        }
        moves
    }

    fn advance_alone(&mut self, channel: &str, cursor: &str) -> Vec<Move> {
        let Some(wanted) = self.0.get_mut(channel) else { return Vec::new() };
        wanted.cursor = Some(cursor.to_owned());
        vec![(channel.to_owned(), wanted.cursor.clone())]
    }

    fn asked(&mut self, channel: &str, request: u64) -> Option<&mut ChannelPosition> {
        self.0.get_mut(channel).filter(|wanted| wanted.phase == ChannelPhase::Asked(request))
    }
}

fn element(wanted: &ChannelPosition) -> String {
    let mut options = wanted.options.clone();
    if is(OmittedRule::OptionsLost) && wanted.cursor.is_some() {
        options = Channel::new(options.channel);
    }
    if let Some(cursor) = &wanted.cursor {
        options.since = Some(cursor.clone());
        options.last = None;
    }
    // Serializing numbers, strings and booleans cannot fail.
    serde_json::to_string(&options).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wanting(names: &[&str]) -> Positions {
        let mut positions = Positions::default();
        names.iter().for_each(|name| positions.want(Channel::from(*name)));
        positions
    }

    fn asked(positions: &mut Positions) -> Value {
        let elements = positions.ask(Instant::now(), 1, 100, 10_000);
        elements.iter().map(|element| serde_json::from_str::<Value>(element).unwrap()).collect()
    }

    fn granted(positions: &mut Positions, channels: &Value) {
        let reply = json!({ "channels": channels, "errors": [] });
        positions.subscribed(Instant::now(), 1, serde_json::from_value(reply).unwrap());
    }

    fn since(positions: &mut Positions) -> Value {
        positions.disconnected();
        asked(positions)
    }

    fn push(positions: &mut Positions, channel: &str, id: &str) {
        positions.push(&serde_json::from_value(json!({ "channel": channel, "id": id })).unwrap());
    }

    #[test]
    fn channels_of_a_stream_move_together_once_they_are_live() {
        let mut positions = wanting(&["a", "b", "c"]);
        assert_eq!(asked(&mut positions), json!([{ "channel": "a" }, { "channel": "b" }, { "channel": "c" }]));
        let channel =
            |name, live| json!({ "channel": name, "class": "x", "stream": "@", "cursor": "1-1", "live": live });
        granted(&mut positions, &json!([channel("a", true), channel("b", true), channel("c", false)]));
        push(&mut positions, "a", "1-5");
        push(&mut positions, "c", "1-2");
        let cursors = since(&mut positions);
        assert_eq!(cursors[0]["since"], "1-5");
        assert_eq!(cursors[1]["since"], "1-5");
        assert_eq!(cursors[2]["since"], "1-2");
    }

    #[test]
    fn a_reply_counts_only_for_its_own_request() {
        let mut positions = wanting(&["a", "b"]);
        asked(&mut positions);
        positions.drop("a");
        positions.want("a".into());
        granted(&mut positions, &json!([{ "channel": "a", "class": "x", "cursor": "1-1", "live": true }]));
        assert!(!positions.live());
        assert_eq!(asked(&mut positions), json!([{ "channel": "a" }]), "`b` was not named: it must wait");
        let later = Instant::now() + UNNAMED_RETRY;
        assert_eq!(positions.ask(later, 2, 9, 1000).len(), 1);
    }

    #[test]
    fn messages_before_a_channel_is_granted_again_are_left_to_the_replay() {
        let mut positions = wanting(&["a"]);
        asked(&mut positions);
        granted(&mut positions, &json!([{ "channel": "a", "class": "x", "cursor": "1-1", "live": true }]));
        let meta = |id: &str| serde_json::from_value::<MessageMeta>(json!({ "channel": "a", "id": id })).unwrap();
        assert!(positions.push(&meta("1-2")).is_some());
        positions.want("a".into());
        assert!(positions.push(&meta("1-3")).is_none(), "the cursor of the next request is 1-2");
        assert_eq!(asked(&mut positions)[0]["since"], "1-2");
        assert!(positions.push(&meta("1-4")).is_none());
        let end = json!({ "channel": "a", "cursor": "1-2", "replayed": 0, "complete": true });
        assert!(positions.caught_up(&serde_json::from_value(end).unwrap()).is_none(), "of the previous subscription");
        granted(&mut positions, &json!([{ "channel": "a", "class": "x", "cursor": "1-2", "live": false }]));
        assert!(positions.push(&meta("1-3")).is_some());
        positions.want("a".into());
        assert!(positions.drop("a"), "the gateway still has the previous subscription");
    }

    #[test]
    fn requests_are_bounded_in_names_and_bytes() {
        let mut positions = wanting(&["a", "b", "c"]);
        let now = Instant::now();
        assert_eq!(positions.ask(now, 1, 2, 1000).len(), 2);
        positions.disconnected();
        assert_eq!(positions.ask(now, 2, 9, 30).len(), 1, "two elements have 34 bytes");
        assert_eq!(positions.ask(now, 3, 9, 1).len(), 1, "at least one is requested");
    }

    #[test]
    fn a_delayed_channel_is_not_due_early() {
        let mut positions = wanting(&["a"]);
        let now = Instant::now();
        asked(&mut positions);
        let error = json!({ "code": 1013, "error": "x", "details": { "retry_after_ms": 500 } });
        let events = positions.request_refused(now, 1, &serde_json::from_value(error).unwrap());
        assert!(events.is_empty());
        assert_eq!(positions.due(now), Some(now + Duration::from_millis(500)));
        assert!(positions.ask(now, 2, 9, 1000).is_empty());
        assert_eq!(positions.ask(now + Duration::from_millis(500), 2, 9, 1000).len(), 1);
    }
}
