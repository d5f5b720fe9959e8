use proptest::prelude::*;

use crate::history::BorderState;

use super::*;
use std::sync::LazyLock;
use tickgate_wire::push::GapReason;

const LIMITS: RingLimits = RingLimits { messages_max: 64, bytes_max: 1 << 20 };

fn id(epoch: u64, seq: u64) -> StreamId {
    StreamId::new(epoch, seq)
}

/// A live message; the first of an epoch names the previous id.
fn live(at: StreamId, prev: Option<StreamId>) -> Arc<Message> {
    let content = Content::Data(bytes::Bytes::from_static(b"{}"));
    Arc::new(Message { id: Some(at), prev, published_ms: 0, channel: None, content })
}

fn plain(seq: u64) -> Arc<Message> {
    live(id(1, seq), None)
}

/// A dataset that was always on one server.
static KNOWN: LazyLock<Generations> = LazyLock::new(|| Generations { alloc: 1_000, ..Generations::single(1) });

fn known() -> StepJudge<'static> {
    StepJudge { topic: "t", history: &KNOWN }
}

fn arrive(position: &mut Position, message: &Arc<Message>) -> ArrivalAction {
    position.arrive(message, known())
}

fn compare(position: &mut Position, end: StreamId, steps: &mut Vec<Step>) -> NextRead {
    position.compare(Some(end), None, known(), steps)
}

fn filled(position: &mut Position, asked: StreamRead, page: &StreamPage, steps: &mut Vec<Step>) -> NextRead {
    position.filled(asked, page, known(), steps)
}

/// A page of a stream that holds `entries`.
fn page(entries: &[Arc<Message>], after: StreamId, limit: usize) -> StreamPage {
    let from = entries.partition_point(|m| m.id.unwrap() <= after);
    let messages: Vec<_> = entries[from..].iter().take(limit).cloned().collect();
    let more = entries.len() - from > messages.len();
    StreamPage { messages, more, end: entries.last().map_or(Some(id(1, 0).previous()), |last| last.id) }
}

/// Reads the current stream once.
fn read(position: &mut Position, entries: &[Arc<Message>], limit: usize, steps: &mut Vec<Step>) -> NextRead {
    let asked = position.ask();
    filled(position, asked, &page(entries, asked.cursor, limit), steps)
}

/// A position that was compared with a stream whose head is `at`.
fn standing_at(at: StreamId) -> Position {
    let mut position = Position::new(false, LIMITS);
    assert_eq!(compare(&mut position, at, &mut Vec::new()), NextRead::Live);
    position
}

/// A short notation of steps: `7` a message, `5..7` a gap.
fn told(steps: &[Step]) -> Vec<String> {
    let short = |id: &StreamId| if id.epoch == 1 { id.seq.to_string() } else { id.to_string() };
    let one = |step: &Step| match step {
        Step::Message(message) => short(&message.id.unwrap()),
        Step::Gap(gap) => format!("{}..{}", short(&gap.after), short(&gap.before.unwrap())),
    };
    steps.iter().map(one).collect()
}

#[test]
fn waits_for_the_first_comparison_and_drops_what_it_covers() {
    let mut position = Position::new(false, LIMITS);
    assert_eq!(arrive(&mut position, &plain(4)), ArrivalAction::Held);
    assert_eq!(arrive(&mut position, &plain(5)), ArrivalAction::Held);
    assert_eq!(arrive(&mut position, &plain(6)), ArrivalAction::Held);
    let mut steps = Vec::new();
    assert_eq!(compare(&mut position, id(1, 5), &mut steps), NextRead::Live);
    assert_eq!(told(&steps), ["6"]);
    assert_eq!(position.at(), Some(id(1, 6)));
}

