//! Traces that the search found, shrunk: each shows what `found.md` tells of it, until it is mended.

use crate::{
    judge::Kind,
    net::Kind::*,
    step::{Keep::*, Old::*, Pause::*, Step, Step::*, Stray::*},
};

/// One trace, and what it shows.
pub struct Known {
    /// Its heading in `found.md`.
    pub name: &'static str,
    pub kind: Kind,
    pub seed: u64,
    pub steps: &'static [Step],
}

/// What the gateway does wrong today.
pub const OPEN: &[Known] = &[];

/// What it did wrong once, and never again.
pub const MENDED: &[Known] = &[];
