use proptest::prelude::*;
use serde_json::Value;
use tickgate_wire::{
    model::{Content, Message},
    protocol::Protocol,
    websocket,
};

use super::{
    super::{batch::PushFlags, form::Form, step::Step},
    *,
};

const EPOCH: u64 = 1_763_700_000_000;
const LIMITS: QueueLimits = QueueLimits { messages_max: 4, bytes_max: 1 << 20 };

fn id(seq: u64) -> StreamId {
    StreamId::new(EPOCH, seq)
}

fn form(channel: &str) -> Form {
    Form::of_topic(Protocol::default(), channel.into())
}

fn step(id: Option<StreamId>, content: Content) -> Step {
    Step::Message(Arc::new(Message { id, prev: None, published_ms: 0, channel: None, content }))
}

fn data(id: Option<StreamId>) -> Step {
    step(id, Content::Data(Bytes::from_static(b"{}")))
}

/// Messages `from..=to` of a retained topic.
fn batch(channel: &str, from: u64, to: u64) -> Arc<PushBatch> {
    let steps: Vec<_> = (from..=to).map(|seq| data(Some(id(seq)))).collect();
    Arc::new(PushBatch::encode(&form(channel), id(from - 1), &steps, PushFlags::default()))
}

/// Messages of a topic without retention.
fn nameless(channel: &str, count: usize) -> Arc<PushBatch> {
    Arc::new(PushBatch::encode(&form(channel), StreamId::ZERO, &vec![data(None); count], PushFlags::default()))
}

fn reply(text: &str) -> Bytes {
    let mut out = bytes::BytesMut::new();
    websocket::text(&mut out, text.len() + 2, |out| out.extend_from_slice(format!("\"{text}\"").as_bytes()));
    out.freeze()
}

/// A live subscription at position `at`.
fn live(queue: &mut OutboxQueue, class: Class, at: u64) -> SlotId {
    let urgent = class == Class::Reliable;
    let (stage, ticket, written) = (SubscriptionStage::Lagging, 0, StreamId::ZERO);
    let slot =
        queue.open(SubscriptionSlot { class, urgent, cursor: Cursor::Known, stage, ticket, queued: id(at), written });
    let ticket = queue.joining(slot).unwrap();
    assert!(queue.may_join(slot, ticket));
    queue.joined(slot);
    slot
}

/// A queue whose socket accepts nothing, with one live subscription.
fn blocked(class: Class) -> (OutboxQueue, SlotId) {
    let mut queue = OutboxQueue { blocked: true, ..OutboxQueue::default() };
    let slot = live(&mut queue, class, 0);
    (queue, slot)
}

/// Writes like a socket that accepts `room` bytes.
fn write(queue: &mut OutboxQueue, mut room: usize) -> Vec<u8> {
    let mut written = Vec::new();
    while !queue.is_empty() {
        let mut slices = WriteSlices::new(usize::MAX);
        queue.front(&mut slices, true);
        let all: Vec<u8> = slices.get().iter().flat_map(|slice| slice.iter().copied()).collect();
        assert_eq!(all.len(), slices.bytes());
        let taken = all.len().min(room);
        queue.consume(taken);
        written.extend_from_slice(&all[..taken]);
        room -= taken;
        if taken < all.len() {
            queue.blocked = true;
            return written;
        }
    }
    queue.blocked = false;
    written
}

fn drain(queue: &mut OutboxQueue) -> Vec<u8> {
    let written = write(queue, usize::MAX);
    assert_eq!((queue.messages(), queue.bytes()), (0, 0), "an empty queue counts nothing");
    written
}

/// Whole frames as JSON.
fn frames(mut bytes: &[u8]) -> Vec<Value> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (len, header) = match bytes[1] {
            126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
            short => (usize::from(short), 2),
        };
        all.push(serde_json::from_slice(&bytes[header..header + len]).unwrap());
        bytes = &bytes[header + len..];
    }
    all
}