#[test]
fn only_the_direct_successor_is_next() {
    let mut position = standing_at(id(1, 5));
    assert_eq!(arrive(&mut position, &plain(5)), ArrivalAction::Repeat);
    assert_eq!(arrive(&mut position, &plain(6)), ArrivalAction::Next);
    assert_eq!(arrive(&mut position, &plain(6)), ArrivalAction::Repeat);
    assert_eq!(arrive(&mut position, &plain(8)), ArrivalAction::Hole);
    assert_eq!(arrive(&mut position, &plain(9)), ArrivalAction::Held);
    assert_eq!(arrive(&mut position, &plain(7)), ArrivalAction::Held, "a read is in flight");
    assert_eq!(position.state(), PositionState::Filling);
}

#[test]
fn an_epoch_is_joined_by_the_previous_id_in_its_first_message() {
    let mut joined = standing_at(id(1, 5));
    assert_eq!(arrive(&mut joined, &live(id(2, 0), Some(id(1, 5)))), ArrivalAction::Next);
    let mut behind = standing_at(id(1, 4));
    assert_eq!(arrive(&mut behind, &live(id(2, 0), Some(id(1, 5)))), ArrivalAction::Hole);
    let mut nameless = standing_at(id(1, 5));
    assert_eq!(arrive(&mut nameless, &live(id(2, 0), None)), ArrivalAction::Hole);
}

#[test]
fn a_fill_delivers_what_was_missing_and_then_what_waited() {
    let mut position = standing_at(id(1, 5));
    arrive(&mut position, &plain(8));
    arrive(&mut position, &plain(9));
    let mut steps = Vec::new();
    let entries: Vec<_> = (0..9).map(plain).collect();
    assert_eq!(read(&mut position, &entries, 500, &mut steps), NextRead::Live);
    assert_eq!(told(&steps), ["6", "7", "8", "9"]);
    assert_eq!(position.state(), PositionState::Live);
}

#[test]
fn a_fill_continues_page_by_page() {
    let mut position = standing_at(id(1, 0));
    arrive(&mut position, &plain(6));
    let entries: Vec<_> = (0..7).map(plain).collect();
    let mut steps = Vec::new();
    let mut reads = 0;
    while position.state() == PositionState::Filling {
        read(&mut position, &entries, 2, &mut steps);
        reads += 1;
    }
    assert_eq!((told(&steps), reads), (["1", "2", "3", "4", "5", "6"].map(String::from).to_vec(), 3));
}

#[test]
fn trimmed_history_is_replaced_by_a_gap() {
    let mut position = standing_at(id(1, 2));
    arrive(&mut position, &plain(9));
    let mut steps = Vec::new();
    let entries: Vec<_> = (7..10).map(plain).collect();
    read(&mut position, &entries, 500, &mut steps);
    assert_eq!(told(&steps), ["2..7", "7", "8", "9"]);
    assert!(matches!(steps[0], Step::Gap(GapRange { reason: GapReason::Retention, .. })));
    assert_eq!(position.since(id(1, 6)).map(|all| all.len()), Some(3), "the ring starts after the gap");
    assert!(position.since(id(1, 2)).is_none());
}

#[test]
fn a_loss_of_a_server_is_reported_to_those_who_pass_it() {
    let lost = std::collections::HashMap::from([("t".into(), vec![id(1, 7)])]);
    let borders = vec![(1, BorderState::Proven), (2, BorderState::Proven)];
    let history = Generations { generation: 2, alloc: 9, floor: 0, borders, lost };
    let judge = StepJudge { topic: "t", history: &history };
    let entries = [plain(4), plain(5), live(id(2, 0), Some(id(1, 5)))];
    for (at, told_to_it) in [(5, vec!["5..2-0", "2-0"]), (7, vec!["2-0"])] {
        let mut position = standing_at(id(1, at));
        position.lost();
        let mut steps = Vec::new();
        assert_eq!(position.compare(Some(id(2, 0)), None, judge, &mut steps), NextRead::Read);
        let asked = position.ask();
        assert_eq!(position.filled(asked, &page(&entries, asked.cursor, 500), judge, &mut steps), NextRead::Live);
        assert_eq!(told(&steps), told_to_it);
    }
}

