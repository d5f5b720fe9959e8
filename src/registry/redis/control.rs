//! Control messages over Redis: published at once and kept for a while, so that a replica whose link was down reads what it
//! missed. Never concerns a connection that was opened later.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tickgate_wire::model::SessionId;

use super::{
    Inner, Redis,
    batch::Op,
    commands::{ask, tell_all},
    leases::{LeaseEntry, Owner},
    message::{ChannelMessage, ControlMessage},
    times::millis,
};
use crate::{
    redis_link::Failure,
    registry::{Control, Unavailable, superseded},
};

/// How long, and at least how many are kept: a link that was down for longer is that of a replica that was not ready.
const KEPT: Duration = Duration::from_secs(600);
const KEPT_MIN: usize = 10_000;

impl Redis {
    pub(in crate::registry) async fn control(&self, control: Control) -> Result<(), Unavailable> {
        let inner = &*self.0;
        let keys = inner.keys();
        let mut channel = keys.control_all();
        if let Control::Close { session, .. } = &control
            && let Some(session) = SessionId::parse(session)
        {
            let link = &inner.topology.links()[inner.record_shard(session)];
            let value: Option<String> = ask(link, redis::cmd("GET").arg(keys.session(session))).await?;
            if let Some((owner, _)) = value.as_deref().and_then(Owner::split) {
                channel = keys.control(&owner.replica);
            }
        }
        // Kept before it is published, so that a replica that subscribes later finds it.
        let key = keys.controls();
        let mut pipeline = redis::pipe();
        let json = serde_json::to_string(&control).unwrap_or_default();
        pipeline.cmd("XADD").arg(&key).arg("MAXLEN").arg("~").arg(KEPT_MIN).arg("*").arg("c").arg(json).ignore();
        pipeline.cmd("PEXPIRE").arg(&key).arg(millis(KEPT)).ignore();
        let message = ChannelMessage::Control(ControlMessage { control, stamp: None }).encode();
        pipeline.cmd("PUBLISH").arg(channel).arg(message).ignore();
        Ok(tell_all(inner.control_link(), &pipeline).await?)
    }
}

impl Inner {
    /// Takes this replica's control messages.
    pub(super) fn listen(self: &Arc<Self>) {
        for channel in [self.keys().control(&self.local.replica), self.keys().control_all()] {
            let inner = Arc::downgrade(self);
            let callback = move |payload: &[u8]| {
                if let (Some(inner), Ok(message)) = (inner.upgrade(), serde_json::from_slice(payload)) {
                    inner.receive(message);
                }
            };
            self.control_link().subscribe_control(&channel, Arc::new(callback));
        }
    }

    /// Takes a message of the control channels, in the link's own task.
    fn receive(&self, message: ChannelMessage) {
        match message {
            ChannelMessage::Control(message) => self.deliver(message),
            // A replica that is asked too much answers nothing.
            ChannelMessage::Ask(ask) => drop(self.asked.try_send(ask)),
            ChannelMessage::Answer(reply) => self.questions.answer(reply),
        }
    }

    /// Hands a control message to this replica, unless it means a connection that is gone.
    fn deliver(&self, message: ControlMessage) {
        if let (Control::Close { session, .. }, Some(stamp)) = (&message.control, message.stamp)
            && !SessionId::parse(session).is_some_and(|session| self.leases.is_newest(session, stamp))
        {
            return;
        }
        (self.local.control)(message.control);
    }

    /// Closes a connection of this replica, if it is still the session's newest here.
    pub(super) fn close(&self, session: SessionId, stamp: u64, code: u16, reason: &str) {
        let control = Control::Close { session: session.to_string(), code, reason: reason.to_owned() };
        self.deliver(ControlMessage { control, stamp: Some(stamp) });
    }

    /// Tells the owner of a connection that another one took its place.
    pub(super) fn supersede(&self, session: SessionId, owner: &Owner) {
        self.tell_owner(owner, superseded(session));
    }

