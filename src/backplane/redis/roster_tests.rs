use super::*;
use crate::backplane::redis::generation::{BORDERS_MAX, LOST_MAX};

/// A dataset of one server and the members that know it, with simulated time.
struct RosterScene {
    stored: Option<GenerationRecord>,
    identity: String,
    now_ms: u64,
    beats: BTreeMap<String, u64>,
}

impl RosterScene {
    fn new() -> Self {
        Self { stored: None, identity: "r1".into(), now_ms: 1_000, beats: BTreeMap::new() }
    }

    fn place(&self) -> ServerState {
        ServerState {
            identity: self.identity.clone(),
            now_s: 1_800_000_000,
            silent_ms: Some(500),
            ..ServerState::default()
        }
    }

    fn attach(&mut self, me: &mut MemberMemory) {
        let place = self.place();
        self.attach_with(me, &place);
    }

    fn attach_with(&mut self, me: &mut MemberMemory, place: &ServerState) {
        assert!(me.must_attach(self.stored.as_ref(), place));
        let next = me.attach(self.stored.clone(), place);
        me.settled(&next);
        self.stored = Some(next);
        self.beat(me);
    }

    fn attach_if_due(&mut self, me: &mut MemberMemory) {
        if me.must_attach(self.stored.as_ref(), &self.place()) {
            self.attach(me);
        }
    }

    /// Sends a beat of a member.
    fn beat(&mut self, me: &mut MemberMemory) {
        *self.beats.entry(me.name()).or_default() += 1;
        let mut stored = self.stored.clone().unwrap();
        me.settled(&stored);
        me.tend(&mut stored.state, &self.beats, |_| false, (self.now_ms, 1_800_000_000));
        me.settled(&stored);
        self.stored = Some(stored);
    }

    /// Sends beats until all members have seen each other.
    fn settle(&mut self, members: &mut [&mut MemberMemory]) {
        for _ in 0..3 {
            members.iter_mut().for_each(|me| self.beat(me));
        }
    }

    /// Restarts the server with the dataset as it was then.
    fn restart(&mut self, with: Option<GenerationRecord>) {
        self.stored = with;
        self.identity.push('\'');
    }

    fn border(&self) -> BorderState {
        self.stored.as_ref().unwrap().state.borders.last().unwrap().state
    }

    fn lost(&self) -> usize {
        self.stored.as_ref().unwrap().state.lost.len()
    }
}

fn me(name: &str) -> MemberMemory {
    MemberMemory::new(name, String::new(), vec!["* (reliable, retained)".into()], false)
}

/// Two ready members of a dataset whose first boundary is decided.
fn two() -> (RosterScene, MemberMemory, MemberMemory) {
    let (mut scene, mut a, mut b) = (RosterScene::new(), me("a"), me("b"));
    scene.attach(&mut a);
    assert!(a.is_ready(), "there is no other member");
    scene.attach(&mut b);
    assert!(!b.is_ready(), "a has not confirmed it");
    scene.settle(&mut [&mut a, &mut b]);
    assert!(b.is_ready());
    scene.now_ms += VERDICT_MS + 1;
    scene.settle(&mut [&mut a, &mut b]);
    assert_eq!(scene.border(), BorderState::Doubt, "no member certifies what was before");
    (scene, a, b)
}

#[test]
fn a_restart_without_losses_is_proven_when_all_have_reported() {
    let (mut scene, mut a, mut b) = two();
    let whole = scene.stored.clone();
    scene.restart(whole);
    scene.attach(&mut a);
    assert!(a.is_ready(), "all members know it");
    assert_eq!(scene.border(), BorderState::Pending, "b may have acknowledged");
    scene.attach(&mut b);
    assert_eq!((scene.border(), scene.lost()), (BorderState::Proven, 0));
}