#[test]
fn a_doubtful_boundary_is_reported_even_at_the_end_and_a_pending_one_waits() {
    let borders = |state| vec![(1, BorderState::Proven), (2, state)];
    let history = |state| Generations { generation: 2, alloc: 9, borders: borders(state), ..Generations::default() };
    let (pending, doubt) = (history(BorderState::Pending), history(BorderState::Doubt));
    let mut position = standing_at(id(1, 5));
    position.lost();
    let mut steps = Vec::new();
    let judge = StepJudge { topic: "t", history: &pending };
    assert_eq!(position.compare(Some(id(1, 5)), None, judge, &mut steps), NextRead::Wait);
    let held = live(id(2, 0), Some(id(1, 5)));
    assert_eq!(position.arrive(&held, judge), ArrivalAction::Held);
    let judge = StepJudge { topic: "t", history: &doubt };
    assert_eq!(position.compare(Some(id(1, 5)), None, judge, &mut steps), NextRead::Read);
    let asked = position.ask();
    assert_eq!(position.filled(asked, &page(&[plain(5)], asked.cursor, 500), judge, &mut steps), NextRead::Live);
    assert_eq!(told(&steps), ["5..2-0", "2-0"]);
}

#[test]
fn a_restart_that_lost_nothing_is_no_gap() {
    let mut position = standing_at(id(1, 5));
    position.lost();
    let entries = [plain(5), plain(6), live(id(2, 0), Some(id(1, 6))), live(id(2, 1), None)];
    let mut steps = Vec::new();
    assert_eq!(compare(&mut position, id(2, 1), &mut steps), NextRead::Read);
    assert_eq!(read(&mut position, &entries, 500, &mut steps), NextRead::Live);
    assert_eq!(told(&steps), ["6", "2-0", "2-1"]);
}

#[test]
fn two_overlapping_reads_deliver_once_and_report_no_false_gap() {
    // Both started at 2, when the stream was trimmed up to 7; the second also saw the next epoch.
    let first: Vec<_> = (7..10).map(plain).collect();
    let second = [first.clone(), vec![live(id(2, 0), Some(id(1, 9)))]].concat();
    let mut position = standing_at(id(1, 2));
    let mut steps = Vec::new();
    assert_eq!(compare(&mut position, id(1, 9), &mut steps), NextRead::Read);
    let asked = position.ask();
    filled(&mut position, asked, &page(&first, asked.cursor, 500), &mut steps);
    filled(&mut position, asked, &page(&second, asked.cursor, 500), &mut steps);
    assert_eq!(told(&steps), ["2..7", "7", "8", "9", "2-0"]);
}

#[test]
fn what_the_stream_does_not_contain_after_two_reads_was_never_stored() {
    let mut position = standing_at(id(1, 6));
    arrive(&mut position, &plain(8));
    arrive(&mut position, &live(id(900, 0), Some(id(1, 6))));
    let stream: Vec<_> = (0..7).map(plain).collect();
    let mut steps = Vec::new();
    assert_eq!(read(&mut position, &stream, 500, &mut steps), NextRead::Read);
    assert_eq!(read(&mut position, &stream, 500, &mut steps), NextRead::Live);
    assert_eq!((told(&steps), position.at()), (Vec::new(), Some(id(1, 6))));
    assert_eq!(arrive(&mut position, &plain(7)), ArrivalAction::Next, "the topic continues at its position");
}

#[test]
fn an_epoch_that_was_never_given_moves_nothing() {
    for newest_only in [false, true] {
        let mut position = Position::new(newest_only, LIMITS);
        compare(&mut position, id(1, 6), &mut Vec::new());
        assert_eq!(arrive(&mut position, &live(id(1_001, 0), Some(id(1, 6)))), ArrivalAction::Hole);
        assert_eq!(position.at(), Some(id(1, 6)));
    }
}

