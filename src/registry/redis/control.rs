//! Control messages over Redis: published at once and stored for a while, so that a replica whose link was down reads
//! what it missed. Never affects a connection that was opened later: messages and connections are ordered by their
//! stamps, and a replica that received a message assigns greater ones from then on. No clock decides.

use std::{collections::HashMap, sync::Arc};

use redis::{RedisResult, Value};
use tickgate_wire::model::SessionId;

use super::{
    Redis, RedisRegistryShared,
    batch::Op,
    commands::{ask, ask_all, failed, keep},
    leases::LeaseEntry,
    message::{ChannelMessage, ControlMessage, KEPT, REVOKED, RevokedMessage, SENT, STANDING, StandingMessage, WORD},
    owner::Owner,
    times::millis,
};
use crate::{
    redis_link::RedisFailure,
    registry::{ControlInstruction, OperationOutcome, RegistryUnavailable, superseded},
};

/// Number of stored messages read at once.
const KEPT_PAGE: usize = 1_000;

impl Redis {
    pub(in crate::registry) async fn control(&self, control: ControlInstruction) -> OperationOutcome {
        let inner = &*self.0;
        let sent = inner.place_in_order().await;
        let channel = inner.channel_of(&control).await;
        let word = serde_json::to_string(&control).unwrap_or_default();
        let message = ControlMessage { control: control.clone(), stamp: None, sent: Some(sent) };
        let carried = inner.spread((WORD, &word, sent), &channel, &ChannelMessage::Control(message)).await;
        if carried.told.is_err() {
            // Local connections can be closed without other replicas.
            (inner.local.control)(control);
        }
        carried
    }
}

impl RedisRegistryShared {
    /// Subscribes to this replica's control messages.
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

    /// The stamp of a message that is sent now: after all opened connections on all replicas, because stamps are never
    /// ahead of Redis's clock.
    pub(super) async fn place_in_order(&self) -> u64 {
        let time: Result<(u64, u64), RedisFailure> = ask(self.replicas_link(), &redis::cmd("TIME")).await;
        if let Ok((seconds, micros)) = time {
            self.clock.saw(seconds * 1_000_000 + micros);
        }
        self.stamp()
    }

    /// The channel of the replica that has the session, if known, or of all replicas.
    async fn channel_of(&self, control: &ControlInstruction) -> String {
        let keys = self.keys();
        let ControlInstruction::Close { session, .. } = control else { return keys.control_all() };
        let Some(session) = SessionId::parse(session) else { return keys.control_all() };
        let link = &self.topology.links()[self.record_shard(session)];
        let value: Result<Option<String>, _> = ask(link, redis::cmd("GET").arg(keys.session(session))).await;
        let value = value.unwrap_or_default();
        value
            .as_deref()
            .and_then(Owner::split)
            .map_or_else(|| keys.control_all(), |(owner, _)| keys.control(&owner.replica))
    }

    /// Stores a message (its field, text and stamp) and publishes it, as far as Redis accepts either.
    pub(super) async fn spread(
        &self,
        kept: (&str, &str, u64),
        channel: &str,
        message: &ChannelMessage,
    ) -> OperationOutcome {
        let (field, text, sent) = kept;
        let link = self.control_link();
        let mut pipeline = redis::pipe();
        // Stored before it is published, so that a replica that subscribes later finds it.
        pipeline.add_command(keep(self, field, text, sent));
        pipeline.cmd("PEXPIRE").arg(self.keys().controls()).arg(millis(KEPT));
        pipeline.cmd("PUBLISH").arg(channel).arg(message.encode());
        pipeline.ignore_errors();
        let answers: Result<Vec<RedisResult<Value>>, RedisFailure> = ask_all(link, &pipeline).await;
        match answers {
            Ok(answers) => {
                let mut outcomes = answers
                    .into_iter()
                    .map(|answer| answer.map(drop).map_err(|error| RegistryUnavailable::from(failed(link, &error))));
                let stored = outcomes.next().unwrap_or(Ok(()));
                OperationOutcome { told: outcomes.nth(1).unwrap_or(Ok(())), stored }
            }
            Err(failure) => {
                let error = RegistryUnavailable::from(failure);
                OperationOutcome { told: Err(error.clone()), stored: Err(error) }
            }
        }
    }

    /// Handles a message of the control channels, in the link's own task.
    fn receive(&self, message: ChannelMessage) {
        match message {
            ChannelMessage::Control(message) => self.deliver(message),
            ChannelMessage::Revoked(message) => self.hear_revocation(&message, true),
            ChannelMessage::Standing(message) => self.hear_standing(&message),
            // An overloaded replica does not answer.
            ChannelMessage::Ask(ask) => drop(self.asked.try_send(ask)),
            ChannelMessage::Answer(reply) => self.questions.answer(reply),
            ChannelMessage::Inquire(question) => drop(self.inquired.try_send(question)),
            ChannelMessage::Answered(reply) => self.inquiries.answer(reply),
        }
    }

    /// Passes a control message to this replica, unless it is for a connection that has closed.
    fn deliver(&self, message: ControlMessage) {
        if let Some(sent) = message.sent {
            self.clock.saw(sent);
        }
        if let (ControlInstruction::Close { session, .. }, Some(stamp)) = (&message.control, message.stamp)
            && !SessionId::parse(session).is_some_and(|session| self.leases.is_newest(session, stamp))
        {
            return;
        }
        (self.local.control)(message.control);
    }