#[test]
fn a_loss_of_the_server_is_reported_and_the_boundary_proven() {
    let (mut scene, mut a, mut b) = two();
    let older = scene.stored.clone();
    scene.restart(older);
    let lost = vec![("orders".to_owned(), StreamId::new(9, 3))];
    let place = ServerState { lost, ..scene.place() };
    scene.attach_with(&mut a, &place);
    scene.attach(&mut b);
    assert_eq!((scene.border(), scene.lost()), (BorderState::Proven, 1));
    let history = scene.stored.as_ref().unwrap().history();
    assert_eq!(history.lost["orders"], [StreamId::new(9, 3)]);
}

#[test]
fn a_missing_member_leaves_doubt_after_a_while() {
    let (mut scene, mut a, _b) = two();
    let older = scene.stored.clone();
    scene.restart(older);
    scene.attach(&mut a);
    scene.now_ms += VERDICT_MS;
    scene.beat(&mut a);
    assert_eq!(scene.border(), BorderState::Pending);
    scene.now_ms += 1;
    scene.beat(&mut a);
    assert_eq!(scene.border(), BorderState::Doubt);
}

#[test]
fn a_missing_member_leaves_one_boundary_in_doubt_but_not_later_ones() {
    // One that the dataset knows, and one that it does not.
    for is_known in [true, false] {
        let (mut scene, mut a, mut b) = two();
        let mut c = me("c");
        let before = scene.stored.clone();
        scene.attach(&mut c);
        scene.settle(&mut [&mut a, &mut b, &mut c]);
        assert!(c.is_ready());
        drop(c);
        let dataset = if is_known { scene.stored.clone() } else { before };
        scene.restart(dataset);
        let survivors = |scene: &mut RosterScene, a: &mut MemberMemory, b: &mut MemberMemory| {
            scene.attach(a);
            scene.attach(b);
            scene.beat(a);
            scene.now_ms += VERDICT_MS + 1;
            scene.settle(&mut [&mut *a, &mut *b]);
        };
        survivors(&mut scene, &mut a, &mut b);
        assert_eq!(scene.border(), BorderState::Doubt, "it may have acknowledged");
        for _ in 0..2 {
            let whole = scene.stored.clone();
            scene.restart(whole);
            survivors(&mut scene, &mut a, &mut b);
            assert_eq!(
                scene.border(),
                BorderState::Proven,
                "everything that it acknowledged precedes the doubtful boundary"
            );
        }
        assert!(a.is_ready() && b.is_ready());
    }
}

#[test]
fn branches_that_did_not_know_each_other_end_in_doubt() {
    // A member without knowledge comes first to an empty server; its numbers may be below those of the others.
    let on_an_empty_server = |scene: &mut RosterScene| {
        let mut newcomer = me("c");
        scene.restart(None);
        let place = ServerState { now_s: 1_799_999_000, ..scene.place() };
        scene.attach_with(&mut newcomer, &place);
        assert!(newcomer.is_ready(), "there is no other member");
        newcomer
    };
    let (mut scene, mut a, mut b) = two();
    let mut c = on_an_empty_server(&mut scene);
    assert!(c.g < a.g);
    for member in [&mut a, &mut b, &mut c] {
        scene.attach(member);
        assert_eq!(scene.border(), BorderState::Doubt);
    }
    // The same if the server is emptied again before they meet.
    let (mut scene, mut a, mut b) = two();
    let mut c = on_an_empty_server(&mut scene);
    scene.restart(None);
    scene.attach(&mut a);
    assert_eq!(scene.border(), BorderState::Pending);
    for member in [&mut c, &mut b] {
        scene.attach(member);
        assert_eq!(scene.border(), BorderState::Doubt);
    }
    // A branch that ended below the start of the other one hides nothing: its member reports what it acknowledged.
    let (mut scene, mut a, mut b) = two();
    let before = scene.stored.clone();
    scene.restart(before.clone());
    scene.attach(&mut a);
    scene.restart(before);
    let place = ServerState { random: 9, ..scene.place() };
    scene.attach_with(&mut b, &place);
    assert!(b.g > a.g);
    scene.attach(&mut a);
    assert_eq!(scene.border(), BorderState::Proven);
    // In every case, no boundary stays pending behind a decided one.
    let (mut scene, mut a, mut b) = two();
    let before = scene.stored.clone();
    scene.restart(before.clone());
    let high = ServerState { random: 9, ..scene.place() };
    scene.attach_with(&mut a, &high);
    assert_eq!(scene.border(), BorderState::Pending);
    scene.restart(before);
    scene.attach(&mut b);
    assert!(b.g < a.g);
    scene.attach(&mut a);
    let borders = &scene.stored.as_ref().unwrap().state.borders;
    assert!(borders.iter().all(|border| border.state == BorderState::Doubt), "{borders:?}");
    // A member that was merely absent for a boundary is not foreign.
    let (mut scene, mut a, mut b) = two();
    for _ in 0..2 {
        let whole = scene.stored.clone();
        scene.restart(whole);
        scene.attach(&mut a);
    }
    scene.attach(&mut b);
    assert_eq!(scene.border(), BorderState::Proven);
}