#[test]
fn a_server_that_went_back_is_detected() {
    let mut position = standing_at(id(1, 6));
    let mut steps = Vec::new();
    assert_eq!(position.compare(Some(id(1, 4)), Some(id(1, 6)), known(), &mut steps), NextRead::Doubt);
    assert_eq!(arrive(&mut position, &plain(5)), ArrivalAction::Past, "not known to have been delivered");
}

#[test]
fn reads_that_started_before_a_hole_say_nothing_about_it() {
    let mut position = standing_at(id(1, 6));
    let (early, before) = (position.ask(), page(&[plain(6)], id(1, 6), 500));
    arrive(&mut position, &plain(8));
    let mut steps = Vec::new();
    for _ in 0..3 {
        assert_eq!(filled(&mut position, early, &before, &mut steps), NextRead::Read);
    }
    let entries: Vec<_> = (6..9).map(plain).collect();
    assert_eq!(read(&mut position, &entries, 500, &mut steps), NextRead::Live);
    assert_eq!(told(&steps), ["7", "8"]);
}

#[test]
fn a_stream_that_starts_again_is_reported_to_those_who_missed_messages() {
    let again = live(id(2, 0), Some(StreamId::ZERO));
    let mut unbroken = standing_at(id(1, 6));
    assert_eq!(arrive(&mut unbroken, &again), ArrivalAction::Next);
    let mut broken = standing_at(id(1, 6));
    broken.lost();
    let mut steps = Vec::new();
    assert_eq!(compare(&mut broken, id(2, 0), &mut steps), NextRead::Read);
    read(&mut broken, &[again], 500, &mut steps);
    assert_eq!(told(&steps), ["6..2-0", "2-0"]);
}

#[test]
fn a_topic_without_a_stream_gets_a_position_and_another_one_if_that_is_lost() {
    let mut position = Position::new(false, LIMITS);
    let (anchor, mut steps) = (id(7, 0).previous(), Vec::new());
    assert_eq!(position.compare(None, None, known(), &mut steps), NextRead::Anchor);
    assert_eq!(compare(&mut position, anchor, &mut steps), NextRead::Live);
    // What was published there may be in flight, and lost with its stream.
    assert_eq!(position.compare(None, None, known(), &mut steps), NextRead::Anchor);
    assert_eq!(arrive(&mut position, &live(id(7, 0), Some(anchor))), ArrivalAction::Next);
    position.lost();
    assert_eq!(position.compare(None, None, known(), &mut steps), NextRead::Anchor);
    assert_eq!(compare(&mut position, id(9, 0).previous(), &mut steps), NextRead::Read);
    let asked = position.ask();
    let empty = StreamPage { messages: Vec::new(), more: false, end: Some(id(9, 0).previous()) };
    assert_eq!(filled(&mut position, asked, &empty, &mut steps), NextRead::Live);
    assert_eq!(told(&steps), ["7-0..9-0"], "what was there is lost");
}

#[test]
fn a_subscriber_that_starts_before_the_verdict_receives_its_consequences() {
    let pending = [(4, BorderState::Proven), (8, BorderState::Pending)];
    let mut history = Generations { alloc: 8, borders: pending.to_vec(), ..Generations::single(8) };
    let mut position = Position::new(false, LIMITS);
    let mut steps = Vec::new();
    position.compare(Some(id(4, 2)), None, StepJudge { topic: "t", history: &history }, &mut steps);
    assert_eq!(position.at(), Some(id(4, 2)));
    // Acknowledged on another server since, and lost with it.
    history.borders[1].1 = BorderState::Proven;
    history.lost.insert("t".into(), vec![id(4, 3)]);
    let judge = StepJudge { topic: "t", history: &history };
    assert_eq!(position.compare(Some(id(4, 2)), None, judge, &mut steps), NextRead::Read);
    let empty = StreamPage { messages: Vec::new(), more: false, end: Some(id(4, 2)) };
    assert_eq!(position.filled(position.ask(), &empty, judge, &mut steps), NextRead::Live);
    assert_eq!(told(&steps).len(), 1, "a gap");
}

