//! The WebSocket endpoints: profiles, their channels, and the topic behind each channel.

use tickgate_wire::{
    dialect::Dialect,
    model::{Pattern, Topic, check_name},
    protocol::Protocol,
    transport::Transport,
};

use super::{
    Problems, raw,
    value::{Section, quoted},
};

/// One configured WebSocket endpoint.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Name in logs and metrics.
    pub name: String,
    /// `/ws/trading`, or with one parameter: `/ws/backtest/{run_id}`.
    pub path: String,
    /// The dialect and the transport of the endpoint.
    pub protocol: Protocol,
    /// Which clients are admitted.
    pub token: TokenRule,
    /// Close code of a refused token (4001 or 1008).
    pub refusal_code: u16,
    /// Every refused client is upgraded and closed with the code, not only clients that cannot see an HTTP status.
    pub closes_refused: bool,
    /// Open connections of this endpoint on this replica; `None`: as many as the replica takes in all.
    pub connections_max: Option<u32>,
    /// Open connections of one user at this endpoint on all replicas, which then count only here; `None`: they count
    /// against `limits.connections_per_user_max`.
    pub connections_per_user_max: Option<u32>,
    /// Text of `connection_established`.
    pub welcome: String,
    /// The channels that it offers; names that match none of them are refused.
    pub channels: Vec<OfferedChannel>,
    /// Topic that stores `command` messages, may contain `{param}`; `None`: commands are not accepted.
    pub commands_topic: Option<String>,
    /// Channel name prefixes for the commands `subscribe_symbol`, `subscribe_ticker` and so on.
    pub symbol_verbs: Vec<SymbolVerb>,
}

/// Whether an endpoint requires a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRule {
    /// Connections without a valid token are refused.
    Required,
    /// Connections without a token are anonymous; a token that is present must be valid.
    Optional,
    /// Public: tokens are ignored.
    Ignored,
    /// A JWT with a `publish` right, or an API key; in development mode, no token is required.
    Publisher,
}

/// One channel, or a family of channels, that an endpoint offers.
#[derive(Clone, Debug)]
pub struct OfferedChannel {
    /// The client's name for it.
    pub pattern: Pattern,
    /// Whose topic is behind the channel.
    pub scope: ChannelScope,
    /// Subscribed when the connection opens (only patterns without `*`).
    pub on_connect: bool,
    /// Requires an identity with the channel in its `channels` claim, regardless of the endpoint's token rule.
    pub restricted: bool,
}

/// The topic behind a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelScope {
    /// The topic of the same name.
    Public,
    /// The connected user's private channel of the same name.
    Private,
    /// The topic that the template produces from the path's parameter, such as `run:{run_id}`.
    Path(String),
}

impl ChannelScope {
    /// Whether the topic depends on the path's parameter.
    #[must_use]
    pub fn has_parameter(&self) -> bool {
        matches!(self, Self::Path(template) if template.contains('{'))
    }
}

/// `subscribe_<verb>` with `symbols` subscribes to the channels `<prefix><symbol>`.
#[derive(Clone, Debug)]
pub struct SymbolVerb {
    /// The end of the command `subscribe_<verb>`.
    pub verb: String,
    /// Prepended to a symbol to get the channel's name.
    pub prefix: String,
}

/// How clients are refused: in the way that each can see, or always by a close.
const REFUSALS: [(&str, bool); 2] = [("auto", false), ("close", true)];

/// Text of `connection_established` if the profile has none.
const WELCOME: &str = "Connected to Tickgate";

/// Paths of the public listener that no profile can use. `/` is shared with the service information.
pub(super) const RESERVED: [&str; 4] = ["/health", "/livez", "/readyz", "/ws/status"];

