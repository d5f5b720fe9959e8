//! One run from one seed: replicas, clients, a publisher, and whatever goes wrong; then quiet, then the verdict. Time is
//! a number: the runtime's clock moves only when nobody has anything to do.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tickgate::{
    backplane::{Backplane, Simulated},
    defect::{self, Defect},
    hub::{Hub, RingLimits, Settings, TurnLimits},
    metrics::Metrics,
    tasks::Tasks,
};
use tickgate_wire::model::{Class, Pattern, Topic, TopicRule, UserId};
use tokio::{
    runtime::Builder,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    client::Client,
    dice::Dice,
    oracle::{self, Tally},
    server::{Link, Noise, Restart, Retention, Server},
};

/// What may go wrong in a run.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Entries can be lost for good: restarts that lose data, trimming, slow clients.
    pub losses: bool,
    /// What is left out of the gateway.
    pub defect: Option<Defect>,
    /// Another server is taken for the one before.
    pub blind: bool,
}

impl Weather {
    pub const fn of(seed: u64) -> Self {
        Self { losses: !seed.is_multiple_of(3), defect: None, blind: false }
    }
}

/// What a run amounts to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub published: u64,
    pub faults: u64,
    pub connections: u64,
    pub seen: Tally,
}

impl Figures {
    pub fn add(&mut self, other: &Self) {
        self.published += other.published;
        self.faults += other.faults;
        self.connections += other.connections;
        self.seen.messages += other.seen.messages;
        self.seen.gaps += other.seen.gaps;
        self.seen.told += other.seen.told;
    }
}

/// A topic, or what a client wants of it.
#[derive(Clone, Debug)]
pub struct Subject {
    pub topic: Topic,
    pub rule: Arc<TopicRule>,
    pub channels: Vec<&'static str>,
}

impl Subject {
    pub fn owns(&self, channel: &str) -> bool {
        self.channels.contains(&channel)
    }
}

/// One topic of each kind.
pub fn subjects() -> Vec<Subject> {
    let rule = |class, retain_max| {
        Arc::new(TopicRule {
            pattern: Pattern::new("*").expect("a pattern"),
            class,
            retain_max,
            retain_ttl: Duration::from_secs(3_600),
            wait_replicas: 0,
            wait_aof: false,
        })
    };
    let public = |name| Topic::public(name).expect("a name");
    let user = UserId::new("alice").expect("a name");
    vec![
        Subject { topic: public("trades"), rule: rule(Class::Event, 40), channels: vec!["trades"] },
        Subject { topic: public("ticker"), rule: rule(Class::State, 1), channels: vec!["ticker"] },
        Subject { topic: public("run"), rule: rule(Class::Reliable, 60), channels: vec!["run"] },
        Subject {
            topic: Topic::user_stream(&user),
            rule: rule(Class::Reliable, 60),
            channels: vec!["orders", "alerts"],
        },
    ]
}

/// Plays one seed.
pub fn play(seed: u64, weather: Weather) -> Result<Figures, String> {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    defect::with(weather.defect, || runtime.block_on(run(seed, weather)))
}

async fn run(seed: u64, weather: Weather) -> Result<Figures, String> {
    let mut dice = Dice::new(seed);
    let metrics = Metrics::new();
    let world = World::build(&mut dice, weather, &metrics);
    let begun = Instant::now();
    let calm = begun + Duration::from_millis(dice.between(500, 2_000));
    let end = calm + Duration::from_secs(10);

    let mut clients = JoinSet::new();
    for _ in 0..dice.between(2, 4) {
        let slow = weather.losses && dice.chance(400);
        let patient = !weather.losses || dice.chance(700);
        let client = Client::new(dice.fork(), slow, patient, metrics.clone());
        clients.spawn(client.live(world.hubs.clone(), calm, end));
    }
    let [mut storm, mut publisher, mut verifier] = [dice.fork(), dice.fork(), dice.fork()];
    let (faults, published, ()) = tokio::join!(
        world.storm(weather, &mut storm, calm),
        world.publish(&mut publisher, calm),
        world.verify(&mut verifier, calm),
    );
    world.server.calm();
    let published = world.rest(&mut storm, published).await;

    let mut figures = Figures { published, faults, ..Figures::default() };
    let mut verdict = Ok(());
    while let Some(client) = clients.join_next().await {
        let client = client.map_err(|error| error.to_string())?;
        figures.connections += client.connections;
        let judged = world.judge(&client, weather);
        match judged {
            Ok(tally) => figures.add(&Figures { seen: tally, ..Figures::default() }),
            Err(error) => verdict = Err(error),
        }
    }
    verdict?;
    world.emptied().await?;
    Ok(figures)
}

struct World {
    server: Arc<Server>,
    links: Vec<Arc<Link>>,
    hubs: Vec<Arc<Hub>>,
    /// Their end is the world's.
    _running: JoinSet<()>,
    tasks: Tasks,
}

