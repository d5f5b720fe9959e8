//! One run: servers, gateways, an engine and clients; a trace of events; then a calm phase, and the verdict. The same
//! steps and the same seed give the same run.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tickgate::{
    defect::{Defect, with},
    metrics::Metrics,
    redis_link::{Keys, with_network},
};
use tickgate_redis_model::{Refusals, ReplicationRole, RespReply, WriteHistory};
use tokio::{runtime::Builder, task::yield_now, time::sleep};

use crate::{
    client::SimClient,
    engine::EngineState,
    gateway::{
        self, NumberedPublication, PREFIX, Publications, RETAIN_TTL, Setup, SimGateway, SimPublishOutcome, TOPICS,
        is_plain, is_private, stream,
    },
    judge::{self, Excuses, FaultKind, LossFault},
    net::{self, ConnectionKind, Machine, Net},
    step::{CLIENTS, GATEWAYS, KeptData, MACHINES, Old, Pause, RIGHTS, SimStep, Stray},
    still,
};

/// How long a state must be as it should before the system counts as calm: two beats, and a probe of each link.
const SETTLED: Duration = Duration::from_millis(2_500);
/// Rounds over all ready tasks, within which everything that takes no time is finished.
const ROUNDS: usize = 40;

/// How long clients keep listening at the end: each topic is compared with its stream once more.
const LATE: Duration = Duration::from_millis(1_200);
/// How long a connection may stand whose place was taken while nobody could be told: a lease is renewed in three parts.
const PLACES_LATE: Duration = Duration::from_secs(8);
/// How long a client waits for its welcome before it connects elsewhere.
const OPENING: Duration = Duration::from_secs(10);
/// How often each topic is offered its last publication.
const LAST_ATTEMPTS: usize = 3;

/// Metrics of runs that are over: to declare them costs more than to play a step. They count on.
static IDLE: Mutex<Vec<Arc<Metrics>>> = Mutex::new(Vec::new());

/// What was made of a trace.
#[derive(Clone, Debug)]
pub struct Played {
    /// All faults, the worst first.
    pub faults: Vec<LossFault>,
    /// The stories, for debugging.
    pub told: String,
}

/// Plays a trace, in a separate thread because the state of the operating system is part of the run.
pub fn play(seed: u64, steps: &[SimStep]) -> Played {
    play_with(None, seed, steps)
}

/// The same with a deliberate defect in the gateways.
pub fn play_with(defect: Option<Defect>, seed: u64, steps: &[SimStep]) -> Played {
    let steps = steps.to_vec();
    let thread = std::thread::Builder::new().stack_size(4 << 20);
    // Outside the run, whose randomness they would change.
    let (engine, metrics) = (net::Parcel::take(), IDLE.lock().pop().unwrap_or_else(Metrics::new));
    let run = move || {
        still::begin(seed);
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let whole = run(&steps, &metrics, engine);
        let played = with(defect, || with_network(net::dialler(), || runtime.block_on(whole)));
        drop(runtime);
        IDLE.lock().push(metrics);
        net::end();
        played
    };
    let joined = thread.spawn(run).expect("a thread").join();
    joined.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic".to_owned());
        Played { faults: vec![LossFault::new(FaultKind::Stuck, text)], told: String::new() }
    })
}

struct SimWorld {
    gateways: [Option<SimGateway>; GATEWAYS],
    clients: [SimClient; CLIENTS],
    engine: EngineState,
    publications: Publications,
    /// Of all gateways together, and how many gaps they had counted before.
    metrics: Arc<Metrics>,
    gaps_before: u64,
    /// What the network knows the gateways by: a new one in the same place is another process with another address.
    numbers: [usize; GATEWAYS],
    last_number: usize,
    refusals: Refusals,
    /// Wrongly configured gateways, which are corrected at the end.
    others: [bool; GATEWAYS],
    /// Topics whose stream existed on some server.
    streams: [bool; TOPICS.len()],
    excuses: Excuses,
    /// Engines may publish by themselves, or connections have sessions.
    setup: Setup,
}

