//! The state of a server, without its scripts: keys, history, clients, identity.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use crate::{
    Refusals, RespReply,
    data::{KeyData, KeyValue},
};

/// Number of databases of a server.
pub(crate) const DATABASES: usize = 16;

/// One step that a server wrote, as sent to its replicas and its log.
#[derive(Clone, Debug, PartialEq)]
pub enum WrittenEffect {
    /// A key gets this value, or none.
    Set {
        /// The number of the database.
        db: usize,
        /// The key's name.
        key: Vec<u8>,
        /// The new value; `None`: deleted.
        value: Option<KeyValue>,
    },
    /// A message was published.
    Publish {
        /// The pub/sub channel.
        channel: Vec<u8>,
        /// The message.
        payload: Vec<u8>,
    },
}

/// Everything that was written, one entry per command or script. An older dataset is a prefix of it.
pub type WriteHistory = Vec<Rc<Vec<WrittenEffect>>>;

/// The identity of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerIdentity {
    /// Unique per process.
    pub run_id: String,
    /// Unique per history.
    pub replid: String,
    /// The previous history, and where it ended.
    pub former: Option<(String, usize)>,
}

/// Whether it accepts writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicationRole {
    /// Accepts writes.
    Primary,
    /// Refuses writes.
    Replica {
        /// The primary's host.
        host: String,
        /// The primary's port.
        port: u16,
    },
}

/// Identifies a connection.
pub type ClientId = u64;

/// One connection.
#[derive(Clone, Debug, Default)]
pub struct ModelConnection {
    pub(crate) resp3: bool,
    pub(crate) db: usize,
    /// The name set with `CLIENT SETNAME`.
    pub name: String,
    pub(crate) channels: BTreeSet<Vec<u8>>,
    /// What the client has not read yet.
    pub out: Vec<u8>,
    /// The server closes the connection.
    pub closing: bool,
}

/// The caller of a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommandCaller {
    pub(crate) client: ClientId,
    pub(crate) in_script: bool,
}

/// Everything except the scripts' runtime.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) dbs: Vec<BTreeMap<Vec<u8>, KeyValue>>,
    pub(crate) history: WriteHistory,
    /// The effects of the running command so far.
    pub(crate) pending: Vec<WrittenEffect>,
    pub(crate) clients: BTreeMap<ClientId, ModelConnection>,
    /// Clients with new output since the last call of `take_told`; may hold duplicates.
    pub(crate) told: Vec<ClientId>,
    /// The hashes of the loaded scripts.
    pub(crate) scripts: BTreeSet<String>,
    pub(crate) identity: ServerIdentity,
    pub(crate) role: ReplicationRole,
    pub(crate) replicas: usize,
    pub(crate) refusals: Refusals,
    pub(crate) now_us: u64,
    pub(crate) node_entries: usize,
}

/// The result of a command: a reply, or the text of an error.
pub(crate) type CommandResult = Result<RespReply, String>;

pub(crate) const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

impl Core {
    pub(crate) fn new(identity: ServerIdentity) -> Self {
        Self {
            dbs: vec![BTreeMap::new(); DATABASES],
            history: WriteHistory::new(),
            pending: Vec::new(),
            clients: BTreeMap::new(),
            told: Vec::new(),
            scripts: BTreeSet::new(),
            identity,
            role: ReplicationRole::Primary,
            replicas: 0,
            refusals: Refusals::default(),
            now_us: 0,
            node_entries: 100,
        }
    }

    pub(crate) const fn now_ms(&self) -> u64 {
        self.now_us / 1_000
    }

    fn db(&self, call: CommandCaller) -> usize {
        self.clients.get(&call.client).map_or(0, |client| client.db)
    }

    /// The value of a key that has not expired. A primary records its expiry.
    pub(crate) fn get(&mut self, call: CommandCaller, key: &[u8]) -> Option<KeyValue> {
        let (db, now_ms) = (self.db(call), self.now_ms());
        let value = self.dbs[db].get(key)?.clone();
        if value.expires_ms.is_none_or(|end| end > now_ms) {
            return Some(value);
        }
        if self.role == ReplicationRole::Primary {
            self.put(call, key, None);
        }
        None
    }

    pub(crate) fn put(&mut self, call: CommandCaller, key: &[u8], value: Option<KeyValue>) {
        let effect = WrittenEffect::Set { db: self.db(call), key: key.to_vec(), value };
        self.apply(&effect);
        self.pending.push(effect);
    }

