//! Descriptions of servers under test: opening messages and publish calls, from a small TOML file. Only these files
//! contain anything specific to a server.

use serde::Deserialize;

use crate::BenchFailure;

/// Tickgate itself, with the endpoint and topics of `benches/tickgate.toml`.
pub(crate) const TICKGATE: &str = include_str!("../../../benches/targets/tickgate.toml");

/// A server's description. Placeholders: `{channel}` and `{channels}` (a JSON list) of a connection, `{user}`,
/// `{token}`, `{key}`, `{elements}` (a JSON array of channels with their cursors), `{data}` (the payload), `{n}` (a
/// number).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TargetServer {
    pub(crate) name: String,
    /// Path of the WebSocket endpoint.
    pub(crate) path: String,
    /// Header lines of the upgrade.
    #[serde(default)]
    pub(crate) headers: Vec<String>,
    /// Header lines added if the connection has a token.
    #[serde(default)]
    pub(crate) token_headers: Vec<String>,
    /// Messages sent after the upgrade.
    #[serde(default)]
    opening: Vec<String>,
    /// Messages sent for each channel after those.
    #[serde(default)]
    opening_per_channel: Vec<String>,
    /// Replaces `opening` if the client resumes from a cursor.
    #[serde(default)]
    resume: Vec<String>,
    /// Text that identifies the response to a subscription. If absent, a connection counts as subscribed when it is
    /// open.
    #[serde(default)]
    pub(crate) ready: Option<String>,
    /// Text that identifies a notice of missing messages.
    #[serde(default)]
    pub(crate) gap: Option<String>,
    /// Text before the cursor of a message.
    #[serde(default)]
    pub(crate) cursor: Option<String>,
    pub(crate) publish: PublishTemplate,
    pub(crate) channels: Channels,
}

/// The publish call.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublishTemplate {
    pub(crate) kind: PublishKind,
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
    /// For a user's private channel.
    #[serde(default)]
    private_body: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PublishKind {
    /// One endless request, one line per publication.
    Lines,
    /// One request per publication, on persistent connections, pipelined.
    Http,
    /// One message per publication.
    Websocket,
}

/// Messages published to one channel, numbered in one sequence.
#[derive(Clone, Debug)]
pub(crate) struct WorkloadStream {
    pub(crate) channel: String,
    /// The owner of the private channel.
    pub(crate) user: Option<String>,
    /// Connections that receive it.
    pub(crate) subscribers: u32,
    /// Whether newer messages may replace older ones before delivery.
    pub(crate) conflated: bool,
}

/// Channel names by what the workload requires.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Channels {
    /// Not retained.
    plain: String,
    /// Retained; messages may be dropped for slow clients.
    event: String,
    /// Only the newest value matters.
    state: String,
    /// Retained; never dropped.
    reliable: String,
    /// A user's private channel. Servers without private channels use one name per user.
    private: String,
}

/// The kind of channel that a workload requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChannelKind {
    Plain,
    Event,
    State,
    Reliable,
    Private,
}

impl Channels {
    /// The name of channel `number` of a kind.
    pub(crate) fn name(&self, kind: ChannelKind, number: usize) -> String {
        let pattern = match kind {
            ChannelKind::Plain => &self.plain,
            ChannelKind::Event => &self.event,
            ChannelKind::State => &self.state,
            ChannelKind::Reliable => &self.reliable,
            ChannelKind::Private => &self.private,
        };
        pattern.replace("{n}", &number.to_string())
    }
}

/// The values that one connection fills into the templates.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words<'a> {
    pub(crate) channels: &'a [&'a str],
    pub(crate) user: &'a str,
    pub(crate) token: &'a str,
    /// Cursors of `channels`; empty for a new subscription.
    pub(crate) since: &'a [String],
}

