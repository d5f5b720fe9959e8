//! The steps: the alphabet of the search. Every step is possible at any moment; without an object it does nothing, so
//! that any part of a trace is a trace.

use std::fmt;

use tickgate_kit::dice::Dice;
use tickgate_wire::model::StreamId;

use crate::{gateway::TOPICS, net::ConnectionKind};

pub const MACHINES: usize = 3;
pub const GATEWAYS: usize = 2;
pub const CLIENTS: usize = 2;

/// What a restarted server still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeptData {
    /// `appendfsync always`, or a clean stop.
    All,
    /// `appendfsync everysec`: all but this many of the last writes.
    But(usize),
    /// The last dump.
    Saved,
    Nothing,
}

/// What happens to the old primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Old {
    Down,
    /// It continues as a primary with its connections.
    Alive,
    Follows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pause {
    /// Long enough for everything in flight.
    Moment,
    /// About as long as one link takes to reconnect, and perhaps not another.
    Breath,
    /// Long enough for links to reconnect.
    While,
    /// Longer than a lease.
    Long,
}

/// A mistaken message on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stray {
    Nonsense,
    /// A message of another deployment, with a much greater epoch.
    Foreign,
    NotJson,
}

/// A cursor that was never given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MadeUp {
    /// Before all ids.
    Early,
    /// Of an epoch that was never reached.
    Late,
}