#[test]
fn without_retention_nothing_is_missing() {
    let mut position = Position::new(false, LIMITS);
    for _ in 0..2 {
        assert_eq!(position.begin_unkept(), NextRead::Live);
        assert_eq!((position.at(), position.state()), (Some(StreamId::ZERO), PositionState::Live));
        position.lost();
    }
}

#[test]
fn after_a_lost_link_only_provable_successors_are_delivered() {
    let mut position = standing_at(id(1, 5));
    position.lost();
    assert_eq!(arrive(&mut position, &plain(6)), ArrivalAction::Next);
    assert_eq!(arrive(&mut position, &plain(8)), ArrivalAction::Held);
    assert_eq!(arrive(&mut position, &plain(7)), ArrivalAction::Held);
    let mut steps = Vec::new();
    assert_eq!(compare(&mut position, id(1, 6), &mut steps), NextRead::Live);
    assert_eq!(told(&steps), ["7", "8"]);
}

#[test]
fn a_failed_read_waits_for_the_next_comparison() {
    let mut position = standing_at(id(1, 5));
    arrive(&mut position, &plain(7));
    position.unfilled();
    assert_eq!(position.state(), PositionState::Syncing);
    let mut steps = Vec::new();
    assert_eq!(compare(&mut position, id(1, 7), &mut steps), NextRead::Read);
    let entries: Vec<_> = (0..8).map(plain).collect();
    assert_eq!(read(&mut position, &entries, 500, &mut steps), NextRead::Live);
    assert_eq!(told(&steps), ["6", "7"]);
}

#[test]
fn held_messages_are_bounded_in_bytes() {
    let mut position = standing_at(id(1, 0));
    for seq in 2..=200 {
        let content = Content::Data(vec![b' '; 60_000].into());
        arrive(&mut position, &Arc::new(Message { content, ..(*plain(seq)).clone() }));
    }
    assert!(position.held_bytes <= HELD_BYTES_MAX + 60_000);
    assert_eq!(position.held_bytes, position.held.len() * 60_000);
    assert_eq!(position.ask().cursor, id(1, 0), "the stream has what was dropped");
}

#[test]
fn held_messages_are_bounded_and_then_read_again() {
    let mut position = standing_at(id(1, 0));
    let all: Vec<_> = (0..HELD_MAX as u64 + 10).map(plain).collect();
    for message in &all[2..] {
        arrive(&mut position, message);
    }
    assert!(position.held.len() <= HELD_MAX);
    let mut steps = Vec::new();
    while position.state() != PositionState::Live {
        read(&mut position, &all, 500, &mut steps);
    }
    let expected: Vec<_> = (1..HELD_MAX as u64 + 10).map(|seq| seq.to_string()).collect();
    assert_eq!(told(&steps), expected);
}

#[test]
fn only_the_newest_value_of_a_state_matters() {
    let mut position = Position::new(true, LIMITS);
    compare(&mut position, id(1, 5), &mut Vec::new());
    assert_eq!(arrive(&mut position, &plain(8)), ArrivalAction::Next, "no hole");
    assert_eq!(arrive(&mut position, &plain(7)), ArrivalAction::Past, "an older value never follows a newer one");
    assert_eq!(
        arrive(&mut position, &live(id(2, 0), Some(id(1, 3)))),
        ArrivalAction::Next,
        "a fork is not a hole either"
    );
    assert_eq!(position.newest().unwrap().id, Some(id(2, 0)));

    let marker = Arc::new(Message { content: Content::Unreadable, ..(*live(id(3, 0), None)).clone() });
    assert_eq!(arrive(&mut position, &marker), ArrivalAction::Next);
    assert_eq!(position.newest().unwrap().id, Some(id(2, 0)), "a snapshot is a value");
}