/// All endpoints. `anonymous`: whether `token = "auto"` means optional.
pub(super) fn check(raw: &[raw::RawProfile], anonymous: bool, problems: &mut Problems) -> Vec<Profile> {
    let mut profiles: Vec<Profile> = Vec::with_capacity(raw.len());
    for raw in raw.iter().filter(|raw| raw.enabled) {
        let profile = Profile::check(raw, anonymous, problems);
        if let Some(other) = profiles.iter().find(|other| conflict(&other.path, &profile.path)) {
            let text = format!("{} and {} of profile {} cannot be distinguished", profile.path, other.path, other.name);
            problems.report(format!("profiles.{}.path", profile.name), text);
        }
        profiles.push(profile);
    }
    if profiles.is_empty() {
        problems.report("profiles", "requires at least one enabled profile");
    }
    profiles
}

impl Profile {
    /// Validates the value of the path's parameter. It becomes part of topic names, so it must be a valid name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_param(&self, value: &str) -> Result<(), String> {
        let (name, max) = (parameter(&self.path).unwrap_or_default(), self.param_bytes_max());
        check_name(value).map_err(|error| format!("`{name}` is {error}"))?;
        if value.len() > max { Err(format!("`{name}` must not exceed {max} bytes")) } else { Ok(()) }
    }

    fn param_bytes_max(&self) -> usize {
        let scopes = self.channels.iter().filter_map(|channel| match &channel.scope {
            ChannelScope::Path(template) => Some(template),
            ChannelScope::Public | ChannelScope::Private => None,
        });
        let around = |template: &String| {
            let parameter = template.find('{').zip(template.find('}'));
            parameter.map_or(0, |(open, close)| template.len() - (close + 1 - open))
        };
        Topic::LEN_MAX - scopes.chain(&self.commands_topic).map(around).max().unwrap_or(0)
    }

    fn check(raw: &raw::RawProfile, anonymous: bool, problems: &mut Problems) -> Self {
        let mut section = Section::new(format!("profiles.{}", raw.name), problems);
        let s = &mut section;
        let path = s.take("path", path(&raw.path), raw.path.clone());
        let parameter = parameter(&path);
        let unset = if anonymous { TokenRule::Optional } else { TokenRule::Required };
        let tokens = [
            ("required", TokenRule::Required),
            ("optional", TokenRule::Optional),
            ("ignored", TokenRule::Ignored),
            ("publisher", TokenRule::Publisher),
            ("auto", unset),
        ];
        let profile = Self {
            name: s.take("name", name(&raw.name), raw.name.clone()),
            protocol: protocol(raw, s),
            token: s.choice("token", &raw.token, &tokens),
            refusal_code: s.take("refusal_code", refusal_code(raw.refusal_code), 4001),
            closes_refused: s.choice("refusals", raw.refusals.as_deref().unwrap_or("auto"), &REFUSALS),
            connections_max: raw.connections_max.map(|max| s.number("connections_max", max, 1..=10_000_000)),
            connections_per_user_max: raw
                .connections_per_user_max
                .map(|max| s.number("connections_per_user_max", max, 1..=100_000)),
            welcome: raw.welcome.clone().unwrap_or_else(|| WELCOME.into()),
            channels: raw.channels.iter().filter_map(|channel| OfferedChannel::check(channel, parameter, s)).collect(),
            commands_topic: s.take("commands_topic", commands_topic(raw.commands_topic.as_deref(), parameter), None),
            symbol_verbs: raw.symbol_verbs.iter().map(|(verb, prefix)| verb_of(verb, prefix, s)).collect(),
            path,
        };
        profile.check_whole(s);
        profile
    }

    /// Checks that involve channels, verbs and token rule together.
    fn check_whole(&self, section: &mut Section<'_>) {
        let has_user = matches!(self.token, TokenRule::Required | TokenRule::Optional);
        for (at, channel) in self.channels.iter().enumerate() {
            let name = channel.pattern.as_str();
            let key = format!("channels.{name}");
            if channel.scope == ChannelScope::Private && !has_user {
                section.report(
                    &key,
                    "is private, which requires a profile with token = \"required\", \"optional\" or \"auto\"",
                );
            }
            if channel.restricted && !has_user {
                section.report(
                    &key,
                    "is restricted, which requires a profile with token = \"required\", \"optional\" or \"auto\"",
                );
            }
            if self.channels[..at].iter().any(|other| other.pattern == channel.pattern) {
                section.report(&key, "appears twice");
            }
        }
        if self.connections_per_user_max.is_some() && !has_user {
            section.report(
                "connections_per_user_max",
                "requires token = \"required\", \"optional\" or \"auto\": the endpoint's connections have no user",
            );
        }
        for SymbolVerb { verb, prefix } in &self.symbol_verbs {
            let example = format!("{prefix}SYMBOL");
            if !self.channels.iter().any(|channel| channel.pattern.matches(&example)) {
                section.report(
                    &format!("symbol_verbs.{verb}"),
                    format!("requires a channel such as \"{prefix}*\" in the profile"),
                );
            }
        }
        if self.closes_refused && self.protocol.transport == Transport::EventStream {
            section
                .report("refusals", "\"close\" requires transport = \"websocket\": an event stream has no Close frame");
        }
        if self.path == "/" && self.protocol.transport == Transport::EventStream {
            section.report(
                "path",
                "must not be \"/\" for an event stream: a plain GET there returns the service information",
            );
        }
        if self.protocol.dialect == Dialect::Envelope {
            if self.token == TokenRule::Ignored {
                section.report("token", "must be \"publisher\" for dialect = \"envelope\"");
            }
            if self.protocol.transport == Transport::EventStream {
                section.report(
                    "dialect",
                    "\"envelope\" requires transport = \"websocket\": producers cannot send on an event stream",
                );
            }
        }
    }
}