    /// Tells the owner of a connection what concerns that one only.
    pub(super) fn tell_owner(&self, owner: &Owner, control: Control) {
        let message = ControlMessage { control, stamp: Some(owner.stamp) };
        if owner.replica == self.local.replica {
            self.deliver(message);
        } else {
            self.push(self.control_shard(), Op::Tell(owner.replica.clone(), ChannelMessage::Control(message).encode()));
        }
    }
}

/// The last message for each user and session, with when it was sent, in microseconds of Redis's clock.
#[derive(Debug, Default)]
pub(super) struct Kept {
    users: HashMap<String, (u64, Control)>,
    sessions: HashMap<String, (u64, Control)>,
}

/// Reads what is kept.
pub(super) async fn kept(inner: &Inner) -> Result<Kept, Failure> {
    let since_ms = inner.now_ms().saturating_sub(millis(KEPT));
    let mut range = redis::cmd("XRANGE");
    range.arg(inner.keys().controls()).arg(since_ms).arg("+");
    let entries: Vec<(String, HashMap<String, String>)> = ask(inner.control_link(), &range).await?;
    let mut kept = Kept::default();
    for (id, fields) in entries {
        let sent_ms = id.split('-').next().and_then(|ms| ms.parse::<u64>().ok());
        let control = fields.get("c").and_then(|json| serde_json::from_str(json).ok());
        if let (Some(sent_ms), Some(control)) = (sent_ms, control) {
            kept.add(sent_ms * 1_000, control);
        }
    }
    Ok(kept)
}

impl Kept {
    fn add(&mut self, sent_us: u64, control: Control) {
        let (map, name) = match &control {
            Control::Close { session, .. } => (&mut self.sessions, session.clone()),
            Control::CloseUser { user, .. } => (&mut self.users, user.clone()),
        };
        map.insert(name, (sent_us, control));
    }

    /// The message that concerns the connection, sent since it was opened.
    fn of(&self, session: SessionId, entry: &LeaseEntry) -> Option<ControlMessage> {
        let name = session.to_string();
        let of_user = entry.user.as_ref().and_then(|user| self.users.get(user.as_str()));
        let sent = [self.sessions.get(&name), of_user].into_iter().flatten();
        let (_, control) = sent.into_iter().find(|(sent_us, _)| entry.stamp < *sent_us)?;
        let (Control::Close { code, reason, .. } | Control::CloseUser { code, reason, .. }) = control.clone();
        Some(ControlMessage { control: Control::Close { session: name, code, reason }, stamp: Some(entry.stamp) })
    }

    /// Hands them to the connections that were open at that stamp.
    pub(super) fn deliver(&self, inner: &Inner, begun: u64) {
        if self.users.is_empty() && self.sessions.is_empty() {
            return;
        }
        for session in inner.leases.open(begun) {
            let entry = inner.leases.get(session).filter(|entry| entry.stamp <= begun);
            if let Some(message) = entry.and_then(|entry| self.of(session, &entry)) {
                inner.deliver(message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{ConnectionInfo, redis::leases::LeaseTable};

    #[test]
    fn a_kept_message_concerns_the_connections_that_were_open_when_it_was_sent() {
        let (leases, session) = (LeaseTable::new(), SessionId::random());
        let open = |stamp| {
            let info = ConnectionInfo {
                session: session.to_string(),
                replica: "r1".into(),
                user: Some("alice".into()),
                profile: "trading".into(),
                connected_ms: 7,
            };
            leases.opened(session, &info, stamp);
            leases.get(session).unwrap()
        };
        let mut kept = Kept::default();
        assert!(kept.of(session, &open(10)).is_none());
        kept.add(20, Control::CloseUser { user: "alice".into(), code: 4500, reason: "maintenance".into() });
        let message = kept.of(session, &open(10)).unwrap();
        let close = Control::Close { session: session.to_string(), code: 4500, reason: "maintenance".into() };
        assert_eq!((message.control, message.stamp), (close, Some(10)));
        assert!(kept.of(session, &open(20)).is_none(), "opened later");
        kept.add(30, Control::Close { session: session.to_string(), code: 4501, reason: "moved".into() });
        assert!(kept.of(session, &open(20)).is_some());
    }
}
