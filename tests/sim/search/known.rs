//! Traces that the search found, shrunk: each shows what `found.md` describes until it is fixed.

use crate::{
    judge::FaultKind,
    net::ConnectionKind::{Commands, PubSub},
    step::{
        self,
        KeptData::{All, But},
        Old::{Alive, Down, Follows},
        Pause::{Breath, Moment, While},
        SimStep::{
            self, BeginOther, Clock, Connect, Crash, Delete, Deny, Drain, Dump, Engine, Hold, Idle, Kill, Lag, Lead,
            Leave, MadeUp, Odd, Promote, Publish, Release, Replace, Resume, Retype, Stray, Suspend, TakeOver, Trim,
            Wait, Xdel,
        },
        Stray::{Foreign, NotJson},
    },
};

/// A trace and its fault.
pub struct KnownFailure {
    /// Its heading in `found.md`.
    pub name: &'static str,
    pub kind: FaultKind,
    pub seed: u64,
    pub steps: &'static [SimStep],
}

const fn known(name: &'static str, kind: FaultKind, seed: u64, steps: &'static [SimStep]) -> KnownFailure {
    KnownFailure { name, kind, seed, steps }
}

const HERE: SimStep = Publish { gateway: 0, topic: 0 };
const THERE: SimStep = Publish { gateway: 1, topic: 0 };
const VALUE: SimStep = Publish { gateway: 0, topic: 1 };
const AWAY: SimStep = Leave { client: 0 };
const TAIL: SimStep = Crash { machine: 0, keep: But(1) };
const DELETED: SimStep = Delete { topic: 0 };
const SAVED: SimStep = Dump { machine: 0 };
const REPLACED: SimStep = Replace { machine: 0 };

/// The address of one link leads to a machine, and what stands is cut.
const fn link(gateway: usize, kind: crate::net::ConnectionKind, machine: usize) -> SimStep {
    Lead { gateway, kind: Some(kind), machine, cut: true }
}

/// Faults that the gateway still has.
pub const OPEN: &[KnownFailure] = &[];