    /// Applies the effect without recording it.
    pub(crate) fn apply(&mut self, effect: &WrittenEffect) {
        match effect {
            WrittenEffect::Set { db, key, value: Some(value) } => {
                drop(self.dbs[*db].insert(key.clone(), value.clone()));
            }
            WrittenEffect::Set { db, key, value: None } => drop(self.dbs[*db].remove(key)),
            WrittenEffect::Publish { channel, payload } => {
                self.send(channel, payload);
            }
        }
    }

    /// Sends a message to its subscribers; returns their number.
    pub(crate) fn send(&mut self, channel: &[u8], payload: &[u8]) -> usize {
        let mut count = 0;
        for (id, client) in self.clients.iter_mut().filter(|(_, client)| client.channels.contains(channel)) {
            self.told.push(*id);
            let parts = [&b"message"[..], channel, payload].map(RespReply::text);
            RespReply::Push(parts.into()).write(client.resp3, &mut client.out);
            count += 1;
        }
        count
    }

    /// Records what the command wrote as a step of the history.
    pub(crate) fn commit(&mut self) {
        if !self.pending.is_empty() {
            self.history.push(Rc::new(std::mem::take(&mut self.pending)));
        }
    }

    /// The dataset becomes that of this history.
    pub(crate) fn load(&mut self, history: WriteHistory) {
        self.dbs = vec![BTreeMap::new(); DATABASES];
        for step in &history {
            for effect in step.iter() {
                if let WrittenEffect::Set { .. } = effect {
                    self.apply(effect);
                }
            }
        }
        self.history = history;
    }
}

/// Access to the value of one type: to read it, and to write it, starting with an empty value if there is none.
macro_rules! typed {
    ($read:ident, $write:ident, $variant:ident, $type:ty) => {
        impl Core {
            pub(crate) fn $read<T>(
                &mut self,
                call: CommandCaller,
                key: &[u8],
                read: impl FnOnce(Option<&$type>) -> T,
            ) -> Result<T, String> {
                match self.get(call, key) {
                    None => Ok(read(None)),
                    Some(value) => match &*value.data {
                        KeyData::$variant(data) => Ok(read(Some(data))),
                        _ => Err(WRONG_TYPE.into()),
                    },
                }
            }

            /// Writes nothing if `write` fails or returns `false`; an empty value other than a stream or text deletes
            /// the key.
            pub(crate) fn $write<T>(
                &mut self,
                call: CommandCaller,
                key: &[u8],
                write: impl FnOnce(&mut $type) -> Result<(T, bool), String>,
            ) -> Result<T, String> {
                let mut value =
                    self.get(call, key).unwrap_or_else(|| KeyValue::new(KeyData::$variant(<$type>::default())));
                let KeyData::$variant(data) = Rc::make_mut(&mut value.data) else { return Err(WRONG_TYPE.into()) };
                let (result, has_changed) = write(data)?;
                if has_changed {
                    let is_empty = value.data.is_spent();
                    self.put(call, key, (!is_empty).then_some(value));
                }
                Ok(result)
            }
        }
    };
}

typed!(read_text, write_text, Text, Vec<u8>);
typed!(read_hash, write_hash, Hash, indexmap::IndexMap<Vec<u8>, Vec<u8>>);
typed!(read_sorted, write_sorted, Sorted, crate::data::Sorted);
typed!(read_set, write_set, Set, BTreeSet<Vec<u8>>);
typed!(read_stream, write_stream, Stream, crate::stream::StreamKey);

impl KeyData {
    /// Whether a key with this value is deleted.
    pub(crate) fn is_spent(&self) -> bool {
        match self {
            Self::Hash(fields) => fields.is_empty(),
            Self::Sorted(sorted) => sorted.members().is_empty(),
            Self::Set(members) => members.is_empty(),
            Self::Text(_) | Self::Stream(_) => false,
        }
    }
}

impl Core {
    /// Replaces a whole database.
    pub(crate) fn replace(&mut self, db: usize, with: &BTreeMap<Vec<u8>, KeyValue>) {
        let gone = self.dbs[db].keys().filter(|key| !with.contains_key(*key)).map(|key| (key.clone(), None));
        let effects = gone.chain(with.iter().map(|(key, value)| (key.clone(), Some(value.clone()))));
        let effects: Vec<_> = effects.map(|(key, value)| WrittenEffect::Set { db, key, value }).collect();
        for effect in effects {
            self.apply(&effect);
            self.pending.push(effect);
        }
    }
}