async fn run(steps: &[SimStep], metrics: &Arc<Metrics>, engine: net::Parcel) -> Played {
    net::begin(MACHINES, engine);
    // Without any the gateways let none in.
    let has = |wanted: fn(&SimStep) -> bool| steps.iter().any(wanted);
    let setup = Setup {
        engines: has(|step| matches!(step, SimStep::Engine { .. } | SimStep::Odd { .. })),
        sessions: has(|step| matches!(step, SimStep::TakeOver { .. })),
        ..Setup::default()
    };
    let mut world = SimWorld::new(setup, metrics);
    for gateway in 0..GATEWAYS {
        world.begin(gateway, Setup::default());
    }
    world.pause(Pause::Moment).await;
    world.connect(0, 0);
    world.pause(Pause::Moment).await;
    for step in steps {
        world.excuses.add(step, net::with(|net| net.now()));
        world.step(*step).await;
    }
    world.calm().await;
    Played { faults: world.faults(), told: world.tell() }
}

impl SimWorld {
    fn new(setup: Setup, metrics: &Arc<Metrics>) -> Self {
        Self {
            gateways: std::array::from_fn(|_| None),
            clients: std::array::from_fn(SimClient::new),
            engine: EngineState::default(),
            publications: Publications::default(),
            gaps_before: metrics.gaps_total.total(),
            metrics: metrics.clone(),
            numbers: [0; GATEWAYS],
            last_number: 0,
            refusals: Refusals::default(),
            others: [false; GATEWAYS],
            streams: [false; TOPICS.len()],
            // What they acknowledged, nobody can say.
            excuses: Excuses::new(setup.engines),
            setup,
        }
    }

    fn begin(&mut self, at: usize, setup: Setup) {
        if self.gateways[at].is_some() || (setup.database != 0 && gateway::is_refused(setup.database)) {
            return;
        }
        let primary = self.primary();
        self.last_number += 1;
        self.numbers[at] = self.last_number;
        net::with(|net| ConnectionKind::ALL.iter().for_each(|kind| net.lead((self.last_number, *kind), primary)));
        let Setup { engines, sessions, .. } = self.setup;
        let gateway = SimGateway::start(self.last_number, Setup { engines, sessions, ..setup }, &self.metrics);
        self.others[at] = setup.database != 0 || setup.other_rules;
        self.gateways[at] = Some(gateway);
    }

    /// The destination of most commands: the server that operators work on.
    fn primary(&self) -> usize {
        let living = (0..GATEWAYS).find(|at| self.gateways[*at].is_some());
        net::with(|net| living.map_or(net.leader, |at| net.route((self.numbers[at], ConnectionKind::Commands))))
    }

    fn connect(&mut self, client: usize, gateway: usize) {
        let Some(own) = &self.gateways[gateway] else { return };
        if self.others[gateway] {
            // Not ready: no clients are sent to it.
            return;
        }
        self.clients[client].connect(gateway, own, &self.publications);
    }

    async fn take_over(&mut self, client: usize, gateway: usize) {
        // A client notices first that its connection is dead, or waits for its welcome (docs/client.md).
        self.pause(Pause::Moment).await;
        let until = net::with(|net| net.now()) + OPENING;
        while self.clients[client].awaits_welcome() && net::with(|net| net.now()) < until {
            self.pass(Duration::from_secs(1)).await;
        }
        if let Some(own) = self.gateways[gateway].as_ref().filter(|_| !self.others[gateway]) {
            self.clients[client].take_over(gateway, own, &self.publications);
        }
    }

    async fn pause(&mut self, pause: Pause) {
        let time = match pause {
            Pause::Moment => Duration::from_millis(10),
            Pause::Breath => Duration::from_millis(40),
            Pause::While => Duration::from_secs(2),
            Pause::Long => Duration::from_secs(12),
        };
        self.pass(time).await;
    }

    async fn pass(&mut self, time: Duration) {
        sleep(time).await;
        self.look();
    }

    /// Followers replicate, and clients read.
    fn look(&mut self) {
        let primary = self.primary();
        net::with(|net| net.replicate(primary));
        self.notice();
        self.clients.iter_mut().for_each(SimClient::read);
    }

    /// Records lost streams, and with them the knowledge of their ids.
    fn notice(&mut self) {
        net::with(|net| {
            for at in 0..TOPICS.len() {
                let key = stream(at).as_bytes();
                let counts = |own: &&Machine| own.up && own.server.is_primary();
                let has: Vec<_> = net.machines.iter().filter(counts).map(|own| own.server.has_stream(0, key)).collect();
                self.excuses.vanished[at] |= self.streams[at] && has.contains(&false);
                self.streams[at] |= has.contains(&true);
            }
        });
    }