impl OfferedChannel {
    fn check(raw: &raw::RawChannel, parameter: Option<&str>, section: &mut Section<'_>) -> Option<Self> {
        let key = format!("channels.{}", raw.name);
        let pattern = Pattern::new(&raw.name).map_err(|error| section.report(&key, error.to_string())).ok()?;
        let scopes = [("public", ChannelScope::Public), ("private", ChannelScope::Private)];
        let scope = match (raw.scope.as_deref(), raw.topic.as_deref()) {
            (Some(_), Some(_)) => {
                section.report(&key, "has both `scope` and `topic`: set only one of them");
                ChannelScope::Public
            }
            (None, Some(template)) => ChannelScope::Path(section.take(&key, topic(template, parameter), String::new())),
            (scope, None) => {
                let scope = scope.unwrap_or("public");
                let known = scopes.into_iter().find(|(word, _)| *word == scope).map(|(_, scope)| scope);
                let wrong = || format!("must be \"public\" or \"private\", got {}", quoted(scope));
                section.take(&key, known.ok_or_else(wrong), ChannelScope::Public)
            }
        };
        let family = raw.name.contains('*');
        if family && raw.on_connect {
            section.report(&key, "cannot be subscribed on connect: it is a pattern");
        }
        if family && matches!(scope, ChannelScope::Path(_)) {
            section.report(&key, "cannot have one topic: it is a pattern for many channels");
        }
        Some(Self { pattern, scope, on_connect: raw.on_connect, restricted: raw.restricted })
    }
}

/// The endpoint's dialect and transport.
fn protocol(raw: &raw::RawProfile, section: &mut Section<'_>) -> Protocol {
    let default = Protocol::default();
    let transports = Transport::ALL.map(|transport| (transport.name(), transport));
    let transport = raw.transport.as_deref().unwrap_or(default.transport.name());
    let transport = section.choice("transport", transport, &transports);
    let dialects = Dialect::ALL.map(|dialect| (dialect.name(), dialect));
    let dialect = match raw.dialect.as_deref() {
        Some("sse") => {
            section.report("dialect", "\"sse\" is not a dialect: write transport = \"event-stream\" instead");
            default.dialect
        }
        dialect => section.choice("dialect", dialect.unwrap_or(default.dialect.name()), &dialects),
    };
    Protocol { transport, dialect }
}

/// Validates a name, which becomes a metric label.
fn name(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    if (1..=32).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.into());
    }
    Err(format!("must be 1 to 32 characters of a-z 0-9 _ - got {}", quoted(text)))
}

