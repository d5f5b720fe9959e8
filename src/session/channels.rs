//! Resolves a channel name for one client of one endpoint to a topic or a refusal. Pure.

use std::sync::Arc;

use tickgate_wire::{
    code::ErrorCode,
    model::{Topic, TopicRule, TopicRules, check_name},
    reply::{Details, ErrorObject, RefusedChannel},
};

use crate::{
    auth::TokenIdentity,
    config::{self, ChannelScope, Profile, TokenRule},
};

/// Used if the claim `runs` does not name the path parameter.
pub(super) const OTHER_RUN: &str = "this token does not allow the run: its claim `runs` must name it";

/// A channel that may be subscribed, and its topic.
#[derive(Clone, Debug)]
pub struct ResolvedChannel {
    /// The name that the client uses.
    pub channel: Arc<str>,
    /// The topic behind it.
    pub topic: Topic,
    /// How the topic's publications are retained and delivered.
    pub rule: Arc<TopicRule>,
    /// Whether it is stored in the user's stream, together with the user's other reliable private channels.
    pub in_user_stream: bool,
}

impl ResolvedChannel {
    /// The topic under which the channel's subscribers are counted.
    #[must_use]
    pub fn audience(&self) -> Topic {
        self.topic.audience(&self.channel)
    }
}

/// A refused channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelRefusal {
    /// The name that the client used.
    pub channel: String,
    /// The error code on the wire.
    pub code: ErrorCode,
    /// One sentence that states what is required.
    pub message: String,
    /// The invalid option.
    pub field: Option<String>,
    /// When to retry the same element.
    pub retry_after_ms: Option<u64>,
}

impl ChannelRefusal {
    /// A permanent refusal.
    #[must_use]
    pub fn new(channel: impl Into<String>, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { channel: channel.into(), code, message: message.into(), field: None, retry_after_ms: None }
    }
}

/// The form sent to the client.
impl From<ChannelRefusal> for RefusedChannel {
    fn from(refused: ChannelRefusal) -> Self {
        let ChannelRefusal { channel, code, message, field, retry_after_ms } = refused;
        let details = Details { field, retry_after_ms, ..Details::default() };
        Self { channel, object: ErrorObject { details, ..ErrorObject::new(code, message) } }
    }
}

/// What resolving names depends on.
#[derive(Clone, Copy, Debug)]
pub struct ChannelContext<'a> {
    /// The endpoint.
    pub profile: &'a Profile,
    /// The path parameter, such as a run id.
    pub param: Option<&'a str>,
    /// The client's token; `None`: it has none.
    pub identity: Option<&'a TokenIdentity>,
    /// The rules of all topics.
    pub topics: &'a TopicRules,
    /// In development mode, any token may subscribe to restricted channels.
    pub development: bool,
}

impl ChannelContext<'_> {
    /// Resolves a name written by a client.
    ///
    /// # Errors
    /// [`ChannelRefusal`]: the same for a channel that does not exist and one that is not allowed.
    pub fn resolve(&self, channel: &str) -> Result<ResolvedChannel, ChannelRefusal> {
        let refuse = |code, message: &str| ChannelRefusal::new(channel, code, message);
        check_name(channel).map_err(|error| refuse(ErrorCode::InvalidMessage, &error.to_string()))?;
        let offered = self.profile.channels.iter().find(|offered| offered.pattern.matches(channel));
        let Some(offered) = offered else {
            return Err(refuse(ErrorCode::Forbidden, &self.not_offered()));
        };
        if !self.allowed(channel, offered) {
            return Err(refuse(ErrorCode::Forbidden, "this token does not allow the channel"));
        }
        if offered.scope.has_parameter() && !self.may_watch() {
            return Err(refuse(ErrorCode::Forbidden, OTHER_RUN));
        }
        self.topic(channel, &offered.scope)
            .ok_or_else(|| refuse(ErrorCode::Forbidden, "a private channel requires a token that names a user"))
    }

    fn allowed(&self, channel: &str, offered: &config::OfferedChannel) -> bool {
        match self.identity {
            Some(_) if self.development && offered.restricted => true,
            Some(identity) => identity.rights.may_subscribe(channel, offered.restricted),
            None => !offered.restricted,
        }
    }

    /// Whether the client may watch the run in the path. A token without the claim allows as much as no token.
    fn may_watch(&self) -> bool {
        let (Some(run), Some(identity)) = (self.param, self.identity) else { return true };
        identity.rights.may_reach(run, self.development || self.profile.token != TokenRule::Required)
    }

    fn topic(&self, channel: &str, scope: &ChannelScope) -> Option<ResolvedChannel> {
        let (topic, rule, in_user_stream) = match scope {
            ChannelScope::Public => (Topic::from_wire(channel), self.topics.of_name(channel), false),
            ChannelScope::Path(template) => {
                let name = fill(template, self.param.unwrap_or_default());
                check_name(&name).ok()?;
                let topic = Topic::from_wire(&name);
                (topic.clone(), self.topics.of_topic(&topic), false)
            }
            ChannelScope::Private => {
                let private = self.topics.of_private(&self.identity?.user, channel);
                (private.topic, private.rule, private.in_user_stream)
            }
        };
        Some(ResolvedChannel { channel: channel.into(), topic, rule: rule.clone(), in_user_stream })
    }

    fn not_offered(&self) -> String {
        if self.profile.channels.is_empty() {
            return "this endpoint offers no channels".into();
        }
        let names: Vec<_> = self.profile.channels.iter().map(|c| c.pattern.as_str()).collect();
        format!("this endpoint offers: {}", names.join(", "))
    }

    /// The channels that are subscribed when the connection opens, and those among them that this client may not have.
    #[must_use]
    pub fn on_connect(&self) -> (Vec<ResolvedChannel>, Vec<ChannelRefusal>) {
        let opening = self.profile.channels.iter().filter(|offered| offered.on_connect);
        let (mut granted, mut refused) = (Vec::new(), Vec::new());
        for offered in opening {
            match self.resolve(offered.pattern.as_str()) {
                Ok(resolved) => granted.push(resolved),
                Err(refusal) => refused.push(refusal),
            }
        }
        (granted, refused)
    }

    /// The prefix that turns a symbol into a channel name for `subscribe_<verb>`.
    ///
    /// # Errors
    /// A message if the endpoint does not know the verb.
    pub fn symbol_prefix(&self, verb: &str) -> Result<&str, String> {
        let known = &self.profile.symbol_verbs;
        match known.iter().find(|known| known.verb == verb) {
            Some(known) => Ok(&known.prefix),
            None if known.is_empty() => Err("this endpoint has no symbols; use subscribe with channels".into()),
            None => {
                let names: Vec<_> = known.iter().map(|k| format!("subscribe_{}", k.verb)).collect();
                Err(format!("this endpoint knows {}", names.join(", ")))
            }
        }
    }
}

/// Replaces the one parameter of a template such as `run:{run_id}`.
#[must_use]
pub fn fill(template: &str, value: &str) -> String {
    match (template.find('{'), template.find('}')) {
        (Some(open), Some(close)) if open < close => {
            format!("{}{value}{}", &template[..open], &template[close + 1..])
        }
        _ => template.to_owned(),
    }
}