/// What a client sees, in short form: `a7`, `a7+2` with two conflated, `a3..6(2)` a gap, or the text of a reply.
fn seen(bytes: &[u8]) -> Vec<String> {
    let seq = |value: &Value| value.as_str().map_or("?", |id| id.rsplit('-').next().unwrap()).to_owned();
    let one = |frame: &Value| {
        if let Some(text) = frame.as_str() {
            return text.to_owned();
        }
        if frame["type"] == "gap" {
            let channel = frame["channels"][0].as_str().unwrap();
            return format!("{channel}{}..{}({})", seq(&frame["after"]), seq(&frame["before"]), frame["count"]);
        }
        let meta = &frame["_meta"];
        let conflated = meta["conflated"].as_u64().map_or(String::new(), |count| format!("+{count}"));
        format!("{}{}{conflated}", meta["channel"].as_str().unwrap(), seq(&meta["id"]))
    };
    frames(bytes).iter().map(one).collect()
}

#[test]
fn nothing_is_dropped_while_the_socket_accepts_everything() {
    for class in [Class::State, Class::Event, Class::Reliable] {
        let mut queue = OutboxQueue::default();
        let slot = live(&mut queue, class, 0);
        for seq in 1..=9 {
            assert_eq!(queue.offer(slot, &batch("a", seq, seq), LIMITS), OfferResult::Queued);
        }
        assert_eq!(seen(&drain(&mut queue)).len(), 9, "{class:?}");
        assert_eq!(queue.slot(slot).unwrap().written, id(9));
    }
}

#[test]
fn a_value_replaces_the_queued_one_and_counts_it() {
    let (mut queue, a) = blocked(Class::State);
    let b = live(&mut queue, Class::State, 0);
    assert_eq!(queue.offer(a, &batch("a", 1, 1), LIMITS), OfferResult::Queued);
    assert_eq!(queue.offer(b, &batch("b", 1, 1), LIMITS), OfferResult::Queued);
    assert_eq!(queue.offer(a, &batch("a", 2, 2), LIMITS), OfferResult::Conflated(1));
    assert_eq!(queue.offer(a, &batch("a", 3, 5), LIMITS), OfferResult::Conflated(3), "in addition");
    assert_eq!(seen(&drain(&mut queue)), ["a5+4", "b1"]);
}

#[test]
fn an_older_value_never_follows_a_newer_one() {
    let mut queue = OutboxQueue::default();
    let a = live(&mut queue, Class::State, 0);
    let b = live(&mut queue, Class::State, 0);
    queue.offer(a, &batch("a", 1, 1), LIMITS);
    queue.offer(b, &batch("b", 1, 1), LIMITS);
    queue.offer(a, &batch("a", 2, 3), LIMITS);
    queue.blocked = true;
    assert_eq!(queue.offer(a, &batch("a", 4, 4), LIMITS), OfferResult::Conflated(3));
    assert_eq!(seen(&drain(&mut queue)), ["a4+3", "b1"]);
}

#[test]
fn a_partially_written_value_is_not_replaced() {
    let mut queue = OutboxQueue::default();
    let a = live(&mut queue, Class::State, 0);
    queue.offer(a, &batch("a", 1, 1), LIMITS);
    let mut written = write(&mut queue, 10);
    assert_eq!(queue.offer(a, &batch("a", 2, 2), LIMITS), OfferResult::Queued);
    assert_eq!(queue.offer(a, &batch("a", 3, 3), LIMITS), OfferResult::Conflated(1));
    written.extend(drain(&mut queue));
    assert_eq!(seen(&written), ["a1", "a3+1"]);
}

#[test]
fn values_in_flight_do_not_follow_a_newer_one_read_from_the_stream() {
    let mut queue = OutboxQueue::default();
    let a = live(&mut queue, Class::State, 3);
    assert_eq!(queue.offer(a, &batch("a", 2, 3), LIMITS), OfferResult::Ignored);
    queue.offer(a, &batch("a", 2, 6), LIMITS);
    queue.offer(a, &batch("a", 7, 8), LIMITS);
    assert_eq!(seen(&drain(&mut queue)), ["a6+2", "a7", "a8"]);
}

