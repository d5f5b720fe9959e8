//! What operators say, told at once and kept a while: a replica whose link was down reads what it did not hear. Never
//! means a connection that was opened later.

use std::{collections::HashMap, time::Duration};

use tickgate_wire::model::SessionId;

use super::{
    Inner, millis,
    sessions::Entry,
    wire::{Message, Told},
};
use crate::{redis_link::Failure, registry::Control};

/// How long, and how many at the least: a link that was down for longer is a replica that was not ready.
const KEPT: Duration = Duration::from_secs(600);
const KEPT_MAX: usize = 10_000;

/// Tells it on the channel. It is kept before it is told, so that who subscribes later finds it.
pub(super) async fn tell(inner: &Inner, channel: &str, control: Control) -> Result<(), Failure> {
    let key = inner.keys().controls();
    let mut pipeline = redis::pipe();
    let json = serde_json::to_string(&control).unwrap_or_default();
    pipeline.cmd("XADD").arg(&key).arg("MAXLEN").arg("~").arg(KEPT_MAX).arg("*").arg("c").arg(json).ignore();
    pipeline.cmd("PEXPIRE").arg(&key).arg(millis(KEPT)).ignore();
    let told = Message::Told(Told { control, stamp: None }).encode();
    pipeline.cmd("PUBLISH").arg(channel).arg(told).ignore();
    inner.tell_all(&pipeline).await
}

/// The last word on users and sessions, each with when it was said, in microseconds by Redis's clock.
#[derive(Debug, Default)]
pub(super) struct Kept {
    users: HashMap<String, (u64, Control)>,
    sessions: HashMap<String, (u64, Control)>,
}

/// Reads what is kept.
pub(super) async fn kept(inner: &Inner) -> Result<Kept, Failure> {
    let since_ms = inner.clock.now_ms().saturating_sub(millis(KEPT));
    let mut range = redis::cmd("XRANGE");
    range.arg(inner.keys().controls()).arg(since_ms).arg("+");
    let entries: Vec<(String, HashMap<String, String>)> = inner.ask(&range).await?;
    let mut kept = Kept::default();
    for (id, fields) in entries {
        let said_ms = id.split('-').next().and_then(|ms| ms.parse::<u64>().ok());
        let control = fields.get("c").and_then(|json| serde_json::from_str(json).ok());
        if let (Some(said_ms), Some(control)) = (said_ms, control) {
            kept.add(said_ms * 1_000, control);
        }
    }
    Ok(kept)
}

impl Kept {
    fn add(&mut self, said_us: u64, control: Control) {
        let (map, name) = match &control {
            Control::Close { session, .. } => (&mut self.sessions, session.clone()),
            Control::CloseUser { user, .. } => (&mut self.users, user.clone()),
        };
        map.insert(name, (said_us, control));
    }

    /// What was said of the connection since it was opened.
    pub(super) fn of(&self, session: SessionId, entry: &Entry) -> Option<Told> {
        if self.users.is_empty() && self.sessions.is_empty() {
            return None;
        }
        let name = session.to_string();
        let of_user = entry.user.as_ref().and_then(|user| self.users.get(user.as_str()));
        let said = [self.sessions.get(&name), of_user].into_iter().flatten();
        let (_, control) = said.into_iter().find(|(said_us, _)| entry.stamp < *said_us)?;
        let (Control::Close { code, reason, .. } | Control::CloseUser { code, reason, .. }) = control.clone();
        Some(Told { control: Control::Close { session: name, code, reason }, stamp: Some(entry.stamp) })
    }
}
