//! Records what publishers were told and what clients received. Never judges: `judge` does.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use parking_lot::Mutex;
use tickgate_wire::model::{Class, StreamId};

/// A stream of publications as one client sees it: a public topic, or the private stream of one user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientStream(pub Arc<str>);

/// One channel that is published and subscribed.
#[derive(Clone, Debug)]
pub struct TestedChannel {
    pub name: &'static str,
    /// The owner; `None`: public.
    pub user: Option<Arc<str>>,
    pub class: Class,
    pub stream: ClientStream,
}

impl TestedChannel {
    pub fn public(name: &'static str, class: Class) -> Self {
        Self { name, user: None, class, stream: ClientStream(name.into()) }
    }

    /// The reliable private channels of a user share one stream.
    pub fn private(name: &'static str, user: &Arc<str>, class: Class) -> Self {
        let stream = if class == Class::Reliable { format!("user {user}") } else { format!("{name} of {user}") };
        Self { name, user: Some(Arc::clone(user)), class, stream: ClientStream(stream.into()) }
    }
}

/// An acknowledged publication.
#[derive(Clone, Copy, Debug)]
pub struct AcknowledgedPublication {
    pub number: u64,
    pub at: Instant,
}

/// What all publishers were told.
#[derive(Default)]
pub struct PublisherLedger {
    pub acknowledged: HashMap<ClientStream, BTreeMap<StreamId, AcknowledgedPublication>>,
    /// Ids that were acknowledged for two publications.
    pub forks: Vec<String>,
    pub refused: u64,
    pub unknown: u64,
    /// Requests without a complete response: the replica was killed, or is frozen.
    pub unanswered: u64,
    pub duplicates: u64,
    pub given_up: u64,
    /// Responses that no fault explains.
    pub strange: Vec<String>,
}

impl PublisherLedger {
    pub fn acknowledge(&mut self, stream: &ClientStream, id: StreamId, number: u64) {
        let ids = self.acknowledged.entry(stream.clone()).or_default();
        let now = AcknowledgedPublication { number, at: Instant::now() };
        if let Some(before) = ids.insert(id, now)
            && before.number != number
        {
            self.forks.push(format!("{stream:?} {id} acknowledged for {} and {number}", before.number));
        }
    }

    /// The greatest acknowledged id of each stream.
    pub fn heads(&self) -> HashMap<ClientStream, (StreamId, Instant)> {
        let head = |(stream, ids): (&ClientStream, &BTreeMap<_, AcknowledgedPublication>)| {
            ids.last_key_value().map(|(id, ack)| (stream.clone(), (*id, ack.at)))
        };
        self.acknowledged.iter().filter_map(head).collect()
    }

    pub fn accepted(&self) -> usize {
        self.acknowledged.values().map(BTreeMap::len).sum()
    }
}

/// One event of a stream at a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeardEvent {
    /// A new connection: what follows arrives over it.
    Connected,
    /// The subscription started live after this id: nothing before it is guaranteed.
    Began(StreamId),
    Push {
        id: StreamId,
        number: u64,
        replayed: bool,
        snapshot: bool,
    },
    /// A replayed push without an id, or a push that differs from what was published.
    Malformed(String),
    Gap {
        after: StreamId,
        before: Option<StreamId>,
        reason: String,
        /// Otherwise it is unknown what is missing, or whether anything is.
        is_counted: bool,
    },
}

impl HeardEvent {
    /// A short form for debugging.
    pub fn short(&self) -> String {
        match self {
            Self::Connected => "connected".into(),
            Self::Began(at) => format!("began {at}"),
            Self::Push { id, replayed, snapshot, .. } => {
                let marks = [(*replayed, " replayed"), (*snapshot, " snapshot")];
                let marks: String = marks.iter().filter(|(is, _)| *is).map(|(_, text)| *text).collect();
                format!("{id}{marks}")
            }
            Self::Malformed(text) => text.clone(),
            Self::Gap { after, before, .. } => format!("gap {after}..{}", before.map_or("?".into(), |b| b.to_string())),
        }
    }
}

/// How a connection ended, from the client's side.
#[derive(Clone, Debug)]
pub struct ConnectionEnd {
    pub code: u16,
    pub reason: String,
    /// Whether the `reconnect` hint was received before.
    pub hinted: bool,
    pub at: Instant,
}

/// Everything that one client received.
#[derive(Default)]
pub struct Diary {
    pub streams: BTreeMap<ClientStream, Vec<(Instant, HeardEvent)>>,
    pub positions: HashMap<ClientStream, StreamId>,
    pub ended: Vec<ConnectionEnd>,
    pub connections: u64,
    pub connected: bool,
    /// Number of subscriptions that had to be requested again.
    pub postponed: u64,
    pub refused: BTreeMap<u16, u64>,
}

pub type SharedDiary = Arc<Mutex<Diary>>;
pub type SharedLedger = Arc<Mutex<PublisherLedger>>;

impl Diary {
    pub fn hear(&mut self, stream: &ClientStream, heard: HeardEvent) {
        if let HeardEvent::Push { id, .. } = heard {
            let position = self.positions.entry(stream.clone()).or_default();
            *position = (*position).max(id);
        }
        self.streams.entry(stream.clone()).or_default().push((Instant::now(), heard));
    }

    pub fn position(&self, stream: &ClientStream) -> StreamId {
        self.positions.get(stream).copied().unwrap_or_default()
    }

    pub fn gaps(&self) -> usize {
        self.streams.values().flatten().filter(|(_, heard)| matches!(heard, HeardEvent::Gap { .. })).count()
    }

    pub fn pushes(&self) -> usize {
        self.streams.values().flatten().filter(|(_, heard)| matches!(heard, HeardEvent::Push { .. })).count()
    }
}