/// Faults that are fixed and must not return.
pub const MENDED: &[KnownFailure] = &[
    known(
        "L1, another database",
        FaultKind::Silent,
        512,
        &[Kill { gateway: 0 }, BeginOther { gateway: 0, database: 1, rules: false }, HERE],
    ),
    known("L1, a stray message", FaultKind::Silent, 31, &[Stray { topic: 0, stray: Foreign }, HERE]),
    known("L2, a gateway that is killed", FaultKind::Silent, 293, &[AWAY, HERE, Kill { gateway: 0 }, TAIL]),
    known("L2, an engine", FaultKind::Silent, 203, &[AWAY, Engine { topic: 0 }, TAIL]),
    known(
        "L3, a clock that goes back",
        FaultKind::Silent,
        202,
        &[
            Clock { machine: 0, ms: -3_600_000 },
            THERE,
            Clock { machine: 0, ms: -5_000 },
            Clock { machine: 0, ms: 3_600_000 },
            HERE,
        ],
    ),
    known(
        "L4",
        FaultKind::Silent,
        11_470,
        &[
            Clock { machine: 1, ms: -3_600_000 },
            Lag { machine: 1 },
            HERE,
            Promote { machine: 1, old: Down },
            Wait(Breath),
            THERE,
        ],
    ),
    known("L5, one millisecond", FaultKind::TwoContents, 4, &[THERE, DELETED, HERE]),
    known("L5, one millisecond, silent", FaultKind::Silent, 4, &[THERE, DELETED, HERE]),
    known("L6, expired", FaultKind::Silent, 210, &[AWAY, HERE, Idle, Idle]),
    known("L6, deleted", FaultKind::Silent, 27, &[AWAY, HERE, DELETED]),
    known("L7", FaultKind::Silent, 412, &[AWAY, HERE, HERE, Xdel { topic: 0, at: 0 }]),
    known("L8, silent", FaultKind::Silent, 25, &[AWAY, SAVED, HERE, Wait(While), REPLACED]),
    known(
        "L8, one id twice",
        FaultKind::TwoContents,
        25,
        &[HERE, SAVED, Wait(While), HERE, Wait(While), REPLACED, Wait(While)],
    ),
    known(
        "L9, silent",
        FaultKind::Silent,
        145,
        &[
            HERE,
            Lag { machine: 1 },
            HERE,
            Promote { machine: 1, old: Follows },
            Promote { machine: 0, old: Down },
            HERE,
        ],
    ),
    known(
        "L9, one id twice",
        FaultKind::TwoContents,
        90,
        &[link(0, Commands, 1), THERE, Wait(While), HERE, link(0, Commands, 0)],
    ),
    known("L10", FaultKind::Silent, 199, &[link(1, Commands, 1), HERE, Wait(Breath), HERE, THERE]),
    known(
        "L14",
        FaultKind::Silent,
        138,
        &[Drain { gateway: 1 }, BeginOther { gateway: 1, database: 0, rules: true }, HERE, THERE],
    ),
    known("F1", FaultKind::GapOverNothing, 5, &[HERE, Idle]),
    known("F2, of a value", FaultKind::GapOverNothing, 18, &[VALUE, TAIL]),
    known("F2, over what was had", FaultKind::GapOverHad, 18, &[HERE, TAIL]),
    known("F4", FaultKind::Uncounted, 74, &[Promote { machine: 1, old: Alive }, AWAY, HERE]),
    known("F5", FaultKind::Blamed, 1, &[MadeUp { client: 1, gateway: 0, cursor: step::MadeUp::Early }]),
    known(
        "F7",
        FaultKind::GapOverNothing,
        3,
        &[HERE, Hold { gateway: 0, kind: Commands }, Wait(While), Wait(While), Release],
    ),
    known(
        "A late message, and a stream that is gone",
        FaultKind::TwoContents,
        74,
        &[Hold { gateway: 0, kind: PubSub }, HERE, DELETED, Wait(Breath), Release],
    ),
    known("A replayed message that nobody can read", FaultKind::Uncounted, 54, &[AWAY, Odd { topic: 0 }]),
    known("A key of another type", FaultKind::Silent, 1_207, &[AWAY, HERE, Retype { topic: 0 }]),
    known("A trimmed stream", FaultKind::GapOverHad, 5, &[HERE, Trim { topic: 0 }, AWAY]),
    known(
        "Back to an old primary",
        FaultKind::Twice,
        294,
        &[
            HERE,
            Promote { machine: 1, old: Alive },
            HERE,
            Connect { client: 0, gateway: 1 },
            Connect { client: 0, gateway: 0 },
        ],
    ),
    known(
        "Deaf for a value",
        FaultKind::Stuck,
        136,
        &[
            link(0, PubSub, 1),
            Publish { gateway: 1, topic: 1 },
            link(1, Commands, 1),
            Wait(While),
            link(0, Commands, 0),
        ],
    ),
    known(
        "A stray message where nothing is kept",
        FaultKind::GapOverNothing,
        1_008,
        &[Stray { topic: 4, stray: NotJson }],
    ),
    known(
        "Two primaries, and back",
        FaultKind::Silent,
        107,
        &[Lead { gateway: 1, kind: None, machine: 2, cut: true }, Connect { client: 1, gateway: 1 }, Wait(While), HERE],
    ),
    known(
        "A drain while Redis restarts",
        FaultKind::GapOverNothing,
        1_000_043,
        &[HERE, Crash { machine: 0, keep: All }, Drain { gateway: 1 }],
    ),
    known(
        "A loss at a boundary in doubt",
        FaultKind::Silent,
        6_100_158,
        &[
            Wait(While),
            Wait(While),
            link(0, Commands, 2),
            link(1, PubSub, 0),
            link(0, PubSub, 1),
            Wait(Breath),
            Wait(Breath),
            link(1, PubSub, 1),
            Lead { gateway: 0, kind: None, machine: 0, cut: true },
            Connect { client: 1, gateway: 1 },
            Wait(Breath),
            THERE,
            Lead { gateway: 1, kind: None, machine: 2, cut: true },
            Wait(While),
            THERE,
            link(1, PubSub, 1),
            HERE,
            THERE,
        ],
    ),
    known("Values that a gateway left out", FaultKind::Miscounted, 6_060_177, &[VALUE, Deny(3), VALUE, VALUE]),
    known(
        "A value whose key has another type",
        FaultKind::Stuck,
        6_081_297,
        &[Promote { machine: 1, old: Down }, Retype { topic: 1 }, Wait(While), Wait(While), Wait(While), Wait(While)],
    ),
    known(
        "A subscription whose key has another type",
        FaultKind::Stuck,
        6_060_189,
        &[Retype { topic: 3 }, Connect { client: 0, gateway: 1 }, Wait(While), Wait(While), Wait(While), Idle],
    ),
    known(
        "A dataset that goes back by less than a beat",
        FaultKind::Stuck,
        6_080_349,
        &[REPLACED, HERE, SAVED, Connect { client: 1, gateway: 1 }, REPLACED],
    ),
    known(
        "A place taken over while PUBLISH is denied",
        FaultKind::Stuck,
        6_082_081,
        &[Deny(3), TakeOver { client: 0, gateway: 1 }, Wait(Moment)],
    ),
    known(
        "A request that waited in a suspended gateway",
        FaultKind::Stuck,
        6_060_012,
        &[
            Suspend { gateway: 1 },
            Connect { client: 0, gateway: 1 },
            TakeOver { client: 0, gateway: 0 },
            Resume { gateway: 1 },
            Wait(While),
        ],
    ),
];