#[test]
fn a_member_that_returns_to_a_server_that_continued_leaves_doubt() {
    // An address led one of them to a copy of the dataset, and leads back: readers started there, above what the other
    // one acknowledged meanwhile. The server is the original one, or was restarted since and shows the other's beats.
    for was_restarted in [false, true] {
        let (mut scene, mut a, _) = two();
        let (went_on, identity) = (scene.stored.clone(), scene.identity.clone());
        scene.restart(went_on.clone());
        scene.attach(&mut a);
        (scene.stored, scene.identity) = (went_on, identity);
        if was_restarted {
            scene.identity.push('+');
        }
        let place = ServerState { went_on: was_restarted, ..scene.place() };
        scene.attach_with(&mut a, &place);
        assert_eq!(scene.border(), BorderState::Doubt);
    }
}

#[test]
fn a_loss_reported_after_the_verdict_reaches_readers_that_started_since() {
    for (lost, is_told) in [(vec![("orders".to_owned(), StreamId::new(9, 3))], true), (Vec::new(), false)] {
        let (mut scene, mut a, mut b) = two();
        let copy = scene.stored.clone();
        scene.restart(copy);
        scene.attach(&mut a);
        scene.now_ms += VERDICT_MS + 1;
        scene.beat(&mut a);
        assert_eq!(scene.border(), BorderState::Doubt);
        let (generation, place) = (a.g, ServerState { lost, ..scene.place() });
        scene.attach_with(&mut b, &place);
        assert_eq!((b.g > generation, scene.border()), (is_told, BorderState::Doubt));
        scene.attach_if_due(&mut a);
        // Only once.
        let at = (a.g, scene.stored.as_ref().unwrap().state.borders.len());
        scene.settle(&mut [&mut a, &mut b]);
        assert_eq!(at, (b.g, scene.stored.as_ref().unwrap().state.borders.len()));
    }
}

#[test]
fn a_newcomer_unknown_to_the_surviving_roster_is_remembered_by_the_member_that_confirmed_it() {
    let (mut scene, mut a, mut b) = two();
    let older = scene.stored.clone();
    let mut c = me("c");
    scene.attach(&mut c);
    scene.settle(&mut [&mut a, &mut b, &mut c]);
    assert!(c.is_ready());
    drop(c);
    scene.restart(older);
    scene.attach(&mut a);
    scene.attach(&mut b);
    assert_eq!(scene.border(), BorderState::Pending, "c may have acknowledged");
}

#[test]
fn a_mark_that_was_lost_with_the_dataset_proves_nothing() {
    let (mut scene, mut a, mut b) = two();
    let older = scene.stored.clone();
    let mut c = me("c");
    scene.attach(&mut c);
    scene.settle(&mut [&mut a, &mut b, &mut c]);
    let mut stored = scene.stored.clone().unwrap();
    c.leave(&mut stored.state, 1_800_000_000);
    scene.stored = Some(stored);
    scene.settle(&mut [&mut a, &mut b]);
    for _ in 0..2 {
        scene.restart(older.clone());
        scene.attach(&mut a);
        scene.attach(&mut b);
        assert_eq!(
            scene.border(),
            BorderState::Pending,
            "what it acknowledged before its mark may be lost with the mark"
        );
    }
}

