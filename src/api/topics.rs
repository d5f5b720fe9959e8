//! Topics that this replica follows, and the retained publications of any topic. Never changes anything.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tickgate_wire::model::{Class, Content, Message, StreamId, Topic, TopicRule, TopicRules, UserId};

use super::{ApiShared, Problem, ProblemKind};
use crate::{
    auth::ApiKey,
    backplane::{ChannelMessages, Newest, NewestOfChannel, ReadLimits},
    config::Right,
    registry::TopicPresence,
};

/// Default and maximum number of listed topics.
const LISTED_DEFAULT: usize = 1_000;
const LISTED_MAX: usize = 100_000;
/// Default and maximum number of publications per page.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicQuery {
    limit: Option<usize>,
}

#[derive(Serialize)]
struct ListedTopic {
    topic: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    class: Class,
    retained: bool,
    subscribers: usize,
}

#[derive(Serialize)]
struct TopicList {
    replica: String,
    topics: Vec<ListedTopic>,
    /// All followed topics, listed or not.
    total: usize,
}

/// Lists the topics that this replica follows, by number of subscriptions in descending order.
pub(super) async fn topics(
    State(shared): State<Arc<ApiShared>>,
    Extension(key): Extension<Arc<ApiKey>>,
    listing: Result<Query<TopicQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(listing) = listing.map_err(|error| Problem::invalid(error.body_text()))?;
    let limit = listing.limit.unwrap_or(LISTED_DEFAULT).min(LISTED_MAX);
    let total = shared.figures.topics();
    let within = |(topic, _): &(Topic, usize)| key.reaches(topic.as_str());
    let topics = shared.figures.busiest(limit).into_iter().filter(within).map(|(topic, subscribers)| {
        let rule = shared.config.topics.of_topic(&topic);
        ListedTopic {
            user: topic.owner().map(str::to_owned),
            class: rule.class,
            retained: rule.retain_max > 0,
            topic: topic.to_string(),
            subscribers,
        }
    });
    Ok(Json(TopicList { replica: shared.replica.to_string(), topics: topics.collect(), total }).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicOwner {
    /// The owner, if `topic` names a private channel.
    user: Option<String>,
}

/// How publications of a topic are retained and delivered.
#[derive(Serialize)]
struct TopicSettings<'a> {
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    /// The topic's name in Redis, which differs for private channels.
    stored_as: String,
    /// The channel's name in the entries of a stream that several channels share.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_channel: Option<&'a str>,
    #[serde(flatten)]
    rule: &'a TopicRule,
}

/// The rule of a topic or private channel, for engines that write to Redis directly.
pub(super) async fn rule(
    State(shared): State<Arc<ApiShared>>,
    Path(name): Path<String>,
    named: Result<Query<TopicOwner>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(named) = named.map_err(|error| Problem::invalid(error.body_text()))?;
    let (topic, stored_channel) = topic_of(&shared.config.topics, &name, named.user.as_deref())?;
    let (rule, stored_as) = (shared.config.topics.of_topic(&topic), topic.to_string());
    let answer = TopicSettings { topic: &name, user: named.user.as_deref(), stored_as, stored_channel, rule };
    Ok(Json(answer).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    /// The owner, if `topic` names a private channel.
    user: Option<String>,
    /// Only entries after this id.
    since: Option<StreamId>,
    /// The number of newest entries; the default if `since` is absent.
    last: Option<usize>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct HistoryEntry<'a> {
    id: Option<StreamId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<LostPublications>,
}

/// Acknowledged publications that Redis lost.
#[derive(Serialize)]
struct LostPublications {
    after: StreamId,
    before: StreamId,
}

#[derive(Serialize)]
struct TopicHistory<'a> {
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    messages: Vec<HistoryEntry<'a>>,
    /// Whether nothing is missing between `since` and the last entry.
    complete: bool,
    /// Whether more entries follow: request them with `since=<cursor>`.
    more: bool,
    cursor: Option<StreamId>,
}

/// Retained publications of a topic or a user's private channel.
pub(super) async fn history(
    State(shared): State<Arc<ApiShared>>,
    Extension(key): Extension<Arc<ApiKey>>,
    Path(name): Path<String>,
    asked: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(asked) = asked.map_err(|error| Problem::invalid(error.body_text()))?;
    if asked.since.is_some() && asked.last.is_some() {
        return Err(Problem::invalid("`since` and `last` exclude each other"));
    }
    may_read(&shared, &key, &name)?;
    let (topic, channel) = topic_of(&shared.config.topics, &name, asked.user.as_deref())?;
    if shared.config.topics.of_topic(&topic).retain_max == 0 {
        return Err(Problem::new(ProblemKind::NotFound, "no publications of this topic are retained"));
    }
    let limit = asked.limit.or(asked.last).unwrap_or(PAGE_DEFAULT).min(PAGE_MAX);
    let limits = ReadLimits::new(limit, shared.config.limits.replay_bytes_max);
    let last_of = |messages: &[Arc<Message>]| messages.last().and_then(|message| message.id);
    let (messages, contiguous, more, cursor) = match (asked.since, channel) {
        (Some(since), _) => {
            let page = shared.backplane.read_on(&topic, since, None, limits).await?;
            (page.messages, page.lack.is_none(), page.more, Some(page.cursor))
        }
        (None, Some(channel)) => {
            let mut search = NewestOfChannel::new(&topic, channel, limits, shared.looked_at());
            while !search.step(&shared.backplane).await? {}
            let ChannelMessages { messages, head, whole } = search.finish();
            (messages, whole, false, Some(head).filter(|head| *head != StreamId::ZERO))
        }
        (None, None) => {
            let Newest { messages, whole } = shared.backplane.newest(&topic, limits).await?;
            let cursor = last_of(&messages);
            (messages, whole, false, cursor)
        }
    };
    let is_lost = |message: &Message| matches!(message.content, Content::Unreadable);
    let lost = messages.iter().any(|message| is_lost(message));
    // A user's stream holds all reliable channels: entries of other channels are skipped, but the cursor passes them.
    let wanted = |message: &Message| channel.is_none() || message.channel.as_deref() == channel || is_lost(message);
    let messages = messages.iter().filter(|message| wanted(message)).filter_map(|message| entry(message)).collect();
    let history = TopicHistory {
        topic: &name,
        user: asked.user.as_deref(),
        messages,
        complete: contiguous && !lost,
        more,
        cursor,
    };
    Ok(Json(history).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AskedPresence {
    topic: String,
    /// The owner, if `topic` names a private channel.
    user: Option<String>,
}

#[derive(Serialize)]
struct TopicFollowers<'a> {
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    connections: u64,
    users: u64,
    /// Whether `users` is incomplete.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more: bool,
}

/// The subscribers of a topic or private channel on all replicas.
pub(super) async fn presence(
    State(shared): State<Arc<ApiShared>>,
    Extension(key): Extension<Arc<ApiKey>>,
    asked: Result<Query<AskedPresence>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(AskedPresence { topic: name, user }) = asked.map_err(|error| Problem::invalid(error.body_text()))?;
    may_read(&shared, &key, &name)?;
    let (topic, _) = topic_of(&shared.config.topics, &name, user.as_deref())?;
    let TopicPresence { connections, users, more } = shared.registry.presence(&topic.audience(&name)).await?;
    Ok(Json(TopicFollowers { topic: &name, user: user.as_deref(), connections, users, more }).into_response())
}

/// Checks that the key may read this topic.
pub(super) fn may_read(shared: &ApiShared, key: &ApiKey, name: &str) -> Result<(), Problem> {
    if key.reaches(name) {
        return Ok(());
    }
    shared.audit.forbidden_topic(&key.name, Right::Read.as_str(), name);
    Err(Problem::new(ProblemKind::Forbidden, format!("the API key {} may not read {name:?}", key.name)))
}

impl ApiShared {
    /// Limits on reading a user's stream for one of its channels.
    fn looked_at(&self) -> ReadLimits {
        let limits = &self.config.limits;
        ReadLimits::new(limits.replay_entries_max, limits.replay_bytes_max)
    }
}

/// The topic of a channel name, and the channel to filter from a user's stream.
fn topic_of<'a>(rules: &TopicRules, name: &'a str, user: Option<&str>) -> Result<(Topic, Option<&'a str>), Problem> {
    let invalid = |error: &dyn std::fmt::Display| Problem::invalid(error.to_string());
    let public = Topic::public(name).map_err(|error| Problem::invalid(format!("the topic is {error}")))?;
    let Some(user) = user else { return Ok((public, None)) };
    let user = UserId::new(user).map_err(|error| invalid(&error))?;
    let private = rules.of_private(&user, name);
    Ok((private.topic, private.in_user_stream.then_some(name)))
}

fn entry(message: &Message) -> Option<HistoryEntry<'_>> {
    let entry = HistoryEntry { id: message.id, channel: message.channel.as_deref(), data: None, lost: None };
    match &message.content {
        // Checked when it was published; an entry that is no longer valid JSON is omitted.
        Content::Data(payload) => Some(HistoryEntry { data: Some(serde_json::from_slice(payload).ok()?), ..entry }),
        Content::Unreadable => {
            let id = message.id?;
            Some(HistoryEntry { lost: Some(LostPublications { after: id.previous(), before: id.next() }), ..entry })
        }
    }
}