    /// Closes a connection of this replica, if it is still the session's newest here.
    pub(super) fn close(&self, session: SessionId, stamp: u64, code: u16, reason: &str) {
        let control = ControlInstruction::Close { session: session.to_string(), code, reason: reason.to_owned() };
        self.deliver(ControlMessage { control, stamp: Some(stamp), sent: None });
    }

    /// Notifies the owner of a connection that another one took its place.
    pub(super) fn supersede(&self, session: SessionId, owner: &Owner) {
        self.tell_owner(owner, superseded(session));
    }

    /// Sends the owner of a connection a message for only that connection.
    pub(super) fn tell_owner(&self, owner: &Owner, control: ControlInstruction) {
        let message = ControlMessage { control, stamp: Some(owner.stamp), sent: None };
        if owner.replica == self.local.replica {
            self.deliver(message);
        } else {
            self.push(self.control_shard(), Op::Tell(owner.replica.clone(), ChannelMessage::Control(message).encode()));
        }
    }
}

/// The last message for each user and session with its stamp, and all revocations and standings.
#[derive(Debug, Default)]
pub(super) struct KeptInstructions {
    users: HashMap<String, (u64, ControlInstruction)>,
    sessions: HashMap<String, (u64, ControlInstruction)>,
    revocations: Vec<RevokedMessage>,
    standings: Vec<StandingMessage>,
    /// The greatest stamp.
    sent: u64,
}

/// Reads the stored messages.
pub(super) async fn kept(inner: &RedisRegistryShared) -> Result<KeptInstructions, RedisFailure> {
    let (mut kept, mut after) = (KeptInstructions::default(), "-".to_owned());
    loop {
        let mut range = redis::cmd("XRANGE");
        range.arg(inner.keys().controls()).arg(&after).arg("+").arg("COUNT").arg(KEPT_PAGE);
        let entries: Vec<(String, HashMap<String, String>)> = ask(inner.control_link(), &range).await?;
        let is_last = entries.len() < KEPT_PAGE;
        for (id, fields) in entries {
            kept.take(&fields);
            after = format!("({id}");
        }
        if is_last {
            return Ok(kept);
        }
    }
}

impl KeptInstructions {
    /// Adds an entry, whichever replica wrote it.
    fn take(&mut self, fields: &HashMap<String, String>) {
        if let Some(message) = fields.get(REVOKED).and_then(|json| serde_json::from_str::<RevokedMessage>(json).ok()) {
            self.sent = self.sent.max(message.sent);
            self.revocations.push(message);
        } else if let Some(message) = fields.get(STANDING).and_then(|json| serde_json::from_str(json).ok()) {
            let message: StandingMessage = message;
            self.sent = self.sent.max(message.sent);
            self.standings.push(message);
        } else if let (Some(sent), Some(json)) = (fields.get(SENT), fields.get(WORD))
            && let (Ok(sent), Ok(control)) = (sent.parse(), serde_json::from_str(json))
        {
            self.add(sent, control);
        }
    }

    fn add(&mut self, sent: u64, control: ControlInstruction) {
        self.sent = self.sent.max(sent);
        let (map, name) = match &control {
            ControlInstruction::Close { session, .. } => (&mut self.sessions, session.clone()),
            ControlInstruction::CloseUser { user, .. } => (&mut self.users, user.clone()),
        };
        map.insert(name, (sent, control));
    }

    /// The message for the connection that was sent since it was opened.
    fn of(&self, session: SessionId, entry: &LeaseEntry) -> Option<ControlMessage> {
        let name = session.to_string();
        let of_user = entry.user.as_ref().and_then(|user| self.users.get(user.as_str()));
        let sent = [self.sessions.get(&name), of_user].into_iter().flatten();
        let (_, control) = sent.into_iter().find(|(sent, _)| entry.stamp < *sent)?;
        let (ControlInstruction::Close { code, reason, .. } | ControlInstruction::CloseUser { code, reason, .. }) =
            control.clone();
        let control = ControlInstruction::Close { session: name, code, reason };
        Some(ControlMessage { control, stamp: Some(entry.stamp), sent: None })
    }

    /// Delivers them to the connections that were open at that stamp.
    pub(super) fn deliver(&self, inner: &RedisRegistryShared, begun: u64) {
        inner.clock.saw(self.sent);
        self.revocations.iter().for_each(|message| inner.hear_revocation(message, false));
        self.standings.iter().for_each(|message| inner.hear_standing(message));
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
    fn a_stored_message_concerns_connections_that_were_open_when_it_was_sent() {
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
        let mut kept = KeptInstructions::default();
        assert!(kept.of(session, &open(10)).is_none());
        kept.add(20, ControlInstruction::CloseUser { user: "alice".into(), code: 4500, reason: "maintenance".into() });
        let message = kept.of(session, &open(10)).unwrap();
        let close =
            ControlInstruction::Close { session: session.to_string(), code: 4500, reason: "maintenance".into() };
        assert_eq!((message.control, message.stamp), (close, Some(10)));
        assert!(kept.of(session, &open(20)).is_none(), "opened later");
        kept.add(30, ControlInstruction::Close { session: session.to_string(), code: 4501, reason: "moved".into() });
        assert!(kept.of(session, &open(20)).is_some());
    }
}