#[test]
fn members_that_have_certainly_ended_are_not_waited_for() {
    let (mut scene, mut a, _b) = two();
    let older = scene.stored.clone();
    scene.restart(older);
    scene.attach(&mut a);
    let mut stored = scene.stored.clone().unwrap();
    a.tend(&mut stored.state, &scene.beats, |_| true, (scene.now_ms, 1_800_000_000));
    assert_eq!(stored.state.borders.last().unwrap().state, BorderState::Doubt);
}

#[test]
fn a_member_that_handed_over_its_ids_is_accounted_for() {
    let (mut scene, mut a, b) = two();
    let older = scene.stored.clone();
    a.heirs.insert(b.name());
    scene.beat(&mut a);
    assert_eq!(b.heirs_of_mine(&scene.stored.as_ref().unwrap().state), [(a.name(), true)]);
    let mut stored = scene.stored.clone().unwrap();
    b.leave(&mut stored.state, 1_800_000_000);
    scene.stored = Some(stored);
    scene.restart(older);
    scene.attach(&mut a);
    assert_eq!(scene.border(), BorderState::Proven);
}

#[test]
fn a_member_that_left_before_the_restored_point_is_accounted_for_by_its_mark() {
    let (mut scene, mut a, b) = two();
    let mut stored = scene.stored.clone().unwrap();
    b.leave(&mut stored.state, 1_800_000_000);
    scene.stored = Some(stored.clone());
    scene.beat(&mut a);
    let whole = scene.stored.clone();
    scene.restart(whole);
    scene.attach(&mut a);
    assert_eq!(scene.border(), BorderState::Proven);
}

#[test]
fn no_member_certifies_after_its_lease_unless_all_do() {
    for (silent_ms, expected) in [(30_000, BorderState::Proven), (60_000, BorderState::Pending)] {
        let (mut scene, mut a, mut b) = two();
        let whole = scene.stored.clone();
        scene.restart(whole);
        let late = ServerState { silent_ms: Some(silent_ms), ..scene.place() };
        scene.attach_with(&mut a, &late);
        assert_eq!(scene.border(), BorderState::Pending);
        scene.attach_with(&mut b, &late);
        assert_eq!(scene.border(), expected, "{silent_ms}");
    }
}

#[test]
fn a_silent_member_is_removed_and_joins_again_under_another_name() {
    let (mut scene, mut a, mut b) = two();
    scene.beat(&mut a);
    scene.now_ms += with_margin(LEASE_MS) + 1;
    scene.beat(&mut a);
    let state = &scene.stored.as_ref().unwrap().state;
    assert!(!state.is_present("b.0") && state.members["b.0"].gone > 0);
    scene.attach(&mut b);
    assert_eq!(b.name(), "b.1");
    assert!(!b.is_ready(), "earlier confirmations do not count");
    scene.settle(&mut [&mut a, &mut b]);
    assert!(b.is_ready());
}

#[test]
fn a_member_that_is_not_ready_removes_others_only_after_the_long_lease() {
    let (mut scene, mut a) = (RosterScene::new(), me("a"));
    scene.attach(&mut a);
    let mut late = me("late");
    scene.attach(&mut late);
    scene.now_ms += with_margin(LEASE_MS) + 1;
    scene.beat(&mut late);
    assert!(!late.is_ready());
    scene.now_ms += with_margin(LONE_LEASE_MS);
    scene.beat(&mut late);
    assert!(late.is_ready());
}