/// `/`, `/ws/trading`, `/ws/backtest/{run_id}`: plain segments and at most one parameter.
fn path(text: &str) -> Result<String, String> {
    let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b));
    let rest = text.strip_prefix('/').unwrap_or_default();
    let sound = text == "/" || rest.split('/').all(|segment| plain(braced(segment).unwrap_or(segment)));
    let parameters = rest.split('/').filter(|segment| braced(segment).is_some()).count();
    if !sound || parameters > 1 || text.len() > 200 {
        let example = "must be a path such as \"/ws/prices\" or \"/ws/backtest/{run_id}\", with at most one parameter";
        return Err(format!("{example}, got {}", quoted(text)));
    }
    if RESERVED.contains(&text) {
        return Err(format!("{text} is reserved by the gateway"));
    }
    Ok(text.into())
}

fn braced(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// The name of the path's parameter.
fn parameter(path: &str) -> Option<&str> {
    path.split('/').find_map(braced)
}

/// Whether a router cannot hold both: equal paths, or parameters of different names at the same position.
fn conflict(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('/'), b.split('/'));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(x), Some(y)) if x == y => {}
            (Some(x), Some(y)) => return braced(x).is_some() && braced(y).is_some(),
            _ => return false,
        }
    }
}

/// A topic name, which may contain the `{parameter}` of the path.
fn topic(template: &str, parameter: Option<&str>) -> Result<String, String> {
    let filled = parameter.map_or_else(|| template.into(), |name| template.replace(&format!("{{{name}}}"), "x"));
    let Err(error) = check_name(&filled) else { return Ok(template.into()) };
    let known = parameter
        .map_or_else(|| "the path has no parameter".into(), |name| format!("the path's parameter is {{{name}}}"));
    Err(format!("must be the name of a topic ({known}), got {}, which is {error}", quoted(template)))
}

fn commands_topic(template: Option<&str>, parameter: Option<&str>) -> Result<Option<String>, String> {
    template.filter(|template| !template.is_empty()).map(|template| topic(template, parameter)).transpose()
}

fn refusal_code(code: Option<u64>) -> Result<u16, String> {
    match code {
        None | Some(4001) => Ok(4001),
        Some(1008) => Ok(1008),
        Some(other) => Err(format!("must be 4001 or 1008, got {other}")),
    }
}

fn verb_of(verb: &str, prefix: &str, section: &mut Section<'_>) -> SymbolVerb {
    let sound = !verb.is_empty() && verb.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if !sound {
        section.report("symbol_verbs", format!("must be verbs of a-z and _, got {}", quoted(verb)));
    }
    SymbolVerb { verb: verb.into(), prefix: prefix.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_at_most_one_parameter() {
        for text in ["/", "/ws", "/ws/trading", "/ws/backtest/{run_id}", "/{a}/b.c~d"] {
            assert!(path(text).is_ok(), "{text}");
        }
        for text in ["", "ws", "/ws/", "//a", "/a b", "/{a}/{b}", "/a{b}", "/{}", "/*", "/health", "/ws/status"] {
            assert!(path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_that_a_router_cannot_hold_conflict() {
        for (a, b) in [("/ws", "/ws"), ("/ws/{a}", "/ws/{b}"), ("/{a}/x", "/{b}/y")] {
            assert!(conflict(a, b), "{a} {b}");
        }
        for (a, b) in [("/ws", "/ws/a"), ("/ws/{a}", "/ws/status"), ("/a/{x}", "/b/{y}"), ("/{a}/x", "/{a}/y")] {
            assert!(!conflict(a, b), "{a} {b}");
        }
    }

    #[test]
    fn topics_may_contain_only_the_parameter_of_their_path() {
        assert!(topic("run:{run_id}", Some("run_id")).is_ok());
        assert!(topic("alerts", None).is_ok());
        assert!(topic("run:{run}", Some("run_id")).unwrap_err().contains("{run_id}"));
        assert!(topic("run:{run_id}", None).unwrap_err().contains("no parameter"));
        assert!(topic("a,b", None).unwrap_err().ends_with("got \"a,b\", which is not a name: it contains `,`"));
    }
}
