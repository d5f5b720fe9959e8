//! The registry of many replicas over one Redis.
//!
//! What waits for an answer (admission, recall, tickets, control) goes out at once over the command link, which
//! pipelines it; what need not wait goes through the queue to the one writing task.
//!
//! Never keeps a lease that nobody renews: every key ends by itself.

mod batch;
mod clock;
mod controls;
mod lease;
mod presence;
mod queue;
mod scripts;
mod sessions;
mod ttl;
mod view;
mod wire;
mod writer;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, Script, Value, aio::MultiplexedConnection};
use tickgate_wire::model::{SessionId, Topic, UserId};
use tokio::sync::{mpsc, oneshot};

use self::{
    clock::Clock,
    presence::Questions,
    queue::{Op, Queue},
    scripts::{Scripts, call},
    sessions::Sessions,
    wire::{Ask, Message, Owner, Told, member, split_member},
    writer::Writer,
};
use super::{
    Admission, ClusterFigures, ConnectionInfo, Control, Local, Presence, SUPERSEDED, SessionRecord, USER_INACTIVE,
    Unavailable, Verdict,
};
use crate::{
    redis_link::{Failure, Keys, RedisLink},
    tasks::Tasks,
};

/// How long the last changes may take to be written when the replica leaves.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// The registry of many replicas over one Redis. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Redis(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: RedisLink,
    local: Local,
    scripts: Scripts,
    sessions: Sessions,
    queue: Queue,
    clock: Clock,
    questions: Questions,
    /// What this replica is asked about its sessions.
    asked: mpsc::Sender<Ask>,
    /// Names of the exclusive leases that were taken, to be ended when the replica leaves.
    held: Mutex<HashSet<String>>,
    left: AtomicBool,
}

impl From<Failure> for Unavailable {
    fn from(failure: Failure) -> Self {
        Self(failure.to_string().into())
    }
}

impl Redis {
    pub(super) fn new(link: RedisLink, local: Local, tasks: &Tasks) -> Self {
        let (queue, ops) = Queue::new();
        let (asked, asks) = mpsc::channel(presence::ASKED_MAX);
        let inner = Arc::new(Inner {
            link,
            local,
            scripts: Scripts::new(),
            sessions: Sessions::new(),
            queue,
            clock: Clock::new(),
            questions: Questions::default(),
            asked,
            held: Mutex::default(),
            left: AtomicBool::new(false),
        });
        for script in Scripts::TEXTS {
            inner.link.preload(script);
        }
        inner.listen();
        tasks.spawn("registry writer", Writer::new(Arc::clone(&inner), ops, tasks.stop()).run());
        tasks.spawn("registry presence", presence::answer_all(Arc::clone(&inner), asks, tasks.stop()));
        tasks.spawn("registry lease", lease::keep(Arc::clone(&inner), tasks.stop()));
        Self(inner)
    }

    pub(super) async fn admit(&self, admission: &Admission) -> Result<Verdict, Unavailable> {
        let inner = &*self.0;
        let stamp = inner.clock.stamp();
        let keys = inner.keys();
        let mut call =
            call(&inner.scripts.admit, &[&keys.user_sessions(&admission.user), &keys.user_revoked(&admission.user)]);
        call.arg(member(stamp, &inner.local.replica, admission.session));
        call.arg(inner.admission_ttl_ms()).arg(inner.member_ttl_ms()).arg(admission.connections_max);
        call.arg(if admission.evict_oldest { "evict" } else { "refuse" }).arg(issued_text(admission.issued_at));
        let mut doubt = Doubt { inner, admission, stamp, ended: false };
        let answer: (i8, u32, Vec<String>, Vec<String>, u64) = inner.run(&inner.scripts.admit, &call).await?;
        doubt.ended = true;
        let (verdict, connections, evicted, replaced, stamp) = answer;
        match verdict {
            1 => inner.sessions.admitted(admission, inner.clock.saw(stamp)),
            0 => return Ok(Verdict::Refused { connections }),
            _ => return Ok(Verdict::Revoked),
        }
        for (owner, session) in evicted.iter().chain(&replaced).filter_map(|member| split_member(member)) {
            // Two connections of one session on one replica are told apart there.
            if session != admission.session || owner.replica != inner.local.replica {
                inner.supersede(session, &owner);
            }
        }
        let evicted = evicted.last().and_then(|member| split_member(member)).map(|(_, session)| session);
        Ok(Verdict::Admitted { connections, evicted })
    }