#[test]
fn an_emptied_server_is_proven_by_a_member_that_knows_it() {
    let (mut scene, mut a, mut b) = two();
    let before = scene.stored.as_ref().unwrap().g;
    scene.stored = None;
    let lost = vec![("orders".to_owned(), StreamId::new(9, 3))];
    let place = ServerState { lost, ..scene.place() };
    scene.attach_with(&mut a, &place);
    assert_eq!((scene.border(), scene.lost()), (BorderState::Proven, 1));
    assert!(scene.stored.as_ref().unwrap().g > before);
    scene.attach(&mut b);
    scene.settle(&mut [&mut a, &mut b]);
    assert!(a.is_ready() && b.is_ready());
}

#[test]
fn a_new_generation_is_above_every_epoch_seen() {
    let (mut scene, mut a, _) = two();
    let shown = scene.stored.as_ref().unwrap().alloc + 1_000;
    a.known = shown;
    scene.attach(&mut a);
    assert!(scene.stored.as_ref().unwrap().g > shown);
    assert_eq!(scene.border(), BorderState::Proven, "nothing went back");
}

#[test]
fn verdicts_and_lost_ids_outlive_the_copy_in_redis() {
    let (mut scene, mut a, mut b) = two();
    let older = scene.stored.clone();
    scene.restart(older);
    let lost = vec![("orders".to_owned(), StreamId::new(9, 3))];
    let place = ServerState { lost, ..scene.place() };
    scene.attach_with(&mut a, &place);
    scene.attach(&mut b);
    scene.beat(&mut a);
    scene.restart(None);
    scene.attach(&mut b);
    let borders = scene.stored.as_ref().unwrap().state.borders.len();
    assert_eq!((borders, scene.lost()), (3, 1));
}

#[test]
fn dropped_ids_leave_doubt() {
    let (mut scene, mut a, _) = two();
    let older = scene.stored.clone();
    scene.restart(older);
    let place = ServerState { forgot: true, ..scene.place() };
    scene.attach_with(&mut a, &place);
    assert_eq!(scene.border(), BorderState::Doubt);
}

#[test]
fn engines_outside_the_roster_leave_doubt_at_each_change_of_server() {
    let mut scene = RosterScene::new();
    let mut a = MemberMemory::new("a", String::new(), Vec::new(), true);
    scene.attach(&mut a);
    scene.beat(&mut a);
    let whole = scene.stored.clone();
    scene.restart(whole);
    scene.attach(&mut a);
    assert_eq!(scene.border(), BorderState::Doubt);
}

#[test]
fn a_replica_with_other_rules_is_refused_with_the_first_difference() {
    let (mut scene, mut a, mut b) = two();
    let mut other = MemberMemory::new("other", String::new(), vec!["* (event, retained)".into()], false);
    scene.attach(&mut other);
    scene.settle(&mut [&mut a, &mut b, &mut other]);
    assert!(!other.is_ready() && a.is_ready());
    let why = other.disagreement(&other.copy).unwrap();
    assert!(why.contains("* (event, retained) here") && why.contains("* (reliable, retained) at a.0"), "{why}");
}

#[test]
fn the_roster_round_trips_through_its_text() {
    let (scene, _, _) = two();
    let state = scene.stored.unwrap().state;
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<GenerationState>(&text).unwrap(), state);
}

#[test]
fn too_many_boundaries_or_lost_ids_lead_to_doubt_and_never_to_silence() {
    let (mut scene, mut a, _) = two();
    for _ in 0..BORDERS_MAX + 5 {
        let whole = scene.stored.clone();
        scene.restart(whole);
        scene.attach(&mut a);
        scene.now_ms += VERDICT_MS + 1;
        scene.beat(&mut a);
        scene.now_ms += VERDICT_MS + 1;
        scene.beat(&mut a);
    }
    let state = &scene.stored.as_ref().unwrap().state;
    assert!(state.borders.len() <= BORDERS_MAX + 1 && state.floor > 0);
    let mut state = state.clone();
    state.lost = (0..=LOST_MAX).map(|n| (format!("t{n}"), BTreeSet::from([StreamId::new(9, 1)]))).collect();
    state.prune(1_800_000_000);
    assert!(state.lost.is_empty() && state.borders.iter().all(|border| border.state == BorderState::Doubt));
}