#[test]
fn values_that_were_left_out_before_the_topic_received_a_newer_one_are_counted() {
    let mut queue = OutboxQueue::default();
    let a = live(&mut queue, Class::State, 1);
    let jump = |from: u64, to: u64| {
        let steps = [data(Some(id(to)))];
        Arc::new(PushBatch::encode(&form("a"), id(from), &steps, PushFlags::live(Class::State)))
    };
    assert_eq!(queue.offer(a, &jump(1, 4), LIMITS), OfferResult::Conflated(2));
    assert_eq!(seen(&drain(&mut queue)), ["a4+2"]);
    assert_eq!(queue.offer(a, &jump(2, 6), LIMITS), OfferResult::Conflated(1), "without those that it has");
    queue.blocked = true;
    assert_eq!(queue.offer(a, &jump(6, 8), LIMITS), OfferResult::Conflated(2));
    assert_eq!(seen(&drain(&mut queue)), ["a8+3"]);
}

#[test]
fn what_a_client_came_with_is_not_sent_again_although_the_server_had_lost_it() {
    let ahead = |class| {
        let mut queue = OutboxQueue::default();
        let slot = live(&mut queue, class, 5);
        queue.slot_mut(slot).unwrap().written = id(7);
        (queue, slot)
    };
    let (mut queue, slot) = ahead(Class::Reliable);
    assert_eq!(queue.offer(slot, &batch("a", 6, 6), LIMITS), OfferResult::Ignored);
    assert_eq!(queue.offer(slot, &batch("a", 7, 9), LIMITS), OfferResult::Lags, "one of them is known");
    let (mut queue, slot) = ahead(Class::Event);
    assert_eq!(queue.offer(slot, &batch("a", 6, 7), LIMITS), OfferResult::Ignored);
    assert_eq!(queue.offer(slot, &batch("a", 8, 9), LIMITS), OfferResult::Queued);
    assert_eq!(seen(&drain(&mut queue)), ["a8", "a9"]);
    let (mut queue, slot) = ahead(Class::State);
    assert_eq!(queue.offer(slot, &batch("a", 6, 8), LIMITS), OfferResult::Queued);
    assert_eq!(seen(&drain(&mut queue)).len(), 1, "only the newest value");
}

#[test]
fn queued_messages_of_one_subscription_do_not_affect_another() {
    let mut queue = OutboxQueue::default();
    let (a, b) = (live(&mut queue, Class::Event, 0), live(&mut queue, Class::Event, 0));
    queue.offer(a, &batch("a", 1, 1), LIMITS);
    assert_eq!((queue.waits_for(a), queue.waits_for(b)), (true, false));
    write(&mut queue, 10);
    assert!(queue.waits_for(a), "a partial frame is not written");
    drain(&mut queue);
    assert!(!queue.waits_for(a));
}

#[test]
fn what_a_paced_value_replaced_stays_counted() {
    let (mut queue, a) = blocked(Class::State);
    let paced = Arc::new(batch("a", 1, 3).only_newest(2));
    assert_eq!(queue.offer(a, &paced, LIMITS), OfferResult::Conflated(2));
    assert_eq!(queue.offer(a, &batch("a", 4, 4), LIMITS), OfferResult::Conflated(1));
    assert_eq!(seen(&drain(&mut queue)), ["a4+3"]);
}

#[test]
fn a_report_of_a_loss_replaces_no_value() {
    let (mut queue, a) = blocked(Class::State);
    queue.offer(a, &batch("a", 1, 1), LIMITS);
    let lost = step(Some(id(5)), Content::Unreadable);
    let marker = Arc::new(PushBatch::encode(&form("a"), id(1), &[lost], PushFlags::default()));
    assert_eq!(queue.offer(a, &marker, LIMITS), OfferResult::Queued);
    assert_eq!(seen(&drain(&mut queue)), ["a1", "a4..6(1)"]);
}

