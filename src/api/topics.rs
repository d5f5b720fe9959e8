//! Topics that this replica follows, and the retained publications of any topic. Never changes anything.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tickgate_wire::model::{Class, Content, Message, StreamId, Topic, TopicRules, UserId};

use super::{Problem, ProblemKind, Shared};
use crate::{
    auth::ApiKey,
    backplane::{Newest, ReadLimits},
    config::Right,
};

/// Topics listed unless asked otherwise, and at the most.
const LISTED_DEFAULT: usize = 1_000;
const LISTED_MAX: usize = 100_000;
/// Publications of one page unless asked otherwise, and at the most.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;

#[derive(Deserialize)]
pub(super) struct Listing {
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Listed {
    topic: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    class: Class,
    retained: bool,
    subscribers: usize,
}

#[derive(Serialize)]
struct Topics {
    replica: String,
    topics: Vec<Listed>,
    /// All that are followed, listed or not.
    total: usize,
}

/// Topics that this replica follows, the busiest first.
pub(super) async fn topics(
    State(shared): State<Arc<Shared>>,
    Extension(key): Extension<Arc<ApiKey>>,
    listing: Result<Query<Listing>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(listing) = listing.map_err(|error| Problem::invalid(error.body_text()))?;
    let limit = listing.limit.unwrap_or(LISTED_DEFAULT).min(LISTED_MAX);
    let total = shared.figures.topics();
    let within = |(topic, _): &(Topic, usize)| key.reaches(topic.as_str());
    let topics = shared.figures.busiest(limit).into_iter().filter(within).map(|(topic, subscribers)| {
        let rule = shared.config.topics.of_topic(&topic);
        Listed {
            user: topic.owner().map(str::to_owned),
            class: rule.class,
            retained: rule.retain_max > 0,
            topic: topic.to_string(),
            subscribers,
        }
    });
    Ok(Json(Topics { replica: shared.replica.to_string(), topics: topics.collect(), total }).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// The user whose private channel `topic` names.
    user: Option<String>,
    /// Only what came after this id.
    since: Option<StreamId>,
    /// The newest so many; the default when `since` is absent.
    last: Option<usize>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Entry<'a> {
    id: Option<StreamId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<Lost>,
}

/// Acknowledged publications that Redis lost.
#[derive(Serialize)]
struct Lost {
    after: StreamId,
    before: StreamId,
}

#[derive(Serialize)]
struct History<'a> {
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    messages: Vec<Entry<'a>>,
    /// Nothing between `since` and the last of these is missing.
    complete: bool,
    /// Whether more follows: ask again with `since=<cursor>`.
    more: bool,
    cursor: Option<StreamId>,
}

/// Retained publications of a topic, or of a user's private channel.
pub(super) async fn history(
    State(shared): State<Arc<Shared>>,
    Extension(key): Extension<Arc<ApiKey>>,
    Path(name): Path<String>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(asked) = asked.map_err(|error| Problem::invalid(error.body_text()))?;
    if asked.since.is_some() && asked.last.is_some() {
        return Err(Problem::invalid("ask either `since` an id or for the `last` publications"));
    }
    if !key.reaches(&name) {
        shared.audit.forbidden_topic(&key.name, Right::Read.as_str(), &name);
        let detail = format!("the api key {} may not read {name:?}", key.name);
        return Err(Problem::new(ProblemKind::Forbidden, detail));
    }
    let (topic, channel) = topic_of(&shared.config.topics, &name, asked.user.as_deref())?;
    if shared.config.topics.of_topic(&topic).retain_max == 0 {
        return Err(Problem::new(ProblemKind::NotFound, "no publications of this topic are retained"));
    }
    let limit = asked.limit.or(asked.last).unwrap_or(PAGE_DEFAULT).min(PAGE_MAX);
    let limits = ReadLimits::new(limit, shared.config.limits.replay_bytes_max);
    let (messages, contiguous, more) = match asked.since {
        Some(since) => {
            let page = shared.backplane.read(&topic, since, limits).await?;
            (page.messages, page.contiguous, page.more)
        }
        None => {
            let Newest { messages, whole } = shared.backplane.newest(&topic, limits).await?;
            (messages, whole, false)
        }
    };
    let is_lost = |message: &Message| matches!(message.content, Content::Lost { .. });
    let lost = messages.iter().any(|message| is_lost(message));
    let cursor = messages.last().and_then(|message| message.id).or(asked.since);
    // A user's stream holds all reliable channels; the others' publications are passed over, the cursor is not.
    let wanted = |message: &Message| channel.is_none() || message.channel.as_deref() == channel || is_lost(message);
    let messages = messages.iter().filter(|message| wanted(message)).filter_map(|message| entry(message)).collect();
    let history =
        History { topic: &name, user: asked.user.as_deref(), messages, complete: contiguous && !lost, more, cursor };
    Ok(Json(history).into_response())
}

/// The topic behind a channel name, and the channel to pick out of a user's stream.
fn topic_of<'a>(rules: &TopicRules, name: &'a str, user: Option<&str>) -> Result<(Topic, Option<&'a str>), Problem> {
    let invalid = |error: &dyn std::fmt::Display| Problem::invalid(error.to_string());
    let public = Topic::public(name).map_err(|error| invalid(&error))?;
    let Some(user) = user else { return Ok((public, None)) };
    let user = UserId::new(user).map_err(|error| invalid(&error))?;
    let private = rules.of_private(&user, name);
    Ok((private.topic, private.in_user_stream.then_some(name)))
}

fn entry(message: &Message) -> Option<Entry<'_>> {
    let entry = Entry { id: message.id, channel: message.channel.as_deref(), data: None, lost: None };
    match &message.content {
        // Checked when it was published; what is not JSON any more is left out rather than break the document.
        Content::Data(payload) => Some(Entry { data: Some(serde_json::from_slice(payload).ok()?), ..entry }),
        Content::Lost { after, before, .. } => {
            Some(Entry { lost: Some(Lost { after: *after, before: *before }), ..entry })
        }
    }
}
