//! Numbers of the replica's profiles, so that an entry per connection does not hold a name. Pure.

use std::{num::NonZeroU16, sync::Arc};

use parking_lot::Mutex;

/// Number of a profile, from 1, so that an absent one takes no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProfileIndex(NonZeroU16);

/// One copy of each profile's name. A configuration has a few dozen profiles.
#[derive(Debug, Default)]
pub(super) struct Profiles(Mutex<Vec<Arc<str>>>);

impl Profiles {
    /// The number of the profile with this name.
    pub(super) fn index_of(&self, name: &str) -> ProfileIndex {
        let mut names = self.0.lock();
        let known = names.iter().position(|known| **known == *name);
        let index = known.unwrap_or_else(|| {
            names.push(name.into());
            names.len() - 1
        });
        ProfileIndex(u16::try_from(index).unwrap_or(u16::MAX).saturating_add(1).try_into().unwrap_or(NonZeroU16::MAX))
    }

    /// The name of the profile with this number.
    pub(super) fn name(&self, profile: ProfileIndex) -> Arc<str> {
        self.0.lock().get(usize::from(profile.0.get()) - 1).cloned().unwrap_or_default()
    }
}