impl World {
    fn build(dice: &mut Dice, weather: Weather, metrics: &Arc<Metrics>) -> Self {
        let noise = Noise {
            lose: *dice.choose(&[0, 5, 50]),
            repeat: *dice.choose(&[0, 20, 200]),
            swap: *dice.choose(&[0, 20, 100]),
            refuse: *dice.choose(&[0, 50, 300]),
        };
        let scarce = weather.losses && dice.chance(500);
        let retention = |subject: &Subject| {
            let entries = match subject.rule.class {
                Class::State => 1,
                _ if !weather.losses => usize::MAX / 2,
                _ if scarce => 25,
                Class::Event | Class::Reliable => subject.rule.retain_max as usize,
            };
            (subject.topic.clone(), Retention { entries })
        };
        let retention: BTreeMap<_, _> = subjects().iter().map(retention).collect();
        let server = Server::new(dice.fork(), noise, retention, weather.blind);
        let (mut links, mut hubs, mut running, tasks) = (Vec::new(), Vec::new(), JoinSet::new(), Tasks::new());
        for _ in 0..dice.between(1, 3) {
            let link = server.link();
            running.spawn(link.clone().run());
            let settings = Settings {
                shards: 1,
                topics_max: 99,
                unpublished_topics_max: 1_000,
                unpublished_per_address_max: 1_000,
                ring: RingLimits { messages_max: dice.between(1, 20) as usize, bytes_max: 1 << 16 },
                linger: Duration::from_millis(dice.between(0, 300)),
                compare_interval: Duration::from_millis(400),
                queue_grace: Duration::from_secs(10),
                reads: TurnLimits {
                    at_once: 4,
                    bytes_max: 1 << 30,
                    reader_bytes_max: 1 << 30,
                    timeout: Duration::from_secs(10),
                },
            };
            hubs.push(Hub::start(Backplane::Simulated(Simulated(link.clone())), settings, metrics.clone(), &tasks));
            links.push(link);
        }
        Self { server, links, hubs, _running: running, tasks }
    }

    /// Things go wrong until `calm`. Returns how many.
    async fn storm(&self, weather: Weather, dice: &mut Dice, calm: Instant) -> u64 {
        let mut faults = 0;
        loop {
            let next = Instant::now() + Duration::from_millis(dice.between(20, 400));
            sleep_until(next.min(calm)).await;
            if next >= calm {
                return faults;
            }
            faults += 1;
            let link = dice.choose(&self.links).clone();
            let (short, long) = (dice.between(0, 30), dice.between(1, 200));
            match dice.below(if weather.losses { 7 } else { 4 }) {
                0 => self.server.cut(&link, short, long),
                1 => self.server.deafen(&link, long),
                2 => self.server.restart(Restart::Whole, long).await,
                3 => self.server.cut(&link, long, short),
                4 | 5 => self.server.restart(Restart::Forked, long).await,
                _ if dice.chance(500) && !self.server.is_verifying() => self.server.trim(),
                _ => self.server.restart(Restart::Empty, long).await,
            }
        }
    }

    /// The replicas look soon for what a new server lost.
    async fn verify(&self, dice: &mut Dice, calm: Instant) {
        while Instant::now() < calm {
            sleep(Duration::from_millis(dice.between(1, 30))).await;
            self.server.verify();
        }
    }

    async fn publish(&self, dice: &mut Dice, calm: Instant) -> u64 {
        let subjects = subjects();
        let mut number = 0;
        while Instant::now() < calm {
            let burst = if dice.chance(50) { dice.between(5, 40) } else { 1 };
            for _ in 0..burst {
                let subject = dice.choose(&subjects);
                number += 1;
                self.publish_one(subject, number, dice);
            }
            sleep(Duration::from_millis(dice.between(0, 40))).await;
        }
        number
    }

    fn publish_one(&self, subject: &Subject, number: u64, dice: &mut Dice) {
        let channel = (subject.channels.len() > 1).then(|| *dice.choose(&subject.channels));
        self.server.publish(&subject.topic, number, channel);
    }

    /// The storm is over: losses are told, and each channel gets a last publication. Nothing follows it that would give
    /// it away where it was not heard.
    async fn rest(&self, dice: &mut Dice, mut published: u64) -> u64 {
        sleep(Duration::from_secs(1)).await;
        while self.server.is_verifying() {
            self.server.verify();
        }
        for link in &self.links {
            self.server.deafen(link, dice.below(2));
        }
        for subject in subjects() {
            for channel in &subject.channels {
                published += 1;
                let channel = (subject.channels.len() > 1).then_some(*channel);
                self.server.publish(&subject.topic, published, channel);
            }
        }
        published
    }

    fn judge(&self, client: &Client, weather: Weather) -> Result<Tally, String> {
        let truth = self.server.truth();
        let mut all = Tally::default();
        for subject in &client.subjects {
            let story = client.stories.get(&subject.topic).cloned().unwrap_or_default();
            let truth = truth.get(&subject.topic).cloned().unwrap_or_default();
            let tally = oracle::judge(subject, &story, &truth, !weather.losses)
                .map_err(|error| format!("{}: {error}\n{}", subject.topic, oracle::tell(&story, &truth)))?;
            all.messages += tally.messages;
            all.gaps += tally.gaps;
            all.told += tally.told;
        }
        Ok(all)
    }

    /// After everyone left, nothing is subscribed and nothing is followed.
    async fn emptied(&self) -> Result<(), String> {
        sleep(Duration::from_secs(3)).await;
        for hub in &self.hubs {
            let (subscriptions, topics) = (hub.subscriptions(), hub.topics());
            if (subscriptions, topics) != (0, 0) {
                return Err(format!("{subscriptions} subscriptions and {topics} topics are left"));
            }
        }
        match self.tasks.end(Duration::from_secs(1)).await {
            0 => Ok(()),
            left => Err(format!("{left} tasks did not end")),
        }
    }
}