#[test]
fn the_oldest_events_are_dropped_and_adjacent_gaps_are_merged() {
    let (mut queue, a) = blocked(Class::Event);
    for seq in 1..=4 {
        assert_eq!(queue.offer(a, &batch("a", seq, seq), LIMITS), OfferResult::Queued);
    }
    assert_eq!(queue.offer(a, &batch("a", 5, 5), LIMITS), OfferResult::Dropped(1));
    assert_eq!(queue.offer(a, &batch("a", 6, 7), LIMITS), OfferResult::Dropped(2));
    assert_eq!(queue.messages(), 4);
    assert_eq!(seen(&drain(&mut queue)), ["a0..4(3)", "a4", "a5", "a6", "a7"]);
}

#[test]
fn the_oldest_event_of_all_topics_is_dropped_first() {
    let (mut queue, a) = blocked(Class::Event);
    let b = live(&mut queue, Class::Event, 0);
    for seq in 1..=2 {
        queue.offer(a, &batch("a", seq, seq), LIMITS);
        queue.offer(b, &batch("b", seq, seq), LIMITS);
    }
    assert_eq!(queue.offer(b, &batch("b", 3, 5), LIMITS), OfferResult::Dropped(3));
    assert_eq!(seen(&drain(&mut queue)), ["a0..3(2)", "b0..2(1)", "b2", "b3", "b4", "b5"]);
}

#[test]
fn a_batch_that_exceeds_the_limit_becomes_a_gap() {
    let (mut queue, a) = blocked(Class::Event);
    assert_eq!(queue.offer(a, &batch("a", 1, 9), LIMITS), OfferResult::Dropped(9));
    assert_eq!(queue.offer(a, &batch("a", 10, 10), LIMITS), OfferResult::Queued);
    assert_eq!(seen(&drain(&mut queue)), ["a0..10(9)", "a10"]);
}

#[test]
fn events_are_dropped_over_the_byte_limit_too() {
    let (mut queue, a) = blocked(Class::Event);
    let two = 2 * batch("a", 1, 1).bytes.len();
    let limits = QueueLimits { messages_max: 1_000, bytes_max: two };
    for seq in 1..=9 {
        queue.offer(a, &batch("a", seq, seq), limits);
        assert!(queue.bytes() <= two);
    }
    assert_eq!(seen(&drain(&mut queue)), ["a0..8(7)", "a8", "a9"]);
}

#[test]
fn dropped_events_without_ids_are_only_counted() {
    let (mut queue, a) = blocked(Class::Event);
    for _ in 0..7 {
        queue.offer(a, &nameless("a", 1), LIMITS);
    }
    assert_eq!(seen(&drain(&mut queue)), ["a?..?(3)", "a?", "a?", "a?", "a?"]);
}

#[test]
fn events_without_ids_are_delivered_whatever_position_the_subscription_started_at() {
    for class in [Class::Event, Class::Reliable, Class::State] {
        let mut queue = OutboxQueue::default();
        let slot = live(&mut queue, class, 5);
        for count in [1, 2, 3] {
            let offered = queue.offer(slot, &nameless("events", count), LIMITS);
            assert!(matches!(offered, OfferResult::Queued), "{class:?}: {count} at once");
            drain(&mut queue);
        }
        assert_eq!(queue.slot(slot).map(|slot| slot.queued), Some(id(5)), "{class:?}");
        assert!(queue.lagging().is_none(), "{class:?}");
    }
}

#[test]
fn a_gap_is_encoded_even_far_back_in_the_queue() {
    // More items than one write takes; the gap is the first that it does not.
    let (mut queue, a) = blocked(Class::Event);
    for number in 0..WriteSlices::MAX {
        queue.frame(reply(&number.to_string()));
    }
    for seq in 1..=5 {
        queue.offer(a, &batch("a", seq, seq), LIMITS);
    }
    let all = seen(&drain(&mut queue));
    assert_eq!(all[WriteSlices::MAX..], ["a0..2(1)", "a2", "a3", "a4", "a5"]);
}

