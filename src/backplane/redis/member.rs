//! Keeps a replica's membership in one server's dataset: attaches, sends beats, reports losses, leaves. Never decides:
//! `roster` does.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use redis::{Script, aio::MultiplexedConnection};
use tickgate_wire::model::StreamId;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use super::{
    ReplicaIdentity, claims,
    generation::{GenerationRecord, GenerationState},
    handover,
    ledger::TopicLedger,
    membership::{MemberStanding, Membership},
    process,
    roster::{LEASE_MS, MemberMemory, ServerState},
    seen::{BeatResponse, KnownBeats},
    table,
};
use crate::{
    clock,
    defect::{self, Defect},
    redis_link::{AttachedServer, RedisFailure, RedisLink},
    tasks::Stop,
};

mod leave;

/// The format that this replica reads and writes.
const FORMAT: &str = "2";
const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Delay before a retry.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A request to leave; answered when it has.
pub(super) type LeaveRequest = oneshot::Sender<()>;

pub(super) struct MemberTask {
    link: RedisLink,
    shared: Arc<Membership>,
    ledger: Arc<Mutex<TopicLedger>>,
    handed: Arc<Mutex<handover::ReceivedHandovers>>,
    me: MemberMemory,
    /// The topic rules, for engines.
    table: String,
    started: Instant,
    beat: u64,
    /// When the last answered beat was sent, and its number in the dataset.
    answered: Option<Instant>,
    written: Option<u64>,
    /// Whether the dataset may have been rolled back since this member last attached.
    doubts: bool,
    /// It acknowledges nothing any more.
    is_leaving: bool,
    revision: String,
    stored: Option<GenerationRecord>,
    beats: KnownBeats,
    scripts: [Script; 2],
}

enum JoinRound {
    Done,
    /// The roster was written meanwhile: read again.
    Again,
}

impl MemberTask {
    pub(super) fn new(
        link: RedisLink,
        shared: Arc<Membership>,
        ledger: Arc<Mutex<TopicLedger>>,
        identity: &ReplicaIdentity,
    ) -> Self {
        let scripts = [include_str!("scripts/beat.lua"), include_str!("scripts/commit.lua")].map(Script::new);
        let handed = Arc::<Mutex<handover::ReceivedHandovers>>::default();
        let (received, woken) = (Arc::clone(&handed), Arc::clone(&shared));
        let (name, own) = (identity.replica.as_str(), identity.replica.to_string());
        let hear = move |message: &[u8]| {
            received.lock().take(message, &own);
            woken.wake();
        };
        link.subscribe_control(&link.keys().generation_control(), Arc::new(hear));
        Self {
            me: MemberMemory::new(name, process::own(), identity.rules.agreement(), link.config().engines),
            table: table::of(&identity.rules),
            link,
            shared,
            ledger,
            handed,
            started: Instant::now(),
            beat: 0,
            answered: None,
            written: None,
            doubts: false,
            is_leaving: false,
            revision: String::new(),
            stored: None,
            beats: KnownBeats::default(),
            scripts,
        }
    }

    pub(super) async fn run(mut self, mut leave: oneshot::Receiver<LeaveRequest>, mut stop: Stop) {
        let mut identities = self.link.identities();
        loop {
            let pause = match self.round().await {
                Ok(JoinRound::Done) => BEAT_INTERVAL,
                Ok(JoinRound::Again) => Duration::ZERO,
                Err(failure) => {
                    self.fail(&failure);
                    RETRY_PAUSE
                }
            };
            tokio::select! {
                biased;
                () = stop.wait() => return,
                Ok(left) = &mut leave => {
                    self.leave().await;
                    let _ = left.send(());
                    return;
                }
                Ok(()) = identities.changed() => {}
                () = self.shared.woken() => {}
                () = sleep(pause) => {}
            }
        }
    }

    fn fail(&self, failure: &RedisFailure) {
        if *failure != RedisFailure::Disconnected {
            tracing::debug!(%failure, "the membership in redis could not be kept");
        }
        // If the server is only silent, the right ends with the lease.
        if failure.is_passing() {
            self.shared.hinder(failure.clone());
        } else {
            self.shared.shut_out(failure);
        }
    }