#[test]
fn messages_without_ids_pass() {
    let mut position = Position::new(false, LIMITS);
    let content = Content::Data(bytes::Bytes::new());
    let message = Arc::new(Message { id: None, prev: None, published_ms: 0, channel: None, content });
    assert_eq!(arrive(&mut position, &message), ArrivalAction::Next);
    assert_eq!(position.at(), None);
}

/// One event in the life of a position.
#[derive(Clone, Copy, Debug)]
enum PositionAct {
    /// The link delivers the message with this index.
    Arrive(usize),
    /// The link broke.
    Lose,
    /// The head is compared, as it was when this many messages of the history existed.
    Compare(usize),
    /// The stream is read after the position, as it was then (it has at least what arrived); the result arrives at the
    /// next `Answer`.
    Ask(usize),
    /// The oldest pending result arrives.
    Answer,
    Fail,
}

/// Runs events, then lets the link and the stream finish, and checks everything that subscribers received.
///
/// `kept` is the first message that the stream still has: missing messages must precede it, and be covered by a gap.
fn check(history: &[Arc<Message>], begin: usize, kept: usize, page_max: usize, acts: &[PositionAct]) {
    let begin_at = history[begin].id.unwrap();
    let begin_at = begin.checked_sub(1).map_or(begin_at.previous(), |last| history[last].id.unwrap());
    let mut position = standing_at(begin_at);
    let mut steps = Vec::new();
    let mut answers = std::collections::VecDeque::new();
    let stream = |count: usize| &history[kept.min(count)..count];
    let (mut arrived, mut seen) = (0, 0);
    for act in acts {
        match *act {
            PositionAct::Arrive(at) => {
                arrived = arrived.max(at + 1);
                if arrive(&mut position, &history[at]) == ArrivalAction::Next {
                    steps.push(Step::Message(history[at].clone()));
                }
            }
            PositionAct::Lose => position.lost(),
            PositionAct::Compare(count) => {
                seen = seen.max(count);
                let head = stream(count).last().and_then(|m| m.id).unwrap_or(begin_at);
                compare(&mut position, head, &mut steps);
            }
            PositionAct::Ask(count) => {
                let asked = position.ask();
                seen = seen.max(count).max(arrived);
                answers.push_back((asked, page(stream(seen), asked.cursor, page_max)));
            }
            PositionAct::Answer => {
                if let Some((asked, page)) = answers.pop_front() {
                    filled(&mut position, asked, &page, &mut steps);
                }
            }
            PositionAct::Fail => position.unfilled(),
        }
    }
    for (asked, page) in answers {
        filled(&mut position, asked, &page, &mut steps);
    }
    let mut next = compare(&mut position, history.last().unwrap().id.unwrap(), &mut steps);
    while next == NextRead::Read {
        next = read(&mut position, stream(history.len()), page_max, &mut steps);
    }
    judge(history, begin, kept, &steps, begin_at, &format!("{acts:?}"));
}