impl Words<'_> {
    pub(crate) fn fill(&self, template: &str) -> String {
        let mut text = template
            .replace("{channel}", self.channels.first().copied().unwrap_or_default())
            .replace("{user}", self.user)
            .replace("{token}", self.token);
        if text.contains("{channels}") {
            text = text.replace("{channels}", &serde_json::json!(self.channels).to_string());
        }
        if text.contains("{elements}") {
            let element = |(name, id)| serde_json::json!({ "channel": name, "since": id });
            let elements: Vec<_> = self.channels.iter().zip(self.since).map(element).collect();
            text = text.replace("{elements}", &serde_json::Value::Array(elements).to_string());
        }
        text
    }
}

impl TargetServer {
    pub(crate) fn parse(text: &str) -> Result<Self, BenchFailure> {
        toml::from_str(text).map_err(|error| BenchFailure::Said(format!("target description: {error}")))
    }

    /// The opening messages of a connection, and the number of responses that `ready` must match.
    pub(crate) fn opening(&self, words: &Words<'_>) -> (Vec<String>, usize) {
        if words.channels.is_empty() {
            return (Vec::new(), 0);
        }
        let first = if words.since.is_empty() || self.resume.is_empty() { &self.opening } else { &self.resume };
        let mut messages: Vec<String> = first.iter().map(|template| words.fill(template)).collect();
        for channel in words.channels {
            let words = Words { channels: &[channel], ..words.clone() };
            messages.extend(self.opening_per_channel.iter().map(|template| words.fill(template)));
        }
        let answers = match (&self.ready, self.opening_per_channel.is_empty()) {
            (None, _) => 0,
            (Some(_), true) => 1,
            (Some(_), false) => words.channels.len(),
        };
        (messages, answers)
    }

    /// The publish call of a stream: the text before and after the payload, and the path.
    pub(crate) fn publication(&self, stream: &WorkloadStream, key: &str) -> PublishCall {
        let user = stream.user.as_deref().unwrap_or_default();
        let words = Words { channels: &[&stream.channel], user, ..Words::default() };
        let body = stream.user.as_ref().and(self.publish.private_body.as_ref()).unwrap_or(&self.publish.body);
        let body = words.fill(body).replace("{key}", key);
        let (before, after) = body.split_once("{data}").unwrap_or((&body, ""));
        PublishCall { path: words.fill(&self.publish.path), before: before.into(), after: after.into() }
    }
}

/// A publish call without its payload.
#[derive(Clone, Debug)]
pub(crate) struct PublishCall {
    pub(crate) path: String,
    pub(crate) before: Vec<u8>,
    pub(crate) after: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_description_is_valid() {
        for (file, text) in [
            ("tickgate", TICKGATE),
            ("centrifugo", include_str!("../../../benches/targets/centrifugo.toml")),
            ("nchan", include_str!("../../../benches/targets/nchan.toml")),
            ("limit", include_str!("../../../benches/targets/limit.toml")),
        ] {
            let target = TargetServer::parse(text).unwrap();
            assert_eq!(target.name, file);
            assert!(target.publish.body.contains("{data}"), "{file}");
        }
    }

    #[test]
    fn openings_and_calls_are_filled_in() {
        let target = TargetServer::parse(TICKGATE).unwrap();
        let words = Words { channels: &["a", "b"], ..Words::default() };
        let (opening, answers) = target.opening(&words);
        let opening: serde_json::Value = serde_json::from_str(&opening[0]).unwrap();
        assert_eq!((opening["channels"].clone(), answers), (serde_json::json!(["a", "b"]), 1));
        let resumed = Words { since: &["1-1".into(), "1-2".into()], ..words };
        let resume: serde_json::Value = serde_json::from_str(&target.opening(&resumed).0[0]).unwrap();
        let elements = serde_json::json!([{"channel": "a", "since": "1-1"}, {"channel": "b", "since": "1-2"}]);
        assert_eq!(resume["channels"], elements);

        let stream =
            WorkloadStream { channel: "orders".into(), user: Some("u7".into()), subscribers: 1, conflated: false };
        let call = target.publication(&stream, "key");
        let line = [&call.before[..], b"{}", &call.after].concat();
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(line, serde_json::json!({"channel": "orders", "user": "u7", "data": {}}));
    }
}