    async fn step(&mut self, step: SimStep) {
        match step {
            SimStep::Wait(pause) => return self.pause(pause).await,
            SimStep::Idle => return self.pass(RETAIN_TTL + Duration::from_secs(1)).await,
            SimStep::Publish { gateway, topic } => {
                if let Some(gateway) = &self.gateways[gateway] {
                    gateway.publish(topic, None, &self.publications);
                }
            }
            SimStep::Once { gateway, topic } => {
                if let Some(gateway) = &self.gateways[gateway] {
                    let first = self.publications.lock().len();
                    gateway.publish(topic, Some(first), &self.publications);
                }
            }
            SimStep::Again { gateway } => self.repeat(gateway),
            SimStep::Engine { topic } => self.engine(topic, false),
            SimStep::Odd { topic } => self.engine(topic, true),
            SimStep::MadeUp { client, gateway, cursor } => {
                if self.clients[client].make_up(cursor.id()) {
                    self.connect(client, gateway);
                }
            }
            SimStep::Connect { client, gateway } => self.connect(client, gateway),
            SimStep::TakeOver { client, gateway } => self.take_over(client, gateway).await,
            SimStep::Leave { client } => self.clients[client].leave(),
            SimStep::Stall { client } => self.clients[client].take(false),
            SimStep::Read { client } => self.clients[client].take(true),
            SimStep::Kill { gateway } => self.kill(gateway).await,
            SimStep::Drain { gateway } => self.drain(gateway).await,
            SimStep::Begin { gateway } => self.begin(gateway, Setup::default()),
            SimStep::Suspend { gateway } => self.suspend(gateway, true),
            SimStep::Resume { gateway } => self.suspend(gateway, false),
            SimStep::BeginOther { gateway, database, rules } => {
                self.begin(gateway, Setup { database, other_rules: rules, ..Setup::default() });
            }
            SimStep::Deny(_) | SimStep::Fill | SimStep::Allow => self.change_refusals(step),
            SimStep::Delete { .. }
            | SimStep::Trim { .. }
            | SimStep::Xdel { .. }
            | SimStep::Retype { .. }
            | SimStep::Evict
            | SimStep::Stray { .. } => self.operate(step),
            SimStep::Promote { machine, old } => self.promote(machine, old),
            SimStep::Lead { gateway, kind, machine, cut } => self.lead(gateway, kind, machine, cut),
            SimStep::Cut { gateway, kind } => {
                let link = (self.numbers[gateway], kind);
                net::with(|net| net.cut(|own, _| own == link));
            }
            SimStep::Hold { gateway, kind } => net::with(|net| net.hold((self.numbers[gateway], kind))),
            SimStep::Release => net::with(Net::release),
            SimStep::Lose { gateway } => net::with(|net| net.lose_next(self.numbers[gateway])),
            SimStep::Crash { .. }
            | SimStep::Stop { .. }
            | SimStep::Start { .. }
            | SimStep::Dump { .. }
            | SimStep::Lag { .. }
            | SimStep::Replace { .. }
            | SimStep::Clock { .. } => net::with(|net| at_machine(net, step)),
        }
        self.notice();
        self.settle().await;
    }

    /// Takes rights or memory away, or gives everything back.
    fn change_refusals(&mut self, step: SimStep) {
        match step {
            SimStep::Deny(at) => self.refusals.denied.extend(RIGHTS[at].iter().map(ToString::to_string)),
            SimStep::Fill => self.refusals.full = true,
            _ => self.refusals = Refusals::default(),
        }
        self.refuse();
    }

    /// Lets everything happen that takes no time: connections deliver at once.
    async fn settle(&mut self) {
        for _ in 0..ROUNDS {
            yield_now().await;
        }
        self.look();
    }

    /// The publisher repeats its last publication with a `msg_id`.
    fn repeat(&self, gateway: usize) {
        let Some(gateway) = &self.gateways[gateway] else { return };
        let last = self.publications.lock().iter().rev().find_map(|own| Some((own.topic, own.first?)));
        if let Some((topic, first)) = last {
            gateway.publish(topic, Some(first), &self.publications);
        }
    }

