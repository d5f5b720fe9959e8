//! A stream: entries in nodes, and the metadata that outlives them.

use std::{collections::VecDeque, fmt, rc::Rc};

/// The id of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    /// The first part, usually milliseconds since 1970.
    pub ms: u64,
    /// The second part, which orders entries of one millisecond.
    pub seq: u64,
}

impl EntryId {
    /// The greatest id.
    pub const MAX: Self = Self { ms: u64::MAX, seq: u64::MAX };

    /// Parses `ms-seq`, or `ms` alone with a default for the rest.
    #[must_use]
    pub fn parse(text: &[u8], missing_seq: u64) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        match text.split_once('-') {
            Some((ms, seq)) => Some(Self { ms: number(ms)?, seq: number(seq)? }),
            None => Some(Self { ms: number(text)?, seq: missing_seq }),
        }
    }

    /// The id directly after this one; `None` after the greatest.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(Self { seq, ..self }),
            None => Some(Self { ms: self.ms.checked_add(1)?, seq: 0 }),
        }
    }

    /// The id directly before this one; `None` before the smallest.
    #[must_use]
    pub fn previous(self) -> Option<Self> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(Self { seq, ..self }),
            None => Some(Self { ms: self.ms.checked_sub(1)?, seq: u64::MAX }),
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// Fields and values, in turn.
pub(crate) type FieldPairs = Rc<[Vec<u8>]>;

#[derive(Clone, Debug, PartialEq)]
struct StoredEntry {
    id: EntryId,
    fields: FieldPairs,
    node: u64,
}

/// The entries of one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StreamKey {
    entries: VecDeque<StoredEntry>,
    pub(crate) last: EntryId,
    pub(crate) max_deleted: EntryId,
    pub(crate) added: u64,
    /// The current node, and the number of entries ever added to it, including deleted ones.
    node: u64,
    in_node: usize,
}

/// How far to trim.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    Length(u64),
    Id(EntryId),
}

impl StreamKey {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn append(&mut self, id: EntryId, fields: FieldPairs, node_entries: usize) {
        if self.in_node >= node_entries || self.entries.back().is_none_or(|entry| entry.node != self.node) {
            self.node += 1;
            self.in_node = 0;
        }
        self.in_node += 1;
        self.entries.push_back(StoredEntry { id, fields, node: self.node });
        (self.last, self.added) = (id, self.added + 1);
    }

    pub(crate) fn delete(&mut self, id: EntryId) -> bool {
        let Ok(at) = self.entries.binary_search_by_key(&id, |entry| entry.id) else { return false };
        self.entries.remove(at);
        self.max_deleted = self.max_deleted.max(id);
        true
    }

    /// Removes from the front; `about`: only whole nodes. Returns the number of removed entries.
    pub(crate) fn trim(&mut self, bound: Bound, about: bool) -> usize {
        let before = self.entries.len();
        while let Some(first) = self.entries.front() {
            let node = first.node;
            let mut live = self.entries.iter().take_while(|entry| entry.node == node);
            let (whole, beyond) = match bound {
                Bound::Length(keep) => {
                    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
                    let all = live.count();
                    (self.entries.len().saturating_sub(all) >= keep, self.entries.len() > keep)
                }
                Bound::Id(least) => (live.all(|entry| entry.id < least), first.id < least),
            };
            if !beyond || (about && !whole) {
                break;
            }
            if about { self.entries.retain(|entry| entry.node != node) } else { drop(self.entries.pop_front()) }
        }
        before - self.entries.len()
    }

    /// Entries from `first` to `last`, oldest first.
    pub(crate) fn range(
        &self,
        first: EntryId,
        last: EntryId,
    ) -> impl DoubleEndedIterator<Item = (EntryId, &FieldPairs)> + use<'_> {
        let from = self.entries.partition_point(|entry| entry.id < first);
        let to = self.entries.partition_point(|entry| entry.id <= last).max(from);
        self.entries.range(from..to).map(|entry| (entry.id, &entry.fields))
    }

    pub(crate) fn first_id(&self) -> EntryId {
        self.entries.front().map(|entry| entry.id).unwrap_or_default()
    }

    /// The number of nodes.
    pub(crate) fn nodes(&self) -> usize {
        let mut nodes: Vec<_> = self.entries.iter().map(|entry| entry.node).collect();
        nodes.dedup();
        nodes.len()
    }
}