#[test]
fn a_reliable_subscription_lags_and_loses_nothing() {
    let (mut queue, a) = blocked(Class::Reliable);
    for seq in 1..=4 {
        assert_eq!(queue.offer(a, &batch("a", seq, seq), LIMITS), OfferResult::Queued);
    }
    assert_eq!(queue.offer(a, &batch("a", 5, 5), LIMITS), OfferResult::Lags);
    assert_eq!(queue.offer(a, &batch("a", 6, 6), LIMITS), OfferResult::Ignored);
    assert_eq!(queue.lagging(), Some((a, id(4))));
    assert_eq!(seen(&drain(&mut queue)), ["a1", "a2", "a3", "a4"]);

    queue.catch_up(a, batch("a", 5, 6));
    let ticket = queue.joining(a).unwrap();
    assert_eq!(queue.lagging(), None);
    assert_eq!(queue.offer(a, &batch("a", 7, 7), LIMITS), OfferResult::Ignored, "its join delivers it");
    assert!(queue.may_join(a, ticket));
    queue.catch_up(a, batch("a", 7, 7));
    queue.joined(a);
    assert_eq!(queue.offer(a, &batch("a", 8, 8), LIMITS), OfferResult::Queued);
    assert_eq!(seen(&drain(&mut queue)), ["a5", "a6", "a7", "a8"]);
}

#[test]
fn each_subscription_checks_continuity() {
    for class in [Class::Event, Class::Reliable] {
        let mut queue = OutboxQueue::default();
        let a = live(&mut queue, class, 5);
        assert_eq!(queue.offer(a, &batch("a", 4, 5), LIMITS), OfferResult::Ignored, "already queued");
        assert_eq!(queue.offer(a, &batch("a", 7, 7), LIMITS), OfferResult::Lags, "6 is missing");
        let b = live(&mut queue, class, 5);
        assert_eq!(queue.offer(b, &batch("b", 5, 6), LIMITS), OfferResult::Lags, "5 would be duplicated");
    }
}

#[test]
fn only_the_last_join_counts() {
    let mut queue = OutboxQueue::default();
    let a = live(&mut queue, Class::Reliable, 5);
    assert_eq!(queue.pause(a), Some(id(5)));
    let first = queue.joining(a).unwrap();
    assert_eq!(queue.pause(a), Some(id(5)));
    assert!(!queue.may_join(a, first), "it was paused again");
    let second = queue.joining(a).unwrap();
    assert!(!queue.may_join(a, first));
    assert!(queue.may_join(a, second));
    queue.close(a);
    assert!(!queue.may_join(a, second));
    assert_eq!((queue.joining(a), queue.pause(a)), (None, None));
}

#[test]
fn private_messages_precede_public_ones_but_never_split_a_frame() {
    let mut queue = OutboxQueue::default();
    let public = live(&mut queue, Class::Event, 0);
    let private = live(&mut queue, Class::Reliable, 0);
    queue.offer(public, &batch("p", 1, 1), LIMITS);
    queue.offer(public, &batch("p", 2, 2), LIMITS);
    let mut written = write(&mut queue, 7);
    queue.offer(private, &batch("a", 1, 1), LIMITS);
    queue.frame(reply("pong"));
    written.extend(drain(&mut queue));
    assert_eq!(seen(&written), ["p1", "a1", "pong", "p2"]);
}

#[test]
fn closing_removes_queued_messages_and_their_count() {
    let (mut queue, a) = blocked(Class::Event);
    let b = live(&mut queue, Class::Reliable, 0);
    queue.offer(a, &batch("a", 1, 2), LIMITS);
    queue.offer(b, &batch("b", 1, 1), LIMITS);
    let left = batch("b", 1, 1).bytes.len();
    queue.close(a);
    assert_eq!((queue.messages(), queue.bytes()), (1, left));
    assert_eq!(queue.offer(a, &batch("a", 3, 3), LIMITS), OfferResult::Ignored);
    assert_eq!(seen(&drain(&mut queue)), ["b1"]);
    assert_ne!(live(&mut queue, Class::Event, 0), a, "a slot is never reused");
}

