//! Evaluates the diaries of all clients: who is still waiting, what was reported as missing, what is wrong. Read-only.

use std::{
    borrow::Cow,
    collections::HashMap,
    time::{Duration, Instant},
};

use tickgate_wire::model::{Class, StreamId};
use tokio::time::sleep;

use crate::{
    judge::{BrokenPromise, judge},
    record::{ClientStream, Diary, HeardEvent},
    stage::{ChaosStage, StageClient},
};

impl ChaosStage {
    /// Waits until every client of the audience is connected and has the last acknowledged publication on each of its
    /// streams on which something was acknowledged after `since`.
    ///
    /// # Errors
    /// Which client waits for what, after `timeout`.
    pub async fn converged(&self, since: Instant, timeout: Duration) -> Result<Instant, String> {
        let deadline = Instant::now() + timeout;
        loop {
            let heads = self.ledger.lock().heads();
            let behind = self.behind(&heads, since);
            match behind {
                None => return Ok(Instant::now()),
                Some(who) if Instant::now() >= deadline => return Err(who),
                Some(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// The first client that is missing something.
    fn behind(&self, heads: &HashMap<ClientStream, (StreamId, Instant)>, since: Instant) -> Option<String> {
        for client in self.clients.lock().iter().filter(|client| !client.dismissed) {
            let diary = client.diary.lock();
            if !diary.connected {
                let last = diary.ended.last();
                return Some(format!("{} is not connected: refused {:?}, last {last:?}", client.name, diary.refused));
            }
            for channel in &client.channels {
                let Some((head, at)) = heads.get(&channel.stream) else { continue };
                if *at < since {
                    continue;
                }
                let position = diary.position(&channel.stream);
                if position < *head && !is_covered(&diary, &channel.stream, *head) {
                    return Some(format!(
                        "{} is at {position} of {:?}, whose head is {head}",
                        client.name, channel.stream
                    ));
                }
            }
        }
        None
    }

    /// All violations in all diaries.
    pub fn judge(&self) -> Vec<String> {
        let ledger = self.ledger.lock();
        let none = std::collections::BTreeMap::new();
        let mut found: Vec<String> = ledger.forks.iter().chain(&ledger.strange).cloned().collect();
        for client in self.clients.lock().iter() {
            let diary = client.diary.lock();
            for (stream, heard) in &diary.streams {
                let class = client.channels.iter().find(|c| c.stream == *stream).map_or(Class::Reliable, |c| c.class);
                let mut acknowledged = Cow::Borrowed(ledger.acknowledged.get(stream).unwrap_or(&none));
                if client.dismissed {
                    // Nothing is guaranteed after what it had in the end.
                    let has = diary.position(stream);
                    acknowledged.to_mut().retain(|id, _| *id <= has);
                }
                let violations = judge(class, &acknowledged, heard.iter());
                found.extend(violations.iter().map(|violation| told(client, stream, violation, heard)));
            }
        }
        found
    }

    /// Every gap reported since, with the client's position.
    pub fn gaps_since(&self, since: Instant) -> Vec<String> {
        let mut gaps = Vec::new();
        for client in self.clients.lock().iter() {
            for (stream, heard) in &client.diary.lock().streams {
                for (at, (_, gap)) in heard.iter().enumerate().filter(|(_, (at, _))| *at >= since) {
                    if let HeardEvent::Gap { after, before, reason, .. } = gap {
                        let around = &heard[at.saturating_sub(3)..(at + 3).min(heard.len())];
                        let around: Vec<_> = around.iter().map(|(_, heard)| heard.short()).collect();
                        let before = before.map_or("-".into(), |before| before.to_string());
                        let name = &client.name;
                        gaps.push(format!(
                            "{name} on {stream:?}: {reason} after {after} before {before}, in {around:?}"
                        ));
                    }
                }
            }
        }
        gaps
    }
}

/// A violation in readable form, with what the client received around it.
fn told(
    client: &StageClient,
    stream: &ClientStream,
    violation: &BrokenPromise,
    heard: &[(Instant, HeardEvent)],
) -> String {
    let suspect = match violation {
        BrokenPromise::Lost(id) | BrokenPromise::Repeated(id) | BrokenPromise::Forked { id, .. } => Some(*id),
        BrokenPromise::Misordered { after: id, .. }
        | BrokenPromise::Hole { to: id, .. }
        | BrokenPromise::PublishedTwice { second: id, .. } => Some(*id),
        BrokenPromise::Malformed(_) => None,
    };
    let exactly = matches!(violation, BrokenPromise::Repeated(_));
    let is_suspect = |heard: &HeardEvent| match heard {
        HeardEvent::Push { id, .. } if exactly => suspect == Some(*id),
        HeardEvent::Push { id, .. } => suspect <= Some(*id),
        _ => false,
    };
    let (last, first) = (heard.iter().rposition(|(_, h)| is_suspect(h)), heard.iter().position(|(_, h)| is_suspect(h)));
    let at = if matches!(violation, BrokenPromise::Repeated(_)) { last } else { first };
    let around = &heard[at.unwrap_or(heard.len()).saturating_sub(9)..(at.unwrap_or(heard.len()) + 4).min(heard.len())];
    let around: Vec<_> = around.iter().map(|(_, heard)| heard.short()).collect();
    format!("{} on {:?}: {violation:?} in {around:?}", client.name, stream.0)
}

fn is_covered(diary: &Diary, stream: &ClientStream, id: StreamId) -> bool {
    diary.streams.get(stream).into_iter().flatten().any(|(_, heard)| match heard {
        HeardEvent::Gap { after, before, .. } => *after < id && before.is_none_or(|before| id < before),
        HeardEvent::Began(at) => id <= *at,
        _ => false,
    })
}