    pub(super) fn opened(&self, info: &ConnectionInfo) {
        let Some(session) = SessionId::parse(&info.session) else { return };
        self.0.sessions.opened(session, info, self.0.clock.stamp());
        self.0.queue.push(Op::Opened(session));
    }

    pub(super) fn closed(&self, session: SessionId) {
        if let Some(ended) = self.0.sessions.closed(session) {
            self.0.queue.push(Op::Closed(session, ended));
        }
    }

    pub(super) fn record(&self, session: SessionId, record: &SessionRecord) {
        let Ok(json) = serde_json::to_string(record) else { return };
        if self.0.sessions.record(session, json.into()) {
            self.0.queue.push(Op::Record(session));
        }
    }

    pub(super) async fn recall(&self, session: SessionId) -> Result<Option<SessionRecord>, Unavailable> {
        let mut read = redis::pipe();
        read.cmd("TIME").cmd("GET").arg(self.0.keys().session(session));
        let ((seconds, micros), value): ((u64, u64), Option<String>) = self.0.ask_all(&read).await?;
        // Whoever goes on with the session is newer than all that wrote to it, or are about to.
        self.0.clock.saw(seconds * 1_000_000 + micros);
        let Some((owner, json)) = value.as_deref().and_then(Owner::split) else { return Ok(None) };
        self.0.clock.saw(owner.stamp);
        Ok(serde_json::from_str(json).ok())
    }

    pub(super) async fn control(&self, control: Control) -> Result<(), Unavailable> {
        let keys = self.0.keys();
        let mut channel = keys.control_all();
        if let Control::Close { session, .. } = &control
            && let Some(session) = SessionId::parse(session)
        {
            let value: Option<String> = self.0.ask(redis::cmd("GET").arg(keys.session(session))).await?;
            if let Some((owner, _)) = value.as_deref().and_then(Owner::split) {
                channel = keys.control(&owner.replica);
            }
        }
        Ok(controls::tell(&self.0, &channel, control).await?)
    }

    pub(super) async fn revoke(&self, user: &UserId, ttl: Duration) -> Result<(), Unavailable> {
        let mut revoke = call(&self.0.scripts.revoke, &[&self.0.keys().user_revoked(user)]);
        revoke.arg(millis(ttl));
        let _: Value = self.0.run(&self.0.scripts.revoke, &revoke).await?;
        let reason = "the user's tokens were revoked".into();
        self.control(Control::CloseUser { user: user.to_string(), code: USER_INACTIVE, reason }).await
    }

    pub(super) async fn put_ticket(&self, ticket: &str, token: &str, ttl: Duration) -> Result<(), Unavailable> {
        let mut set = redis::cmd("SET");
        set.arg(self.0.keys().ticket(ticket)).arg(token).arg("PX").arg(millis(ttl));
        Ok(self.0.ask(&set).await?)
    }

    pub(super) async fn take_ticket(&self, ticket: &str) -> Result<Option<String>, Unavailable> {
        let key = self.0.keys().ticket(ticket);
        Ok(self.0.ask(redis::cmd("GETDEL").arg(key)).await?)
    }

    pub(super) async fn cluster(&self) -> Result<ClusterFigures, Unavailable> {
        Ok(view::cluster(&self.0).await?)
    }

    pub(super) async fn connections(&self, limit: usize) -> Result<Vec<ConnectionInfo>, Unavailable> {
        Ok(view::connections(&self.0, limit).await?)
    }

    pub(super) async fn connections_of(&self, user: &UserId, limit: usize) -> Result<Vec<ConnectionInfo>, Unavailable> {
        Ok(view::connections_of(&self.0, user, limit).await?)
    }

    pub(super) async fn presence(&self, topic: &Topic) -> Result<Presence, Unavailable> {
        Ok(presence::ask(&self.0, topic).await?)
    }

    pub(super) async fn hold(&self, name: &str, ttl: Duration) -> Result<bool, Unavailable> {
        self.0.held.lock().insert(name.to_owned());
        Ok(self.0.try_hold(name, ttl).await?)
    }

    pub(super) async fn leave(&self) -> Result<(), Unavailable> {
        let inner = &*self.0;
        let (told, flushed) = oneshot::channel();
        inner.queue.push(Op::Flushed(told));
        let flushed = tokio::time::timeout(FLUSH_TIMEOUT, flushed).await;
        inner.left.store(true, Ordering::Release);
        if flushed.is_err() {
            return Err(Failure::TimedOut.into());
        }
        lease::end_all(inner).await?;
        Ok(())
    }
}

impl Inner {
    fn keys(&self) -> &Keys {
        self.link.keys()
    }