#[test]
fn closing_lets_a_partially_written_frame_finish() {
    let mut queue = OutboxQueue::default();
    let a = live(&mut queue, Class::Event, 0);
    queue.offer(a, &batch("a", 1, 1), LIMITS);
    queue.offer(a, &batch("a", 2, 2), LIMITS);
    let mut written = write(&mut queue, 5);
    queue.close(a);
    written.extend(drain(&mut queue));
    assert_eq!(seen(&written), ["a1"]);
}

#[test]
fn a_broken_socket_leaves_nothing_to_write() {
    let mut queue = OutboxQueue::default();
    let a = live(&mut queue, Class::Event, 0);
    queue.offer(a, &batch("a", 1, 1), LIMITS);
    write(&mut queue, 5);
    queue.clear();
    assert!(!queue.is_empty(), "a planned end finishes the partial frame");
    queue.abandon();
    assert!(queue.is_empty());
    assert_eq!(queue.bytes(), 0);
}

#[test]
fn an_idle_connection_holds_no_queue() {
    let mut queue = OutboxQueue::default();
    let a = live(&mut queue, Class::Event, 0);
    for seq in 1..=1_000 {
        queue.offer(a, &batch("a", seq, seq), LIMITS);
    }
    drain(&mut queue);
    assert!(queue.public.capacity() <= 16, "{}", queue.public.capacity());
}

/// A queue with every kind of item.
fn mixture() -> (OutboxQueue, [SlotId; 3]) {
    let mut queue = OutboxQueue::default();
    let state = live(&mut queue, Class::State, 0);
    let event = live(&mut queue, Class::Event, 0);
    let reliable = live(&mut queue, Class::Reliable, 0);
    queue.blocked = true;
    for seq in 1..=3 {
        queue.offer(state, &batch("s", seq, seq), LIMITS);
        queue.offer(event, &batch("e", 2 * seq - 1, 2 * seq), LIMITS);
    }
    queue.frame(reply("pong"));
    queue.catch_up(reliable, batch("r", 1, 2));
    (queue, [state, event, reliable])
}

#[test]
fn a_write_may_stop_at_any_byte_and_continue() {
    let whole = drain(&mut mixture().0);
    for first in 0..=whole.len() {
        let (mut queue, [state, event, reliable]) = mixture();
        let mut written = write(&mut queue, first);
        assert_eq!(written.len(), first);
        let (done, all) = (queue.slot(reliable).unwrap().written, queue.is_empty());
        assert!(done == StreamId::ZERO || written.len() > reply("pong").len() + batch("r", 1, 2).bytes.len() - 1);
        assert_eq!(all, first == whole.len());
        written.extend(write(&mut queue, 3));
        written.extend(drain(&mut queue));
        assert_eq!(written, whole, "stopped at {first}");
        let ends = [state, event, reliable].map(|slot| queue.slot(slot).unwrap().written.seq);
        assert_eq!(ends, [3, 6, 2]);
    }
}

#[derive(Clone, Copy, Debug)]
enum QueueAct {
    /// The next messages of a subscription.
    Offer(usize, u64),
    Write(usize),
    Reply,
}

