//! Rights and limits of one client: a command in, an action out. Pure: time is an argument, and `connection` carries out
//! the action that is returned. Never decodes a message, never touches fan-out, sockets or Redis.

mod channels;
mod fault;
mod limits;

use std::sync::Arc;

use tickgate_wire::{
    code::ErrorCode,
    command::{Command, Ingest, Json, Since, Subscribe, Token},
    model::{Class, SessionId, Start, StreamId, TopicRules},
};

pub use channels::{Refused, Resolved, View, fill};
pub use fault::Fault;
pub use limits::Allowance;

use crate::{
    auth::Identity,
    config::{Limits, Profile, TokenRule},
};

/// What every session of a replica shares.
#[derive(Debug)]
pub struct Rules {
    pub topics: Arc<TopicRules>,
    pub limits: Limits,
    pub development: bool,
}

/// What is known of one client.
#[derive(Debug)]
pub struct Session {
    pub id: SessionId,
    pub profile: Arc<Profile>,
    /// The path's parameter, such as the run's id.
    pub param: Option<Box<str>>,
    identity: Option<Box<Identity>>,
    /// Where the private stream begins when the client subscribes to it (`?since=` on connect).
    private_since: Option<StreamId>,
    /// Updates per second of `state` channels that do not say otherwise.
    max_rate: Option<u32>,
}

/// One channel to be subscribed.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub resolved: Resolved,
    pub start: Start,
    pub max_rate: Option<u32>,
}

/// What a command asks for, once it is allowed.
#[derive(Debug)]
pub enum Action {
    Subscribe {
        wanted: Vec<Wanted>,
        refused: Vec<Refused>,
    },
    Unsubscribe {
        channels: Vec<String>,
    },
    Pong {
        timestamp: Option<Json>,
    },
    Authenticate {
        token: Token,
    },
    History {
        resolved: Resolved,
        since: Option<StreamId>,
        last: usize,
    },
    Publish {
        channel: String,
        user: Option<String>,
        data: Json,
        msg_id: Option<String>,
    },
    /// A command to the engine that executes a run.
    Command {
        topic: String,
        command: String,
        args: Option<Json>,
    },
    Presence {
        resolved: Resolved,
    },
    Configure {
        max_rate: Option<u32>,
        heartbeat_s: Option<u32>,
    },
    /// A producer's message.
    Ingest(Ingest),
}

impl Session {
    #[must_use]
    pub fn new(id: SessionId, profile: Arc<Profile>, param: Option<Box<str>>) -> Self {
        Self { id, profile, param, identity: None, private_since: None, max_rate: None }
    }

