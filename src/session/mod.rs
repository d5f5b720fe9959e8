//! Rights and limits of one client: a command in, an action out. Pure: time is an argument, and `connection` performs
//! the returned action. Never decodes a message, and never touches fan-out, sockets or Redis.

mod action;
mod channels;
mod fault;
mod identity;
mod limits;

use std::sync::Arc;

use tickgate_wire::{
    code::ErrorCode,
    command::{
        ChannelRequest, Command, HistoryFrom, Ingest, InvalidElement, Json, ListedName, Since, SubscribeOptions,
    },
    model::{Class, SessionId, StartAt, StreamId, TopicRules},
};

pub use action::{RequestedChannel, SessionAction};
pub use channels::{ChannelContext, ChannelRefusal, ResolvedChannel, fill};
pub use fault::MessageFault;
pub use limits::{ViolationAllowance, names_rate};

use crate::config::{Limits, Profile, TokenRule};

/// What all sessions of a replica share.
#[derive(Debug)]
pub struct SessionRules {
    /// The rules of all topics.
    pub topics: Arc<TopicRules>,
    /// Bounds of commands and of their rates.
    pub limits: Limits,
    /// Development mode: producers need no token.
    pub development: bool,
}

/// The state of one client.
#[derive(Debug)]
pub struct Session {
    /// The session's id.
    pub id: SessionId,
    /// The endpoint.
    pub profile: Arc<Profile>,
    /// The path parameter, such as a run id.
    pub param: Option<Box<str>>,
    /// Explicit mode: the client receives only what it subscribes to.
    pub explicit: bool,
    speaker: Option<Box<identity::SessionIdentity>>,
}

/// Default and maximum number of publications per page of history.
const HISTORY_MAX: usize = 1_000;
const HISTORY_DEFAULT: usize = 100;

const IN_URL: &str = "a position in the URL is for channels that the endpoint subscribes automatically; give it to \
                      `subscribe`, in an element of `channels`";
const ONE_CURSOR: &str = "a cursor belongs to one channel, and this endpoint subscribes several; give each its own by \
                          `subscribe`, in an element of `channels`";

impl Session {
    /// A session of an unknown client.
    #[must_use]
    pub fn new(id: SessionId, profile: Arc<Profile>, param: Option<Box<str>>, explicit: bool) -> Self {
        Self { id, profile, param, explicit, speaker: None }
    }

    /// The context for resolving this client's channel names.
    #[must_use]
    pub fn view<'a>(&'a self, rules: &'a SessionRules) -> ChannelContext<'a> {
        ChannelContext {
            profile: &self.profile,
            param: self.param.as_deref(),
            identity: self.identity(),
            topics: &rules.topics,
            development: rules.development,
        }
    }

    /// Decides what a command means for this client with its current rights.
    ///
    /// # Errors
    /// [`MessageFault`], sent to the client as an error message.
    pub fn decide(&mut self, command: Command, rules: &SessionRules) -> Result<SessionAction, MessageFault> {
        if self.awaits_token() && !matches!(command, Command::Auth { .. } | Command::Ping { .. }) {
            return Err(MessageFault::new(ErrorCode::AuthRequired, "send {\"type\":\"auth\",\"token\":…} first"));
        }
        match command {
            Command::Subscribe { elements } => Ok(self.subscribe(elements, rules)),
            Command::SubscribeSymbols { verb, symbols } => {
                let channels = self.symbols(&verb, symbols, rules)?.into_iter();
                Ok(self.subscribe(channels.map(plain_symbol).collect(), rules))
            }
            Command::Unsubscribe { channels } => Ok(unsubscribe("channels", channels)),
            Command::UnsubscribeSymbols { verb, symbols } => {
                Ok(unsubscribe("symbols", self.symbols(&verb, symbols, rules)?))
            }
            Command::Ping { timestamp } => Ok(SessionAction::Pong { timestamp }),
            Command::Auth { token } => Ok(SessionAction::Authenticate { token }),
            Command::History { channel, from } => self.history(&channel, from, rules),
            Command::Publish { channel, data, msg_id, user, count } => {
                self.may_publish(&channel, &data, rules)?;
                Ok(SessionAction::Publish { channel, user, data, msg_id, count })
            }
            Command::Run { command, args, msg_id } => self.command(command, args, msg_id, rules),
            Command::Presence { channel } => {
                let resolved = self.view(rules).resolve(&channel).map_err(fault_of)?;
                Ok(SessionAction::Presence { resolved })
            }
            Command::Configure { heartbeat_interval } => {
                Ok(SessionAction::Configure { heartbeat_s: heartbeat_interval })
            }
            Command::Ingest(ingest) => self.ingest(ingest, rules),
        }
    }

    /// Whether the connection must authenticate with its first message.
    #[must_use]
    pub fn awaits_token(&self) -> bool {
        self.profile.token == TokenRule::Required && self.identity().is_none()
    }