fn judge(history: &[Arc<Message>], begin: usize, kept: usize, steps: &[Step], begin_at: StreamId, acts: &str) {
    let mut at = begin_at;
    let mut covered = begin_at;
    let mut had = vec![false; history.len()];
    for step in steps {
        match step {
            Step::Gap(GapRange { after, before, .. }) => {
                let before = before.unwrap();
                assert_eq!(*after, at, "a gap must start at the subscriber's position; {acts}");
                assert!(before > *after, "{acts}");
                covered = before;
            }
            Step::Message(message) => {
                let id = message.id.unwrap();
                assert!(id > at, "{id} after {at}: repeated or out of order; {acts}");
                let place = history.iter().position(|m| m.id == Some(id)).unwrap();
                let before = history[..place].iter().zip(&had).skip(begin).filter(|(_, had)| !**had);
                for (missing, _) in before {
                    let missing = missing.id.unwrap();
                    assert!(missing < at || (missing > at && covered == id), "{missing} is silently missing; {acts}");
                }
                had[place] = true;
                at = id;
            }
        }
    }
    assert_eq!(Some(at), history.last().unwrap().id.max(Some(begin_at)), "not at the end; {acts}");
    let told = steps.iter().any(|step| matches!(step, Step::Gap(_)));
    assert!(!told || kept > begin, "nothing was missing, but a gap was reported; {acts}");
    let missing = had[begin.max(kept)..].iter().filter(|had| !**had).count();
    assert_eq!(missing, 0, "the stream has it, so it must be delivered; {acts}");
}

/// Two epochs of three messages each; the second names the last of the first.
fn two_epochs() -> Vec<Arc<Message>> {
    let first = (0..3).map(plain);
    let second = (0..3).map(|seq| live(id(2, seq), (seq == 0).then_some(id(1, 2))));
    first.chain(second).collect()
}

#[test]
fn every_short_sequence_of_events_is_correct() {
    let history = two_epochs();
    // Few enough to try all: arrivals around the boundary of the epochs, lost links, and reads that start before or
    // after it and finish at any time.
    let acts = [
        PositionAct::Arrive(2),
        PositionAct::Arrive(3),
        PositionAct::Arrive(4),
        PositionAct::Lose,
        PositionAct::Compare(4),
        PositionAct::Ask(3),
        PositionAct::Ask(5),
        PositionAct::Answer,
        PositionAct::Fail,
    ];
    let count = acts.len();
    for length in 0..=5_u32 {
        for number in 0..count.pow(length) {
            let course: Vec<_> = (0..length).map(|place| acts[number / count.pow(place) % count]).collect();
            check(&history, 2, 0, 500, &course);
        }
    }
}

#[test]
fn every_order_of_arrival_with_duplicates_is_correct() {
    let history = two_epochs();
    for number in 0..6_usize.pow(6) {
        let course: Vec<_> = (0..6).map(|place| PositionAct::Arrive(number / 6_usize.pow(place) % 6)).collect();
        check(&history, 0, 0, 1, &course);
    }
}

fn any_act(len: usize) -> impl Strategy<Value = PositionAct> {
    prop_oneof![
        6 => (0..len).prop_map(PositionAct::Arrive),
        1 => Just(PositionAct::Lose),
        2 => (0..=len).prop_map(PositionAct::Compare),
        3 => (0..=len).prop_map(PositionAct::Ask),
        3 => Just(PositionAct::Answer),
        1 => Just(PositionAct::Fail),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_events_is_correct(
        lengths in prop::collection::vec(1_u64..8, 1..4),
        (begin, kept) in (0_usize..4, 0_usize..6),
        page_max in 1_usize..5,
        seed in prop::collection::vec(any_act(24), 0..60),
    ) {
        let mut history: Vec<Arc<Message>> = Vec::new();
        for (epoch, length) in (1..).zip(&lengths) {
            for seq in 0..*length {
                let before = history.last().and_then(|m| m.id).unwrap_or(id(epoch, 0).previous());
                history.push(live(id(epoch, seq), (seq == 0).then_some(before)));
            }
        }
        let len = history.len();
        let (begin, kept) = (begin.min(len - 1), kept.min(len - 1));
        let acts: Vec<_> = seed.iter().map(|act| match *act {
            PositionAct::Arrive(at) => PositionAct::Arrive(at % len),
            PositionAct::Compare(count) => PositionAct::Compare(count % (len + 1)),
            PositionAct::Ask(count) => PositionAct::Ask(count % (len + 1)),
            other => other,
        }).collect();
        check(&history, begin, kept, page_max, &acts);
    }
}