impl MadeUp {
    pub const fn id(self) -> StreamId {
        match self {
            Self::Early => StreamId::new(1, 5),
            Self::Late => StreamId::new(StreamId::SEQ_END, 5),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimStep {
    Wait(Pause),
    /// Nothing happens for longer than an idle stream is retained.
    Idle,
    Publish {
        gateway: usize,
        topic: usize,
    },
    /// A publication with a `msg_id`, which its publisher can repeat.
    Once {
        gateway: usize,
        topic: usize,
    },
    /// The publisher repeats the last publication with a `msg_id`, whatever its result was.
    Again {
        gateway: usize,
    },
    Engine {
        topic: usize,
    },
    /// The engine publishes an invalid payload.
    Odd {
        topic: usize,
    },
    Connect {
        client: usize,
        gateway: usize,
    },
    /// A stranger connects with an invented cursor.
    MadeUp {
        client: usize,
        gateway: usize,
        cursor: MadeUp,
    },
    /// The client connects while its connection stands, and takes over the place of its session.
    TakeOver {
        client: usize,
        gateway: usize,
    },
    Leave {
        client: usize,
    },
    /// The client stops reading from its connection, and continues later.
    Stall {
        client: usize,
    },
    Read {
        client: usize,
    },
    Crash {
        machine: usize,
        keep: KeptData,
    },
    Stop {
        machine: usize,
    },
    Start {
        machine: usize,
        keep: KeptData,
    },
    Dump {
        machine: usize,
    },
    Lag {
        machine: usize,
    },
    Promote {
        machine: usize,
        old: Old,
    },
    /// An address is pointed to another machine: that of one link of a gateway, or all of its.
    Lead {
        gateway: usize,
        kind: Option<ConnectionKind>,
        machine: usize,
        cut: bool,
    },
    /// The dataset is replaced inside the running server by its last dump.
    Replace {
        machine: usize,
    },
    Clock {
        machine: usize,
        ms: i64,
    },
    Delete {
        topic: usize,
    },
    Trim {
        topic: usize,
    },
    Xdel {
        topic: usize,
        at: usize,
    },
    Retype {
        topic: usize,
    },
    /// The key of the generation is evicted.
    Evict,
    Deny(usize),
    Fill,
    Allow,
    Stray {
        topic: usize,
        stray: Stray,
    },
    Kill {
        gateway: usize,
    },
    Drain {
        gateway: usize,
    },
    Begin {
        gateway: usize,
    },
    /// The process of a gateway is suspended (SIGSTOP) or continued.
    Suspend {
        gateway: usize,
    },
    Resume {
        gateway: usize,
    },
    /// A gateway with another configuration, in database 1 or with other rules.
    BeginOther {
        gateway: usize,
        database: usize,
        rules: bool,
    },
    Cut {
        gateway: usize,
        kind: ConnectionKind,
    },
    Hold {
        gateway: usize,
        kind: ConnectionKind,
    },
    Release,
    /// The next message of a stream to a gateway is lost, without breaking the link.
    Lose {
        gateway: usize,
    },
}

/// Rights that are revoked together.
pub const RIGHTS: [&[&str]; 4] = [&["xrange", "xrevrange"], &["evalsha"], &["xadd"], &["publish"]];

impl fmt::Display for SimStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Groups of steps: a run draws from some of them, so that few kinds of faults are combined often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepGroup {
    Crashes,
    Failover,
    Addresses,
    Replacement,
    Clocks,
    Removal,
    Rights,
    Strays,
    Gateways,
    Others,
    Links,
    Engines,
    Silence,
    Slowness,
    Repeats,
    Suspension,
    Places,
}

impl StepGroup {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Crashes,
        Self::Failover,
        Self::Addresses,
        Self::Replacement,
        Self::Clocks,
        Self::Removal,
        Self::Rights,
        Self::Strays,
        Self::Gateways,
        Self::Others,
        Self::Links,
        Self::Engines,
        Self::Silence,
        Self::Slowness,
        Self::Repeats,
        Self::Suspension,
        Self::Places,
    ];
}

fn keep(dice: &mut Dice) -> KeptData {
    match dice.below(4) {
        0 => KeptData::All,
        1 => KeptData::Nothing,
        2 => KeptData::Saved,
        _ => KeptData::But(dice.between(1, 3) as usize),
    }
}

fn crash(machine: usize, dice: &mut Dice) -> SimStep {
    match dice.below(5) {
        0 => SimStep::Dump { machine },
        1 => SimStep::Stop { machine },
        2 => SimStep::Start { machine, keep: keep(dice) },
        _ => SimStep::Crash { machine, keep: keep(dice) },
    }
}

/// One step of a group.
fn fault(group: StepGroup, dice: &mut Dice) -> SimStep {
    let (machine, gateway, topic) = (dice.index(MACHINES), dice.index(GATEWAYS), dice.index(TOPICS.len()));
    let kind = *dice.choose(&ConnectionKind::ALL);
    match group {
        StepGroup::Crashes => crash(machine, dice),
        StepGroup::Failover => match dice.below(3) {
            0 => SimStep::Lag { machine },
            _ => SimStep::Promote { machine, old: *dice.choose(&[Old::Down, Old::Alive, Old::Follows]) },
        },
        StepGroup::Addresses => {
            let kind = if dice.chance(500) { None } else { Some(kind) };
            SimStep::Lead { gateway, kind, machine, cut: dice.chance(800) }
        }
        StepGroup::Replacement => {
            if dice.chance(500) {
                SimStep::Dump { machine }
            } else {
                SimStep::Replace { machine }
            }
        }
        StepGroup::Clocks => SimStep::Clock { machine, ms: *dice.choose(&[-5_000, -3_600_000, 5_000, 3_600_000]) },
        StepGroup::Removal => match dice.below(5) {
            0 => SimStep::Delete { topic },
            1 => SimStep::Trim { topic },
            2 => SimStep::Retype { topic },
            3 => SimStep::Evict,
            _ => SimStep::Xdel { topic, at: dice.index(3) },
        },
        StepGroup::Rights => match dice.below(3) {
            0 => SimStep::Deny(dice.index(RIGHTS.len())),
            1 => SimStep::Fill,
            _ => SimStep::Allow,
        },
        StepGroup::Strays if dice.chance(300) => {
            SimStep::MadeUp { client: 1, gateway, cursor: *dice.choose(&[MadeUp::Early, MadeUp::Late]) }
        }
        StepGroup::Strays => {
            SimStep::Stray { topic, stray: *dice.choose(&[Stray::Nonsense, Stray::Foreign, Stray::NotJson]) }
        }
        StepGroup::Gateways => match dice.below(3) {
            0 => SimStep::Kill { gateway },
            1 => SimStep::Drain { gateway },
            _ => SimStep::Begin { gateway },
        },
        StepGroup::Others => {
            let (database, rules) = *dice.choose(&[(1, false), (0, true)]);
            SimStep::BeginOther { gateway, database, rules }
        }
        StepGroup::Links => match dice.below(4) {
            0 => SimStep::Cut { gateway, kind },
            1 => SimStep::Hold { gateway, kind },
            2 => SimStep::Lose { gateway },
            _ => SimStep::Release,
        },
        StepGroup::Engines if dice.chance(200) => SimStep::Odd { topic: 0 },
        StepGroup::Engines => SimStep::Engine { topic },
        // More than a minute of beats: half of a run's cost.
        StepGroup::Silence if dice.chance(200) => SimStep::Idle,
        StepGroup::Silence => SimStep::Wait(Pause::While),
        StepGroup::Slowness if dice.chance(600) => SimStep::Stall { client: dice.index(CLIENTS) },
        StepGroup::Slowness => SimStep::Read { client: dice.index(CLIENTS) },
        StepGroup::Repeats if dice.chance(400) => SimStep::Once { gateway, topic },
        StepGroup::Repeats => SimStep::Again { gateway },
        StepGroup::Suspension => match dice.below(5) {
            // For longer than a lease.
            0 => SimStep::Wait(Pause::Long),
            1 => SimStep::Resume { gateway },
            _ => SimStep::Suspend { gateway },
        },
        StepGroup::Places => SimStep::TakeOver { client: dice.index(CLIENTS), gateway },
    }
}

/// A trace of at most this many steps from a seed, with faults of up to three of these groups.
pub fn random(seed: u64, len: u64, from: &[StepGroup]) -> Vec<SimStep> {
    let mut dice = Dice::new(seed);
    let count = dice.between(1, 3);
    let groups: Vec<_> = (0..count).map(|_| *dice.choose(from)).collect();
    let len = dice.between(4, len);
    let mut steps = Vec::new();
    for _ in 0..len {
        let (gateway, topic) = (dice.index(GATEWAYS), if dice.chance(600) { 0 } else { dice.index(TOPICS.len()) });
        steps.push(match dice.below(100) {
            0..=27 => SimStep::Publish { gateway, topic },
            28..=35 => SimStep::Connect { client: dice.index(CLIENTS), gateway },
            36..=40 => SimStep::Leave { client: dice.index(CLIENTS) },
            41..=60 => SimStep::Wait(*dice.choose(&[Pause::Moment, Pause::Breath, Pause::While])),
            _ => fault(*dice.choose(&groups), &mut dice),
        });
    }
    steps
}

/// The alphabets of the exhaustive search, on one topic: a failover between machines with different clocks, and the
/// most frequent steps: two gateways, two servers, one client.
pub const ALPHABETS: [&[SimStep]; 2] = [
    &[
        SimStep::Publish { gateway: 0, topic: 0 },
        SimStep::Publish { gateway: 1, topic: 0 },
        SimStep::Wait(Pause::Breath),
        SimStep::Lag { machine: 1 },
        SimStep::Clock { machine: 1, ms: -3_600_000 },
        SimStep::Promote { machine: 1, old: Old::Down },
    ],
    &[
        SimStep::Publish { gateway: 0, topic: 0 },
        SimStep::Publish { gateway: 1, topic: 0 },
        SimStep::Wait(Pause::While),
        SimStep::Leave { client: 0 },
        SimStep::Connect { client: 0, gateway: 1 },
        SimStep::Crash { machine: 0, keep: KeptData::But(1) },
        SimStep::Lag { machine: 1 },
        SimStep::Promote { machine: 1, old: Old::Alive },
        SimStep::Lead { gateway: 0, kind: Some(ConnectionKind::Commands), machine: 0, cut: true },
        SimStep::Kill { gateway: 0 },
        SimStep::Delete { topic: 0 },
    ],
];

/// The trace with this number, over all alphabets, ordered by length. The outer `None`: there is none within `len_max`;
/// the inner `None`: a shorter or equal trace replaces it, because nothing is published, or a step changes nothing.
pub fn numbered(mut number: u64, len_max: usize) -> Option<Option<Vec<SimStep>>> {
    let count =
        |alphabet: &[SimStep], len: usize| (alphabet.len() as u64).pow(u32::try_from(len).expect("short traces"));
    let mut all = (1..=len_max).flat_map(|len| ALPHABETS.map(|alphabet| (alphabet, len)));
    let (alphabet, len) = loop {
        let (alphabet, len) = all.next()?;
        if number < count(alphabet, len) {
            break (alphabet, len);
        }
        number -= count(alphabet, len);
    };
    let mut steps = Vec::with_capacity(len);
    for _ in 0..len {
        steps.push(alphabet[(number % alphabet.len() as u64) as usize]);
        number /= alphabet.len() as u64;
    }
    let publishes = steps.iter().any(|step| matches!(step, SimStep::Publish { .. }));
    let is_over = matches!(steps[len - 1], SimStep::Lag { .. } | SimStep::Wait(_));
    Some((publishes && !is_over && Shape::new().changes_with_each(&steps)).then_some(steps))
}

/// The part of the state that decides whether a step of the alphabets has an object.
struct Shape {
    gateways: [bool; GATEWAYS],
    client: Option<usize>,
    lags: bool,
    /// The destination of most commands.
    primary: usize,
    last: Option<SimStep>,
}

impl Shape {
    const fn new() -> Self {
        Self { gateways: [true; GATEWAYS], client: Some(0), lags: false, primary: 0, last: None }
    }

    fn changes_with_each(mut self, steps: &[SimStep]) -> bool {
        steps.iter().all(|step| {
            // A repetition at the same moment has no effect.
            let repeats = matches!(step, SimStep::Publish { .. } | SimStep::Crash { .. } | SimStep::Wait(_));
            let again = self.last.replace(*step) == Some(*step);
            self.change(*step) && (repeats || !again)
        })
    }

    fn change(&mut self, step: SimStep) -> bool {
        match step {
            SimStep::Publish { gateway, .. } => self.gateways[gateway],
            SimStep::Leave { .. } => self.client.take().is_some(),
            SimStep::Connect { gateway, .. } => self.gateways[gateway] && self.client.replace(gateway) != Some(gateway),
            SimStep::Kill { gateway } => {
                self.client = self.client.filter(|at| *at != gateway);
                std::mem::replace(&mut self.gateways[gateway], false)
            }
            SimStep::Lag { .. } => self.primary == 0 && !std::mem::replace(&mut self.lags, true),
            SimStep::Promote { machine, .. } => {
                self.lags &= self.primary == machine;
                std::mem::replace(&mut self.primary, machine) != machine
            }
            SimStep::Lead { gateway, machine, .. } => {
                self.primary = if self.gateways[gateway] { machine } else { self.primary };
                self.gateways[gateway]
            }
            _ => true,
        }
    }
}