fn any_act() -> impl Strategy<Value = QueueAct> {
    prop_oneof![
        4 => (0_usize..3, 1_u64..4).prop_map(|(slot, count)| QueueAct::Offer(slot, count)),
        2 => (0_usize..400).prop_map(QueueAct::Write),
        1 => Just(QueueAct::Reply),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// For every sequence: frames are whole, all values and events are accounted for, and reliable messages are
    /// complete up to where the subscription lags.
    #[test]
    fn everything_offered_is_written_or_told(acts in prop::collection::vec(any_act(), 0..120)) {
        let mut queue = OutboxQueue::default();
        let classes = [Class::State, Class::Event, Class::Reliable];
        let channels = ["s", "e", "r"];
        let slots: Vec<_> = (0..3).map(|at| live(&mut queue, classes[at], 0)).collect();
        let (mut heads, mut replies, mut lags) = ([0_u64; 3], 0, false);
        let mut written = Vec::new();
        for act in acts {
            match act {
                QueueAct::Offer(at, count) => {
                    let offered = batch(channels[at], heads[at] + 1, heads[at] + count);
                    if at == 2 && lags {
                        continue;
                    }
                    if queue.offer(slots[at], &offered, LIMITS) == OfferResult::Lags {
                        prop_assert_eq!(at, 2, "only reliable subscriptions lag");
                        lags = true;
                        continue;
                    }
                    heads[at] += count;
                    let events = queue.public.iter().any(|item| matches!(item, QueueItem::Batch { slot, .. } if *slot == slots[1]));
                    let over = queue.messages() > LIMITS.messages_max;
                    prop_assert!(!(queue.blocked && at == 1 && over && events), "events are queued over the limit");
                }
                QueueAct::Write(room) => written.extend(write(&mut queue, room)),
                QueueAct::Reply => {
                    replies += 1;
                    queue.frame(reply("pong"));
                }
            }
        }
        written.extend(drain(&mut queue));
        let (mut last, mut seen_replies) = ([0_u64; 3], 0);
        for frame in frames(&written) {
            if frame.is_string() {
                seen_replies += 1;
                continue;
            }
            let seq = |value: &Value| value.as_str().unwrap().rsplit('-').next().unwrap().parse::<u64>().unwrap();
            if frame["type"] == "gap" {
                prop_assert_eq!(&frame["channels"][0], "e");
                prop_assert_eq!(seq(&frame["after"]), last[1], "a gap must start at the client's position");
                let before = seq(&frame["before"]);
                prop_assert_eq!(frame["count"].as_u64().unwrap(), before - 1 - last[1]);
                last[1] = before - 1;
                continue;
            }
            let meta = &frame["_meta"];
            let at = channels.iter().position(|channel| meta["channel"] == *channel).unwrap();
            let conflated = meta["conflated"].as_u64().unwrap_or(0);
            prop_assert!(at == 0 || conflated == 0);
            prop_assert_eq!(seq(&meta["id"]), last[at] + conflated + 1);
            last[at] = seq(&meta["id"]);
        }
        prop_assert_eq!(last, heads);
        prop_assert_eq!(seen_replies, replies);
        prop_assert_eq!(queue.lagging().is_some(), lags);
        for at in [0, 2] {
            prop_assert!(heads[at] == 0 || queue.slot(slots[at]).unwrap().written == id(heads[at]));
        }
    }
}

#[test]
fn values_are_bounded_in_bytes_too() {
    let mut queue = OutboxQueue { blocked: true, ..OutboxQueue::default() };
    let one = batch("a", 1, 1).bytes.len();
    let limits = QueueLimits { messages_max: 4, bytes_max: one * 5 / 2 };
    let slots: Vec<_> = ["a", "b", "c"].map(|name| (name, live(&mut queue, Class::State, 0))).into();
    for seq in 1..=9 {
        for (name, slot) in &slots {
            queue.offer(*slot, &batch(name, seq, seq), limits);
            assert!(queue.bytes() <= limits.bytes_max, "{} bytes", queue.bytes());
        }
    }
    // Two fit; the connection sends the third when there is room.
    assert_eq!(queue.lagging(), Some((slots[2].1, id(0))));
    assert_eq!(seen(&drain(&mut queue)), ["a9+8", "b9+8"]);
    let ticket = queue.joining(slots[2].1).unwrap();
    assert!(queue.may_join(slots[2].1, ticket));
    queue.catch_up(slots[2].1, batch("c", 9, 9));
    queue.joined(slots[2].1);
    assert_eq!(seen(&drain(&mut queue)), ["c9"]);
}