    fn engine(&mut self, topic: usize, is_odd: bool) {
        let primary = self.primary();
        let number = gateway::note(&self.publications, topic, "the engine".to_owned());
        let engine = &mut self.engine;
        let outcome = net::with(|net| {
            let machine = &mut net.machines[primary];
            if !machine.up || !machine.server.is_primary() || is_plain(topic) {
                return SimPublishOutcome::Refused;
            }
            engine.publish(&mut machine.server, (topic, number), is_odd)
        });
        let own = &mut self.publications.lock()[number];
        (own.outcome, own.is_odd) = (outcome, is_odd);
    }

    fn refuse(&self) {
        net::with(|net| net.machines.iter_mut().for_each(|machine| machine.server.refuse(self.refusals.clone())));
    }

    fn suspend(&self, gateway: usize, is_suspended: bool) {
        if let Some(own) = &self.gateways[gateway] {
            own.suspend(is_suspended, &self.publications);
        }
    }

    async fn kill(&mut self, gateway: usize) {
        let Some(own) = self.gateways[gateway].take() else { return };
        self.leave(gateway);
        net::with(|net| net.lose(self.numbers[gateway]));
        // Whatever it still does is delivered to no one.
        own.suspend(false, &self.publications);
        own.end().await;
    }

    async fn drain(&mut self, gateway: usize) {
        // A suspended process notices it only when it continues.
        self.suspend(gateway, false);
        let Some(own) = self.gateways[gateway].take() else { return };
        self.excuses.deserted |= self.gateways.iter().all(Option::is_none);
        self.leave(gateway);
        own.leave().await;
        net::with(|net| net.lose(self.numbers[gateway]));
    }

    /// Disconnects the clients of a gateway.
    fn leave(&mut self, gateway: usize) {
        self.clients.iter_mut().for_each(|client| client.lose(gateway));
    }

    fn promote(&mut self, to: usize, old: Old) {
        let from = self.primary();
        if from == to {
            return;
        }
        let numbers = self.numbers;
        net::with(|net| {
            if !net.machines[to].up {
                return;
            }
            net.replicate(from);
            let (before, identity) = (net.machines[to].server.identity(), net.new_identity());
            let promoted = &mut net.machines[to].server;
            let former = Some((before.replid, promoted.offset()));
            promoted.set_identity(tickgate_redis_model::ServerIdentity { former, run_id: before.run_id, ..identity });
            promoted.set_role(ReplicationRole::Primary);
            net.machines[to].lagging = false;
            match old {
                Old::Down => stop(net, from),
                Old::Alive => {}
                Old::Follows => {
                    net.machines[from].server.set_role(ReplicationRole::Replica { host: "primary".into(), port: 6379 });
                }
            }
            for number in numbers {
                ConnectionKind::ALL.iter().for_each(|kind| net.lead((number, *kind), to));
            }
        });
    }

    fn lead(&self, gateway: usize, kind: Option<ConnectionKind>, machine: usize, cut: bool) {
        net::with(|net| {
            for own in ConnectionKind::ALL.into_iter().filter(|own| kind.is_none_or(|kind| kind == *own)) {
                let link = (self.numbers[gateway], own);
                net.lead(link, machine);
                if cut {
                    net.cut(|known, _| known == link);
                }
            }
            // If an address leads to a follower, an operator believed that it is the primary.
            let identity = net.new_identity();
            let led = &mut net.machines[machine];
            if led.up && !led.server.is_primary() {
                let before = led.server.identity();
                let former = Some((before.replid, led.server.offset()));
                led.server.set_identity(tickgate_redis_model::ServerIdentity {
                    former,
                    run_id: before.run_id,
                    ..identity
                });
                led.server.set_role(ReplicationRole::Primary);
            }
        });
    }

    /// What operators, other programs and eviction do to keys and channels.
    fn operate(&self, step: SimStep) {
        let primary = self.primary();
        net::with(|net| {
            let machine = &mut net.machines[primary];
            if !machine.up {
                return;
            }
            let server = &mut machine.server;
            match step {
                SimStep::Delete { topic } => drop(server.remove(0, stream(topic).as_bytes())),
                SimStep::Trim { topic } => drop(server.run(&["XTRIM", stream(topic), "MAXLEN", "0"])),
                SimStep::Xdel { topic, at } => {
                    let entries = server.entries(0, stream(topic).as_bytes());
                    if let Some(id) = entries.iter().rev().nth(at) {
                        server.run(&["XDEL", stream(topic), &id.to_string()]);
                    }
                }
                SimStep::Evict => drop(server.remove(0, Keys::new(PREFIX).generation().as_bytes())),
                SimStep::Retype { topic } => drop(server.run(&["SET", stream(topic), "x"])),
                SimStep::Stray { topic, stray } => {
                    let channel = if is_private(topic) { TOPICS[topic].0 } else { "-" };
                    let payload = match stray {
                        Stray::Nonsense => "",
                        // As the same product in another deployment would write it, in the year 2060.
                        Stray::Foreign => "{\"n\":\"stray\"}",
                        Stray::NotJson => "{\"n\"",
                    };
                    let text = format!("8000000000000000-0 ? 8000000000000000 0 {channel}\n{payload}");
                    server.run(&["PUBLISH", stream(topic), if payload.is_empty() { "nonsense" } else { &text }]);
                }
                _ => {}
            }
        });
    }

