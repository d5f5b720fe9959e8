//! Reads the next page after a position and determines what is missing in between. While a boundary is pending, it
//! waits for the verdict for a bounded time.

use std::{sync::Arc, time::Duration};

use tickgate_wire::model::{Message, StreamId, Topic};
use tokio::time::{Instant, sleep};

use super::{Backplane, ReadLimits, StreamPage, StreamUnavailable};
use crate::history::{Generations, Missing, StepVerdict, StillPending};

/// A verdict takes at most five seconds from the boundary.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(10);
const VERDICT_PAUSE: Duration = Duration::from_millis(50);

/// The next page after a position.
#[derive(Clone, Debug)]
pub struct NextPage {
    /// Consecutive messages.
    pub messages: Vec<Arc<Message>>,
    /// Whether more follows, or messages are missing after these.
    pub more: bool,
    /// What is missing before the first message, or before the end.
    pub lack: Option<MissingRange>,
    /// The position after all this: if nothing follows, the end of what is known, which may be in a later generation.
    pub cursor: StreamId,
}

/// A range that is not available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingRange {
    /// Why its entries are not available.
    pub missing: Missing,
    /// The position before the range.
    pub after: StreamId,
    /// `None` if the position was never given.
    pub before: Option<StreamId>,
    /// The position to continue from.
    pub cursor: StreamId,
}

impl MissingRange {
    /// The range between a position and the next entry.
    #[must_use]
    pub fn between(missing: Missing, after: StreamId, before: StreamId) -> Self {
        Self { missing, after, before: Some(before), cursor: before.previous().max(after) }
    }

    /// The range between a position and the end.
    #[must_use]
    pub fn until(missing: Missing, after: StreamId, to: StreamId) -> Self {
        Self { missing, after, before: (to > after).then(|| to.next()), cursor: to }
    }
}

impl Backplane {
    /// Reads what follows `after`, and determines what is missing. `known`: the end of a topic without a stream.
    ///
    /// # Errors
    /// [`StreamUnavailable`] if the stream cannot be read, or it is undecided what is missing.
    pub async fn read_on(
        &self,
        topic: &Topic,
        after: StreamId,
        known: Option<StreamId>,
        limits: ReadLimits,
    ) -> Result<NextPage, StreamUnavailable> {
        let until = Instant::now() + VERDICT_TIMEOUT;
        loop {
            let history = self.history(topic);
            let page = self.read(topic, after, limits).await?;
            if let Ok(onward) = judge(&history, topic, after, (page, known)) {
                return Ok(onward);
            }
            if Instant::now() >= until {
                return Err(StreamUnavailable("it is undecided what redis lost".into()));
            }
            sleep(VERDICT_PAUSE).await;
        }
    }
}

fn judge(
    history: &Generations,
    topic: &Topic,
    after: StreamId,
    (mut page, known): (StreamPage, Option<StreamId>),
) -> Result<NextPage, StillPending> {
    let name = topic.as_str();
    let mut at = after;
    let mut lack = None;
    for (index, message) in page.messages.iter().enumerate() {
        let id = message.id.unwrap_or(at);
        match history.step(name, at, (id, message.prev), false) {
            StepVerdict::Direct => {}
            StepVerdict::Pending if index == 0 => return Err(StillPending),
            StepVerdict::Gap(missing) if index == 0 => lack = Some(MissingRange::between(missing, at, id)),
            StepVerdict::Pending | StepVerdict::Gap(_) => {
                page.messages.truncate(index);
                return Ok(NextPage { messages: page.messages, more: true, lack, cursor: at });
            }
        }
        at = id;
    }
    let more = page.more;
    if page.messages.is_empty() && !more {
        lack = match page.end.or(known) {
            Some(end) => match history.end(name, at, end)? {
                Some((missing, to)) => Some(MissingRange::until(missing, at, to)),
                None => {
                    at = at.max(end).max(history.beginning());
                    None
                }
            },
            None if at == StreamId::ZERO => None,
            None => Some(MissingRange { missing: Missing::Retention, after: at, before: None, cursor: at }),
        };
    }
    let cursor = lack.filter(|_| page.messages.is_empty()).map_or(at, |lack| lack.cursor);
    Ok(NextPage { messages: page.messages, more, lack, cursor })
}