    /// Begins the private stream after `since` when it is first subscribed.
    pub fn set_private_since(&mut self, since: Option<StreamId>) {
        self.private_since = since;
    }

    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_deref()
    }

    /// Takes an identity, or its refresh.
    ///
    /// # Errors
    /// [`Fault`] when the token names another user than the one this session belongs to.
    pub fn identify(&mut self, identity: Identity) -> Result<(), Fault> {
        if self.identity.as_ref().is_some_and(|known| known.user != identity.user) {
            return Err(Fault::new(ErrorCode::Forbidden, "a session can't change its user; open a new connection"));
        }
        self.identity = Some(Box::new(identity));
        Ok(())
    }

    /// Takes the identity of a token that came in a message. True when it is the first one.
    ///
    /// # Errors
    /// [`Fault`] when the connection is anonymous for good, or as of [`Session::identify`].
    pub fn authenticate(&mut self, identity: Identity) -> Result<bool, Fault> {
        let first = self.identity.is_none();
        if first && self.profile.token != TokenRule::Required {
            let message = "this connection is anonymous; open a new one with the token";
            return Err(Fault::new(ErrorCode::Forbidden, message));
        }
        self.identify(identity)?;
        Ok(first)
    }

    /// Default for `state` channels that are subscribed from now on.
    pub fn set_max_rate(&mut self, max_rate: Option<u32>) {
        self.max_rate = max_rate;
    }

    /// This client's point of view on channel names.
    #[must_use]
    pub fn view<'a>(&'a self, rules: &'a Rules) -> View<'a> {
        View {
            profile: &self.profile,
            param: self.param.as_deref(),
            identity: self.identity(),
            topics: &rules.topics,
            development: rules.development,
        }
    }

    /// What a command means for this client, by its present rights.
    ///
    /// # Errors
    /// [`Fault`], reported to the client as an error message.
    pub fn decide(&mut self, command: Command, rules: &Rules) -> Result<Action, Fault> {
        if self.awaits_token() && !matches!(command, Command::Auth { .. } | Command::Ping { .. }) {
            return Err(Fault::new(ErrorCode::AuthRequired, "send {\"type\":\"auth\",\"token\":…} first"));
        }
        match command {
            Command::Subscribe(subscribe) => self.subscribe(&subscribe, rules),
            Command::SubscribeSymbols { verb, symbols } => {
                let channels = self.symbols(&verb, &symbols, rules)?;
                self.subscribe(&Subscribe { channels, ..Subscribe::default() }, rules)
            }
            Command::Unsubscribe { channels } => Ok(Action::Unsubscribe { channels }),
            Command::UnsubscribeSymbols { verb, symbols } => {
                Ok(Action::Unsubscribe { channels: self.symbols(&verb, &symbols, rules)? })
            }
            Command::Ping { timestamp } => Ok(Action::Pong { timestamp }),
            Command::Auth { token } => Ok(Action::Authenticate { token }),
            Command::History { channel, since, last, limit } => self.history(&channel, since, last.or(limit), rules),
            Command::Publish { channel, data, msg_id, user } => self.publish((channel, user), data, msg_id, rules),
            Command::Run { command, args } => self.command(command, args, rules),
            Command::Presence { channel } => {
                let resolved = self.view(rules).resolve(&channel).map_err(fault_of)?;
                Ok(Action::Presence { resolved })
            }
            Command::Configure { max_rate, heartbeat_interval } => {
                Ok(Action::Configure { max_rate, heartbeat_s: heartbeat_interval })
            }
            Command::Ingest(ingest) => self.ingest(ingest, rules),
        }
    }

    /// Whether the connection has to authenticate by its first message.
    #[must_use]
    pub fn awaits_token(&self) -> bool {
        self.profile.token == TokenRule::Required && self.identity.is_none()
    }

    fn symbols(&self, verb: &str, symbols: &[String], rules: &Rules) -> Result<Vec<String>, Fault> {
        let view = self.view(rules);
        let channels = symbols.iter().map(|symbol| view.symbol_channel(verb, symbol)).collect::<Result<_, _>>();
        channels.map_err(|message| Fault::new(ErrorCode::InvalidMessage, message))
    }

    fn subscribe(&mut self, subscribe: &Subscribe, rules: &Rules) -> Result<Action, Fault> {
        let (mut wanted, mut refused) = (Vec::new(), Vec::new());
        for channel in &subscribe.channels {
            match self.view(rules).resolve(channel) {
                Ok(resolved) => wanted.push(self.wanted(resolved, subscribe)),
                Err(reason) => refused.push(reason),
            }
        }
        if wanted.iter().any(|w| w.resolved.in_user_stream) {
            self.private_since = None;
        }
        Ok(Action::Subscribe { wanted, refused })
    }

    fn wanted(&self, resolved: Resolved, subscribe: &Subscribe) -> Wanted {
        let cursor = match &subscribe.since {
            Since::PerChannel(cursors) => {
                cursors.iter().find(|(channel, _)| **channel == *resolved.channel).map(|(_, cursor)| *cursor)
            }
            Since::Private(cursor) if resolved.in_user_stream => Some(*cursor),
            Since::Private(_) => None,
            Since::Live => self.private_since.filter(|_| resolved.in_user_stream),
        };
        let class = resolved.rule.class;
        let start = match (cursor, class, subscribe.last) {
            (cursor, Class::State, _) if subscribe.snapshot != Some(false) => {
                Start::Snapshot { least: cursor.unwrap_or(StreamId::ZERO) }
            }
            (_, Class::State, _) => Start::Live,
            (Some(cursor), ..) => Start::Since(cursor),
            (None, Class::Event, Some(last)) if last > 0 => Start::Last(last as usize),
            _ => Start::Live,
        };
        let max_rate = (class == Class::State).then(|| subscribe.max_rate.or(self.max_rate)).flatten();
        Wanted { resolved, start, max_rate }
    }

    /// The subscriptions that the endpoint starts by itself.
    #[must_use]
    pub fn on_connect(&self, rules: &Rules) -> Vec<Wanted> {
        let opening = self.view(rules).on_connect().into_iter();
        let wanted = opening.map(|resolved| {
            let start = match resolved.rule.class {
                Class::State => Start::Snapshot { least: StreamId::ZERO },
                _ => Start::Live,
            };
            Wanted { resolved, start, max_rate: None }
        });
        wanted.collect()
    }

    /// The subscriptions of a resumed session: each channel continues after the position that its client confirmed.
    #[must_use]
    pub fn restore(&self, channels: &[(String, Option<StreamId>, Option<u32>)], rules: &Rules) -> Vec<Wanted> {
        let view = self.view(rules);
        let resolved = channels.iter().filter_map(|(channel, confirmed, max_rate)| {
            let resolved = view.resolve(channel).ok()?;
            let start = match (resolved.rule.class, confirmed) {
                (Class::State, _) => Start::Snapshot { least: confirmed.unwrap_or(StreamId::ZERO) },
                (_, Some(cursor)) => Start::Resumed { after: *cursor, through: *cursor },
                (_, None) => Start::Live,
            };
            Some(Wanted { resolved, start, max_rate: *max_rate })
        });
        resolved.take(rules.limits.subscriptions_max).collect()
    }

    fn history(
        &self,
        channel: &str,
        since: Option<StreamId>,
        last: Option<u32>,
        rules: &Rules,
    ) -> Result<Action, Fault> {
        let resolved = self.view(rules).resolve(channel).map_err(fault_of)?;
        if resolved.rule.retain_max == 0 {
            return Err(Fault::new(ErrorCode::NotFound, "the channel keeps no history"));
        }
        let max = rules.limits.replay_entries_max.min(1_000);
        let last = last.map_or(100, |last| last as usize).clamp(1, max);
        Ok(Action::History { resolved, since, last })
    }

    fn publish(
        &self,
        (channel, user): (String, Option<String>),
        data: Json,
        msg_id: Option<String>,
        rules: &Rules,
    ) -> Result<Action, Fault> {
        let allowed = self.identity.as_ref().is_some_and(|identity| identity.rights.may_publish(&channel));
        if !allowed {
            return Err(Fault::new(ErrorCode::Forbidden, "the token has no publish right for this channel"));
        }
        if data.get().len() > rules.limits.payload_bytes_max {
            let max = rules.limits.payload_bytes_max;
            return Err(Fault::new(ErrorCode::InvalidMessage, format!("data is larger than {max} bytes")));
        }
        Ok(Action::Publish { channel, user, data, msg_id })
    }

    fn ingest(&self, ingest: Ingest, rules: &Rules) -> Result<Action, Fault> {
        let may_publish = |topic: &String| match &self.identity {
            Some(identity) => identity.rights.may_publish(topic),
            // A producer without an identity was admitted by an API key, or in development mode.
            None => rules.development || self.profile.token == TokenRule::Publisher,
        };
        match ingest.topics.first() {
            Some(topic) if !may_publish(topic) => {
                Err(Fault::new(ErrorCode::Forbidden, format!("the token has no publish right for {topic}")))
            }
            _ => Ok(Action::Ingest(ingest)),
        }
    }

    fn command(&self, command: String, args: Option<Json>, rules: &Rules) -> Result<Action, Fault> {
        let Some(template) = &self.profile.commands_topic else {
            return Err(Fault::new(ErrorCode::Forbidden, "this endpoint takes no commands"));
        };
        let granted = self.identity.as_ref().is_some_and(|identity| identity.rights.commands);
        if !(granted || rules.development && self.identity.is_none()) {
            return Err(Fault::new(ErrorCode::Forbidden, "the token does not allow commands"));
        }
        Ok(Action::Command { topic: fill(template, self.param.as_deref().unwrap_or_default()), command, args })
    }
}

fn fault_of(refused: Refused) -> Fault {
    Fault::new(refused.code, refused.message)
}