    /// The channels of symbols.
    fn symbols(
        &self,
        verb: &str,
        symbols: Vec<ListedName>,
        rules: &SessionRules,
    ) -> Result<Vec<ListedName>, MessageFault> {
        let view = self.view(rules);
        let prefix =
            view.symbol_prefix(verb).map_err(|message| MessageFault::new(ErrorCode::InvalidMessage, message))?;
        let channel = |symbol: ListedName| match symbol.name.is_empty() {
            true => symbol,
            false => ListedName { name: format!("{prefix}{}", symbol.name), ..symbol },
        };
        Ok(symbols.into_iter().map(channel).collect())
    }

    fn subscribe(&self, elements: Vec<ChannelRequest>, rules: &SessionRules) -> SessionAction {
        let view = self.view(rules);
        let (mut wanted, mut refused): (Vec<RequestedChannel>, _) = (Vec::with_capacity(elements.len()), Vec::new());
        for element in elements {
            let again = wanted.iter().any(|known| *known.resolved.channel == *element.channel);
            if again && element.options == Ok(SubscribeOptions::default()) {
                continue;
            }
            let result = match element.options {
                _ if again => {
                    Err(wrong_option(&element, None, "the channel is named twice, the second time with options"))
                }
                Ok(options) => match view.resolve(&element.channel) {
                    Ok(resolved) => with(resolved, &element, options),
                    Err(refused) if refused.code == ErrorCode::InvalidMessage => {
                        Err(ChannelRefusal { field: Some(element.place()), ..refused })
                    }
                    Err(refused) => Err(refused),
                },
                Err(ref invalid) => {
                    let refused = ChannelRefusal::new(&*element.channel, ErrorCode::InvalidMessage, &*invalid.message);
                    Err(ChannelRefusal { field: Some(invalid.field.clone()), ..refused })
                }
            };
            match result {
                Ok(next) => wanted.push(next),
                Err(reason) => refused.push(reason),
            }
        }
        SessionAction::Subscribe { wanted, refused }
    }

    /// The subscriptions that the endpoint starts automatically, and those that the token does not allow; none in
    /// explicit mode. `from`: where a returning client's subscriptions start.
    #[must_use]
    pub fn on_connect(
        &self,
        from: SubscribeOptions,
        rules: &SessionRules,
    ) -> (Vec<RequestedChannel>, Vec<ChannelRefusal>) {
        if self.explicit {
            return Default::default();
        }
        let begin = |resolved: ResolvedChannel| {
            let since = from.since.filter(|_| resolved.rule.retain_max > 0);
            let last = from.last.filter(|_| takes_last(&resolved));
            let start = start(resolved.rule.class, SubscribeOptions { since, last, ..SubscribeOptions::default() });
            RequestedChannel { start, resolved, max_rate: None, restarts: false }
        };
        let (granted, refused) = self.view(rules).on_connect();
        (granted.into_iter().map(begin).collect(), refused)
    }

    fn history(&self, channel: &str, from: HistoryFrom, rules: &SessionRules) -> Result<SessionAction, MessageFault> {
        let resolved = self.view(rules).resolve(channel).map_err(fault_of)?;
        if resolved.rule.retain_max == 0 {
            return Err(MessageFault::new(ErrorCode::NotFound, "the channel is not retained"));
        }
        let max = rules.limits.replay_entries_max.min(HISTORY_MAX);
        let count = match from {
            HistoryFrom::Last(last) => last.map_or(HISTORY_DEFAULT, |last| last as usize).min(max),
            HistoryFrom::Since(_) => max,
        };
        Ok(SessionAction::History { resolved, from, count })
    }

    fn may_publish(&self, channel: &str, data: &Json, rules: &SessionRules) -> Result<(), MessageFault> {
        let allowed = self.identity().is_some_and(|identity| identity.rights.may_publish(channel));
        if !allowed {
            return Err(MessageFault::new(ErrorCode::Forbidden, "the token has no publish right for this channel"));
        }
        if data.get().len() > rules.limits.payload_bytes_max {
            let max = rules.limits.payload_bytes_max;
            return Err(MessageFault::new(ErrorCode::InvalidMessage, format!("data is larger than {max} bytes")));
        }
        Ok(())
    }

    fn ingest(&self, ingest: Ingest, rules: &SessionRules) -> Result<SessionAction, MessageFault> {
        let may_publish = |topic: &String| match self.identity() {
            Some(identity) => identity.rights.may_publish(topic),
            None => match self.key() {
                Some(key) => key.reaches(topic),
                // Producers without a key are admitted in development mode only.
                None => rules.development,
            },
        };
        // Checks every topic: an event is also sent to the topic of its run, which other users may subscribe to.
        match ingest.topics.iter().find(|topic| !may_publish(topic)) {
            Some(topic) => Err(MessageFault::new(ErrorCode::Forbidden, format!("no publish right for {topic}"))),
            None => Ok(SessionAction::Ingest(ingest)),
        }
    }