    fn commands(&self) -> Result<MultiplexedConnection, Failure> {
        self.link.command()
    }

    /// Runs one command on the command link.
    async fn ask<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, Failure> {
        let mut commands = self.commands()?;
        cmd.query_async(&mut commands).await.map_err(|error| self.failed(&error))
    }

    /// Runs a pipeline on the command link.
    async fn ask_all<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, Failure> {
        let mut commands = self.commands()?;
        pipeline.query_async(&mut commands).await.map_err(|error| self.failed(&error))
    }

    /// Runs one call of a script, and loads it first where Redis forgot it.
    async fn run<T: FromRedisValue>(&self, script: &Script, call: &Cmd) -> Result<T, Failure> {
        let mut commands = self.commands()?;
        let mut answer = call.query_async(&mut commands).await;
        if answer.as_ref().is_err_and(|error| Failure::of(error) == Failure::NoScript) {
            script.load_async(&mut commands).await.map_err(|error| self.failed(&error))?;
            answer = call.query_async(&mut commands).await;
        }
        answer.map_err(|error| self.failed(&error))
    }

    /// Runs a pipeline whose answers do not matter.
    async fn tell_all(&self, pipeline: &Pipeline) -> Result<(), Failure> {
        if pipeline.is_empty() {
            return Ok(());
        }
        self.ask_all(pipeline).await
    }

    /// Names a failure, and has the link told of it.
    fn failed(&self, error: &RedisError) -> Failure {
        let failure = Failure::of(error);
        self.link.report(&failure);
        failure
    }

    /// Takes this replica's control messages.
    fn listen(self: &Arc<Self>) {
        for channel in [self.keys().control(&self.local.replica), self.keys().control_all()] {
            let inner = Arc::downgrade(self);
            let callback = move |payload: &[u8]| {
                if let (Some(inner), Ok(message)) = (inner.upgrade(), serde_json::from_slice(payload)) {
                    inner.receive(message);
                }
            };
            self.link.subscribe_control(&channel, Arc::new(callback));
        }
    }

    fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// Takes a message of the control channels, in the link's own task.
    fn receive(&self, message: Message) {
        match message {
            Message::Told(told) => self.deliver(told),
            // A replica that is asked too much answers nothing.
            Message::Ask(ask) => drop(self.asked.try_send(ask)),
            Message::Answer(answer) => self.questions.answer(answer),
        }
    }

    /// Hands a control message to this replica, unless it means a connection that is gone.
    fn deliver(&self, told: Told) {
        if let (Control::Close { session, .. }, Some(stamp)) = (&told.control, told.stamp)
            && !SessionId::parse(session).is_some_and(|session| self.sessions.is_newest(session, stamp))
        {
            return;
        }
        (self.local.control)(told.control);
    }

    /// Tells the owner of a connection that it gave way.
    fn supersede(&self, session: SessionId, owner: &Owner) {
        let control = Control::Close {
            session: session.to_string(),
            code: SUPERSEDED,
            reason: "another connection took this one's place".into(),
        };
        let told = Told { control, stamp: Some(owner.stamp) };
        if owner.replica == self.local.replica {
            self.deliver(told);
        } else {
            self.queue.push(Op::Tell(owner.replica.clone(), Message::Told(told)));
        }
    }

    async fn try_hold(&self, name: &str, ttl: Duration) -> Result<bool, Failure> {
        let mut hold = call(&self.scripts.hold, &[&self.keys().lease(name)]);
        hold.arg(self.local.replica.as_str()).arg(millis(ttl));
        let held: u8 = self.run(&self.scripts.hold, &hold).await?;
        Ok(held == 1)
    }

    async fn release(&self, name: &str) -> Result<(), Failure> {
        let mut release = call(&self.scripts.release, &[&self.keys().lease(name)]);
        release.arg(self.local.replica.as_str());
        let _: Value = self.run(&self.scripts.release, &release).await?;
        Ok(())
    }
}

/// An admission under way. When it ends without an answer (time-out, or the client went away and nobody waits any
/// more), its member may be in the user's set all the same: it is taken out.
struct Doubt<'a> {
    inner: &'a Inner,
    admission: &'a Admission,
    stamp: u64,
    ended: bool,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let Admission { session, user, .. } = self.admission;
            self.inner.queue.push(Op::Release { session: *session, user: user.clone(), stamp: self.stamp });
        }
    }
}

/// The scripts' form of when a token was issued.
fn issued_text(issued_at: Option<u64>) -> String {
    issued_at.map(|seconds| seconds.to_string()).unwrap_or_default()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