    /// Repairs everything: one primary that the others follow, all rights, all links. Then, after some time, every
    /// client reconnects, and each topic gets a last publication.
    async fn calm(&mut self) {
        self.refusals = Refusals::default();
        self.refuse();
        let primary = self.primary();
        let numbers = self.numbers;
        net::with(|net| {
            if !net.machines[primary].up {
                let history = net.machines[primary].stopped.clone();
                start(net, primary, history);
            }
            net.release();
            let server = &mut net.machines[primary].server;
            server.set_role(ReplicationRole::Primary);
            for at in 0..TOPICS.len() {
                if server.run(&["TYPE", stream(at)]) == RespReply::Status("string") {
                    server.run(&["DEL", stream(at)]);
                }
            }
            for at in (0..MACHINES).filter(|at| *at != primary) {
                net.machines[at].server.set_role(ReplicationRole::Replica { host: "primary".into(), port: 6379 });
                (net.machines[at].lagging, net.machines[at].up) = (false, true);
                net.cut(|_, machine| machine == at);
            }
            for number in numbers {
                ConnectionKind::ALL.iter().for_each(|kind| net.lead((number, *kind), primary));
            }
        });
        for gateway in 0..GATEWAYS {
            self.suspend(gateway, false);
            if self.others[gateway] {
                self.drain(gateway).await;
            }
            self.begin(gateway, Setup::default());
        }
        self.clients.iter().for_each(|client| client.take(true));
        self.recover().await;
        for client in (0..CLIENTS).filter(|client| client % 2 == 0) {
            self.come_back(client);
        }
        self.subscribed().await;
        self.excuses.calm_from = self.publications.lock().len();
        for topic in (0..TOPICS.len()).rev() {
            self.offer(topic);
        }
        self.pause(Pause::Moment).await;
        for topic in (0..TOPICS.len()).rev() {
            // A publisher that waits for followers may only now detect that its connection was lost.
            for _ in 1..LAST_ATTEMPTS {
                if !self.is_accepted(topic) {
                    self.pause(Pause::While).await;
                    self.offer(topic);
                    self.pause(Pause::Moment).await;
                }
            }
        }
        for client in 0..CLIENTS {
            self.come_back(client);
        }
        self.subscribed().await;
        self.pass(if self.setup.sessions { LATE + PLACES_LATE } else { LATE }).await;
    }

    /// Publishes the last publication of a topic.
    fn offer(&self, topic: usize) {
        if let Some(gateway) = &self.gateways[0] {
            gateway.publish(topic, None, &self.publications);
        }
    }

    /// Waits for the clients' subscriptions, for a limited time.
    async fn subscribed(&mut self) {
        for _ in 0..40 {
            self.pass(Duration::from_millis(50)).await;
            if self.clients.iter().all(|client| client.gateway().is_none() || client.is_subscribed()) {
                return;
            }
        }
    }

    /// Waits until every gateway has acknowledged for a while and every boundary has its verdict: a few seconds, or a
    /// minute if all gateways were killed, because later ones can rely only on their silence.
    async fn recover(&mut self) {
        let now = || net::with(|net| net.now());
        let (until, mut since) = (now() + Duration::from_secs(90), now());
        while now() < since + SETTLED && now() < until {
            self.pass(Duration::from_millis(500)).await;
            if !self.gateways.iter().flatten().all(SimGateway::is_settled) {
                since = now();
            }
        }
    }

    /// Whether the last publication of a topic was acknowledged.
    fn is_accepted(&self, topic: usize) -> bool {
        let publications = self.publications.lock();
        publications.iter().rev().find(|own| own.topic == topic).is_some_and(NumberedPublication::is_accepted)
    }

