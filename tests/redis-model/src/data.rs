//! The values of keys.

use std::{collections::BTreeSet, rc::Rc};

use indexmap::IndexMap;

use crate::stream::StreamKey;

/// A value of one of the types. Small hashes keep the order of their fields, as in Redis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum KeyData {
    Text(Vec<u8>),
    Hash(IndexMap<Vec<u8>, Vec<u8>>),
    Sorted(Sorted),
    Set(BTreeSet<Vec<u8>>),
    Stream(StreamKey),
}

/// A key's value, and its expiry, in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyValue {
    pub(crate) data: Rc<KeyData>,
    pub(crate) expires_ms: Option<u64>,
}

impl KeyValue {
    pub(crate) fn new(data: KeyData) -> Self {
        Self { data: Rc::new(data), expires_ms: None }
    }
}

/// A sorted set: members by score, then by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sorted(Vec<(f64, Vec<u8>)>);

impl Sorted {
    pub(crate) fn score(&self, member: &[u8]) -> Option<f64> {
        self.0.iter().find(|(_, known)| known == member).map(|(score, _)| *score)
    }

    /// True if the member is new.
    pub(crate) fn add(&mut self, score: f64, member: &[u8]) -> bool {
        let is_new = !self.remove(member);
        let at = self.0.partition_point(|(known, name)| (*known, &name[..]) < (score, member));
        self.0.insert(at, (score, member.to_vec()));
        is_new
    }

    pub(crate) fn remove(&mut self, member: &[u8]) -> bool {
        let count = self.0.len();
        self.0.retain(|(_, known)| known != member);
        count != self.0.len()
    }

    pub(crate) fn members(&self) -> &[(f64, Vec<u8>)] {
        &self.0
    }

    /// Removes the members for which the test returns true; returns their number.
    pub(crate) fn remove_where(&mut self, test: impl Fn(f64) -> bool) -> usize {
        let count = self.0.len();
        self.0.retain(|(score, _)| !test(*score));
        count - self.0.len()
    }
}