    fn command(
        &self,
        command: String,
        args: Option<Json>,
        msg_id: Option<String>,
        rules: &SessionRules,
    ) -> Result<SessionAction, MessageFault> {
        let Some(template) = &self.profile.commands_topic else {
            return Err(MessageFault::new(ErrorCode::Forbidden, "this endpoint accepts no commands"));
        };
        let granted = self.identity().is_some_and(|identity| identity.rights.commands);
        if !(granted || rules.development && self.identity().is_none()) {
            return Err(MessageFault::new(ErrorCode::Forbidden, "the token does not allow commands"));
        }
        let may_reach = |run: &str| match self.identity() {
            Some(identity) => identity.rights.may_reach(run, rules.development),
            None => true,
        };
        if !self.param.as_deref().is_none_or(may_reach) {
            return Err(MessageFault::new(ErrorCode::Forbidden, channels::OTHER_RUN));
        }
        let topic = fill(template, self.param.as_deref().unwrap_or_default());
        Ok(SessionAction::Command { topic, command, args, msg_id })
    }
}

/// A channel named by a symbol, which has no options.
fn plain_symbol(ListedName { name, index, fault }: ListedName) -> ChannelRequest {
    const LIST: &str = "symbols";
    let refused = |message| Err(InvalidElement { field: format!("{LIST}[{index}]"), message });
    ChannelRequest { channel: name, list: LIST, index, options: fault.map_or(Ok(SubscribeOptions::default()), refused) }
}

fn unsubscribe(list: &str, names: Vec<ListedName>) -> SessionAction {
    let (mut channels, mut refused) = (Vec::with_capacity(names.len()), Vec::new());
    for ListedName { name, index, fault } in names {
        match fault {
            None => channels.push(name),
            Some(message) => {
                let field = Some(format!("{list}[{index}]"));
                refused.push(ChannelRefusal { field, ..ChannelRefusal::new(name, ErrorCode::InvalidMessage, message) });
            }
        }
    }
    SessionAction::Unsubscribe { channels, refused }
}

/// A channel with its options, if they apply to it.
fn with(
    resolved: ResolvedChannel,
    element: &ChannelRequest,
    options: SubscribeOptions,
) -> Result<RequestedChannel, ChannelRefusal> {
    let class = resolved.rule.class;
    let refuse = |option, message: &str| Err(wrong_option(element, Some(option), message));
    if options.since.is_some() && resolved.rule.retain_max == 0 {
        return refuse("since", "`since` requires a retained channel");
    }
    if options.last.is_some() && !takes_last(&resolved) {
        return refuse("last", "`last` is for retained channels that are neither of class `state` nor private");
    }
    if options.max_rate.is_some() && class != Class::State {
        return refuse("max_rate", "`max_rate` is for channels of class `state`");
    }
    if options.snapshot.is_some() && class != Class::State {
        return refuse("snapshot", "`snapshot` is for channels of class `state`");
    }
    let restarts = options.since.is_some() || options.last.is_some();
    Ok(RequestedChannel { start: start(class, options), resolved, max_rate: options.max_rate, restarts })
}

/// Checks that options from the URL apply to the channels that the endpoint subscribes automatically.
///
/// # Errors
/// The option that does not apply, and a message.
pub fn check_begin(begin: SubscribeOptions, channels: &[ResolvedChannel]) -> Result<(), (&'static str, &'static str)> {
    let retained = channels.iter().filter(|resolved| resolved.rule.retain_max > 0).count();
    match begin.since {
        Some(_) if retained == 0 => Err(("since", IN_URL)),
        Some(Since::After(cursor)) if retained > 1 && cursor != StreamId::ZERO => Err(("since", ONE_CURSOR)),
        Some(_) if begin.last.is_some() => Err(("last", "`last` and `since` exclude each other")),
        None if begin.last.is_some() && !channels.iter().any(takes_last) => Err(("last", IN_URL)),
        _ => Ok(()),
    }
}

fn takes_last(resolved: &ResolvedChannel) -> bool {
    resolved.rule.class != Class::State && resolved.rule.retain_max > 0 && !resolved.in_user_stream
}

fn wrong_option(element: &ChannelRequest, option: Option<&str>, message: &str) -> ChannelRefusal {
    let place = element.place();
    let field = option.map_or_else(|| place.clone(), |option| format!("{place}.{option}"));
    ChannelRefusal { field: Some(field), ..ChannelRefusal::new(&*element.channel, ErrorCode::InvalidMessage, message) }
}

/// Where a subscription with these options starts.
fn start(class: Class, options: SubscribeOptions) -> StartAt {
    match (class, options.since) {
        (Class::State, _) if options.snapshot == Some(false) => StartAt::Live,
        (Class::State, Some(Since::After(least))) => StartAt::Snapshot { least },
        (Class::State, _) => StartAt::Snapshot { least: StreamId::ZERO },
        (_, Some(Since::After(cursor))) => StartAt::Since(cursor),
        (_, Some(Since::Earliest)) => StartAt::Earliest,
        (_, None) => options.last.map_or(StartAt::Live, |last| StartAt::Last(last as usize)),
    }
}

fn fault_of(refused: ChannelRefusal) -> MessageFault {
    MessageFault::new(refused.code, refused.message)
}