    fn come_back(&mut self, client: usize) {
        if self.clients[client].gateway().is_none() && self.clients[client].stories[0].cursor.is_some() {
            self.connect(client, client % GATEWAYS);
        }
    }

    fn faults(&self) -> Vec<LossFault> {
        let publications = self.publications.lock();
        let stuck = |text: String| vec![LossFault::new(FaultKind::Stuck, text)];
        if net::with(|net| net.spins) {
            return stuck("a gateway asks and asks within one moment".to_owned());
        }
        let last = |topic| publications.iter().rev().find(|own| own.topic == topic).expect("a last one");
        if let Some(own) = (0..TOPICS.len()).map(last).find(|own| !own.is_accepted()) {
            return stuck(format!("{} takes nothing any more: {:?}", TOPICS[own.topic].0, own.outcome));
        }
        let mut connected = self.clients.iter().filter(|client| client.gateway().is_some());
        if let Some(own) = connected.clone().find(|client| !client.is_subscribed()) {
            return stuck(format!("a client at {:?} waits for its subscription", own.gateway()));
        }
        if let Some(at) = (0..CLIENTS).find(|at| self.clients[*at].lingers()) {
            return stuck(format!("client {at} has two connections: it took the place of one that still stands"));
        }
        if self.clients.iter().any(|client| client.displaced > 0) && self.excuses.keeps_places() {
            return stuck("the newest connection of a session was closed".to_owned());
        }
        let stories: Vec<_> = connected.by_ref().map(|client| &client.stories).collect();
        let counted = self.metrics.gaps_total.total() - self.gaps_before;
        let heard = self.clients.iter().map(|client| client.gaps).sum();
        judge::judge(&stories, &publications, (heard, counted), &self.excuses)
    }

    fn tell(&self) -> String {
        let mut text = String::new();
        for (number, own) in self.publications.lock().iter().enumerate() {
            text += &format!("  {number} {} by {}: {:?}\n", TOPICS[own.topic].0, own.by, own.outcome);
        }
        for (number, client) in self.clients.iter().enumerate() {
            for (at, story) in client.stories.iter().enumerate().filter(|(_, story)| !story.seen.is_empty()) {
                text += &format!("  client {number} {}: {}\n", TOPICS[at].0, judge::tell(story));
            }
        }
        text
    }
}

fn stop(net: &mut Net, at: usize) {
    net.machines[at].stopped = net.machines[at].server.history();
    net.machines[at].up = false;
    net.cut(|_, machine| machine == at);
}

fn start(net: &mut Net, at: usize, history: WriteHistory) {
    let identity = net.new_identity();
    let machine = &mut net.machines[at];
    machine.up = true;
    machine.server.restart(history, identity);
}

/// What remains of a history.
fn kept(machine: &Machine, history: &WriteHistory, keep: KeptData) -> WriteHistory {
    match keep {
        KeptData::All => history.clone(),
        KeptData::Saved => machine.saved.clone(),
        KeptData::Nothing => WriteHistory::new(),
        KeptData::But(lost) => {
            let writes = |at: &usize| {
                history[*at].iter().any(|effect| matches!(effect, tickgate_redis_model::WrittenEffect::Set { .. }))
            };
            let cut = (0..history.len()).rev().filter(writes).nth(lost - 1).unwrap_or(0);
            history[..cut].to_vec()
        }
    }
}

fn at_machine(net: &mut Net, step: SimStep) {
    match step {
        SimStep::Crash { machine, keep } if net.machines[machine].up => {
            stop(net, machine);
            let history = kept(&net.machines[machine], &net.machines[machine].stopped, keep);
            start(net, machine, history);
        }
        SimStep::Stop { machine } if net.machines[machine].up => stop(net, machine),
        SimStep::Start { machine, keep } if !net.machines[machine].up => {
            let history = kept(&net.machines[machine], &net.machines[machine].stopped, keep);
            start(net, machine, history);
        }
        SimStep::Dump { machine } => net.machines[machine].saved = net.machines[machine].server.history(),
        SimStep::Lag { machine } => net.machines[machine].lagging = true,
        SimStep::Replace { machine } if net.machines[machine].up => {
            let saved = net.machines[machine].saved.clone();
            net.machines[machine].server.replace(saved);
        }
        SimStep::Clock { machine, ms } => net.machines[machine].clock_ms += ms,
        _ => {}
    }
}