    async fn round(&mut self) -> Result<JoinRound, RedisFailure> {
        let AttachedServer { mut connection, identity } = self.link.attached()?;
        // Before the read: the dataset knows everything seen until now.
        let given = self.shared.given(self.me.g);
        self.me.known = self.me.known.max(self.shared.known()).max(given);
        let sent = Instant::now();
        let seen = self.look(&mut connection).await?;
        if seen.identity != *identity {
            self.shared.revoke(None);
            self.link.suspect();
            return Err(RedisFailure::Other("the dataset of redis was replaced".into()));
        }
        let here = seen.stored.as_ref().filter(|stored| stored.g == self.me.g);
        self.doubts |= self.shared.take_doubt();
        let went_back = here.is_some_and(|stored| self.doubts || seen.beat < self.written || stored.alloc < given);
        let place = self.place(&seen, went_back);
        if self.me.must_attach(seen.stored.as_ref(), &place) {
            return self.attach(connection, seen, place).await;
        }
        let Some(stored) = seen.stored else { return Err(RedisFailure::Other("the roster is unreadable".into())) };
        self.beats.note(&seen.beats);
        self.me.settled(&stored);
        self.learn(&stored);
        (self.revision, self.stored) = (seen.revision, Some(stored.clone()));
        if let Some(refused) = RedisFailure::of_text(&seen.refused) {
            // The others no longer see beats of this member: the right to acknowledge ends with the lease.
            self.shared.hinder(refused);
            return Ok(JoinRound::Done);
        }
        (self.answered, self.written) = (Some(sent), Some(self.beat));
        self.ledger.lock().answered(self.beat);
        self.take_over();
        let mut next = stored;
        let now = (self.now_ms(), clock::unix_ms() / 1000);
        if self.me.tend(&mut next.state, &seen.beats, process::has_ended, now) {
            return self.commit(&mut connection, next).await;
        }
        self.stand(&identity);
        Ok(JoinRound::Done)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn place(&self, seen: &BeatResponse, went_back: bool) -> ServerState {
        let silent = self.answered.map(|answered| u64::try_from(answered.elapsed().as_millis()).unwrap_or(u64::MAX));
        ServerState {
            identity: seen.identity.clone(),
            now_s: clock::unix_ms() / 1000,
            random: uuid::Uuid::new_v4().as_u64_pair().0,
            went_back,
            went_on: self.beats.are_behind(&seen.beats, &self.me.name()),
            silent_ms: silent,
            lost: Vec::new(),
            forgot: false,
        }
    }

    /// Attaches, with a report when leaving another generation. Nothing is acknowledged meanwhile.
    async fn attach(
        &mut self,
        mut connection: MultiplexedConnection,
        seen: BeatResponse,
        mut place: ServerState,
    ) -> Result<JoinRound, RedisFailure> {
        self.shared.revoke(None);
        let (claims, mut count) = (self.ledger.lock().claims(seen.beat), 0);
        match claims {
            None => place.forgot = true,
            Some(claims) => {
                let found = claims::lost(&self.link, &mut connection, claims).await?;
                let known = |(topic, id, _): &&(String, StreamId, u64)| {
                    self.me.copy.lost.get(topic).is_some_and(|lost| lost.contains(id))
                };
                count = found.iter().filter(|lost| !known(lost)).map(|(.., count)| count).sum();
                place.lost = found.into_iter().map(|(topic, id, _)| (topic, id)).collect();
            }
        }
        if defect::is(Defect::NoReport) {
            (place.lost, place.forgot) = (Vec::new(), false);
        }
        (self.revision, self.stored) = (seen.revision, None);
        let (before, topics) = (self.me.g, place.lost.len());
        let next = self.me.attach(seen.stored, &place);
        let round = self.commit(&mut connection, next).await?;
        let Some(stored) = &self.stored else { return Ok(round) };
        (self.written, self.doubts) = (None, false);
        self.ledger.lock().begin(stored.g);
        if before != 0 && before != stored.g {
            tracing::warn!(before, generation = stored.g, "redis was restarted or replaced");
            self.link.metrics().lost_publications_total.inc_by(count);
            match topics {
                0 => tracing::info!("redis still has all publications that this replica acknowledged"),
                _ => tracing::error!(
                    topics,
                    publications = count,
                    "redis lost acknowledged publications; a gap is reported"
                ),
            }
        }
        Ok(JoinRound::Again)
    }

    /// Writes the roster, unless it was changed meanwhile.
    async fn commit(
        &mut self,
        connection: &mut MultiplexedConnection,
        next: GenerationRecord,
    ) -> Result<JoinRound, RedisFailure> {
        let state =
            serde_json::to_string(&next.state).map_err(|error| RedisFailure::Other(error.to_string().into()))?;
        let revision = uuid::Uuid::new_v4().simple().to_string();
        let keys = self.link.keys();
        let mut call = self.scripts[1].key(keys.generation());
        call.arg(&self.revision).arg(&next.identity).arg(&revision).arg(next.g).arg(next.alloc).arg(state);
        call.arg(keys.generation_control()).arg(u8::from(next.state.engines));
        // Written once, when attaching: while rules are being changed, those of the replica that started last apply.
        call.arg(self.stored.as_ref().map_or(&*self.table, |_| ""));
        let gone = self.stored.iter().flat_map(|stored| stored.state.members.keys());
        let gone = gone.filter(|name| !next.state.members.contains_key(*name));
        call.arg(gone.collect::<Vec<_>>());
        let answer: String = call.invoke_async(connection).await?;
        if answer != "OK" {
            self.stored = None;
            self.revision.clear();
            return Ok(JoinRound::Again);
        }
        self.me.settled(&next);
        self.learn(&next);
        (self.revision, self.stored) = (revision, Some(next));
        Ok(JoinRound::Again)
    }

    /// Reads the server's state, and sends a beat.
    async fn look(&mut self, connection: &mut MultiplexedConnection) -> Result<BeatResponse, RedisFailure> {
        self.beat += 1;
        let names: Vec<_> = self.me.copy.members.keys().cloned().collect();
        let mut call = self.scripts[0].key(self.link.keys().generation());
        let revision = if self.stored.is_some() { &*self.revision } else { "" };
        call.arg(self.me.name()).arg(self.beat).arg(self.me.g).arg(revision);
        call.arg(self.written.map_or_else(String::new, |beat| beat.to_string()));
        call.arg(&names);
        let answer: Vec<String> = call.invoke_async(connection).await?;
        let [identity, format, g, of, alloc, revision, beat, state, refused, beats @ ..] = &answer[..] else {
            return Err(RedisFailure::Other("unexpected response to a beat".into()));
        };
        if !format.is_empty() && format != FORMAT {
            let text = format!("this replica requires format {FORMAT} in redis, but found format {format}");
            return Err(RedisFailure::OtherFormat(text.into()));
        }
        let number = |text: &str| text.parse::<u64>().ok();
        let alloc = number(alloc).unwrap_or(0);
        let stored = match (number(g), &self.stored) {
            (None, _) => None,
            (Some(g), Some(old)) if state.is_empty() => {
                Some(GenerationRecord { g, identity: of.clone(), alloc, ..old.clone() })
            }
            (Some(g), _) => {
                let state: GenerationState = serde_json::from_str(state).map_err(|error| {
                    RedisFailure::Other(format!("the roster in redis is unreadable: {error}").into())
                })?;
                Some(GenerationRecord { g, identity: of.clone(), alloc, state })
            }
        };
        let beats = names.into_iter().zip(beats).filter_map(|(name, beat)| Some((name, number(beat)?))).collect();
        Ok(BeatResponse {
            identity: identity.clone(),
            beat: number(beat),
            refused: refused.clone(),
            stored,
            revision: revision.clone(),
            beats,
        })
    }

    /// Takes responsibility for ids that leaving members have handed over.
    fn take_over(&mut self) {
        for (name, ids) in self.handed.lock().complete() {
            let mut ledger = self.ledger.lock();
            for (topic, id) in ids {
                ledger.acknowledge(self.link.keys(), &topic, id);
            }
            self.me.heirs.insert(name);
        }
    }

    fn learn(&self, stored: &GenerationRecord) {
        if self.shared.learn(stored.history()) {
            self.link.learn(stored.g);
        }
    }

    /// Takes the right to acknowledge, or records why there is none.
    fn stand(&self, identity: &Arc<str>) {
        let Some(answered) = self.answered.filter(|_| !self.is_leaving) else { return };
        if self.me.is_ready() && self.link.is_one_server() {
            self.shared.grant(MemberStanding {
                generation: self.me.g,
                identity: Arc::clone(identity),
                until: answered + Duration::from_millis(LEASE_MS),
            });
            return;
        }
        let why = match self.me.disagreement(&self.me.copy) {
            _ if self.me.is_ready() => "the two links lead to different servers".to_owned(),
            Some(rules) => format!("the topic rules differ from those of another replica: {rules}"),
            None => "the other replicas have not confirmed this one yet".to_owned(),
        };
        self.shared.revoke(Some(why.into()));
    }
}
