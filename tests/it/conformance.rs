//! The contract of every backplane, tested over memory, one Redis server, and two servers that share the topics.

use std::{sync::Arc, time::Duration};

use tickgate::{
    backplane::{Backplane, Memory, MissingRange, Newest, PublishError, ReadLimits, Redis, StreamPage},
    metrics::Metrics,
    redis_link::{RedisLink, Topology},
    tasks::Tasks,
};
use tickgate_wire::model::{Message, Pattern, Publication, StreamId, Topic, TopicRule, UserId};

use crate::support::{
    PATIENCE, eventually,
    follower::{
        OwnedEvent, RecordingFollower, acknowledging, ids, member, named, number, redis_config, retain, text, topic,
    },
    redis::RedisServer,
};

/// A backplane under test with its follower, and what keeps it running.
struct BackplaneSubject {
    backplane: Backplane,
    follower: RecordingFollower,
    servers: Vec<RedisServer>,
    _tasks: Tasks,
}

impl BackplaneSubject {
    async fn memory() -> Self {
        Self::over(Backplane::Memory(Memory::new()), Vec::new(), Tasks::new())
    }

    async fn redis() -> Self {
        Self::redis_over(1, |mut links| Topology::one(links.remove(0))).await
    }

    async fn two_shards() -> Self {
        Self::redis_over(2, Topology::fixed).await
    }

    async fn redis_over(count: usize, topology: impl FnOnce(Vec<RedisLink>) -> Topology) -> Self {
        let servers: Vec<_> = (0..count).map(|_| RedisServer::start()).collect();
        let tasks = Tasks::new();
        let link = |server: &RedisServer| RedisLink::start(&redis_config(&server.url()), &tasks, Metrics::new());
        let links: Vec<_> = servers.iter().map(link).collect();
        let backplane = Backplane::Redis(Redis::start_on(&topology(links.clone()), &member(&[brief()]), &tasks));
        let subject = Self::over(backplane, servers, tasks);
        acknowledging(&subject.backplane).await;
        subject
    }

    async fn anchor(&self, topic: &Topic) -> StreamId {
        self.backplane.anchors(std::slice::from_ref(topic)).await.remove(0).expect("a position")
    }

    /// What is missing when reading from a position.
    async fn lack(&self, topic: &Topic, after: StreamId) -> Option<MissingRange> {
        let limits = ReadLimits::new(10, usize::MAX);
        self.backplane.read_on(topic, after, None, limits).await.expect("readable").lack
    }

    fn over(backplane: Backplane, servers: Vec<RedisServer>, tasks: Tasks) -> Self {
        let follower = RecordingFollower::follow(&backplane);
        Self { backplane, follower, servers, _tasks: tasks }
    }

    async fn publish(&self, publication: Publication) -> Option<StreamId> {
        self.backplane.publish(publication).await.expect("accepted").id
    }

    async fn publish_numbers(&self, topic: &Topic, rule: &Arc<TopicRule>, count: usize) -> Vec<StreamId> {
        let mut ids = Vec::new();
        for n in 0..count {
            ids.push(self.publish(number(topic, rule, n)).await.expect("an id"));
        }
        ids
    }

    async fn read(&self, topic: &Topic, after: StreamId, limit: usize) -> StreamPage {
        self.read_within(topic, after, ReadLimits::new(limit, usize::MAX)).await
    }

    async fn read_within(&self, topic: &Topic, after: StreamId, limits: ReadLimits) -> StreamPage {
        self.backplane.read(topic, after, limits).await.expect("a page")
    }

    async fn newest(&self, topic: &Topic, limits: ReadLimits) -> Newest {
        self.backplane.newest(topic, limits).await.expect("the newest")
    }
}

/// Runs each case over every backplane.
macro_rules! conformance {
    ($($case:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $case() { super::$case(super::BackplaneSubject::memory().await).await; })+
        }
        mod redis {
            $(#[tokio::test] async fn $case() { super::$case(super::BackplaneSubject::redis().await).await; })+
        }
        mod two_shards {
            $(#[tokio::test] async fn $case() { super::$case(super::BackplaneSubject::two_shards().await).await; })+
        }
    };
}

conformance!(
    ids_count_from_zero_without_a_hole,
    arrivals_keep_the_order_of_the_calls,
    messages_without_retention_arrive_without_an_id,
    a_repeated_msg_id_is_published_once,
    a_msg_id_is_remembered_as_long_as_the_rule_says,
    a_private_channel_stays_with_its_message,
    any_user_may_have_a_stream,
    a_page_follows_its_cursor,
    what_cannot_be_proven_is_reported,
    a_topic_without_a_stream_has_a_proven_position,
    a_position_is_deleted_but_publications_are_not,
    trimmed_history_is_reported,
    the_newest_are_returned_oldest_first,
    a_read_is_limited_in_bytes_and_the_next_continues,
    at_least_one_message_is_returned_whatever_its_size,
    heads_are_returned_in_the_requested_order,
    only_followed_topics_arrive,
    following_again_is_confirmed_again,
    each_of_many_concurrent_topics_keeps_its_order,
    a_quiet_topic_loses_its_entries_but_keeps_its_end,
);

fn numbers(messages: &[Arc<Message>]) -> Vec<&str> {
    messages.iter().map(|message| text(message)).collect()
}

fn ids_of(messages: &[Arc<Message>]) -> Vec<StreamId> {
    messages.iter().filter_map(|message| message.id).collect()
}

async fn ids_count_from_zero_without_a_hole(subject: BackplaneSubject) {
    let (orders, rule) = (topic("orders"), retain(100));
    subject.follower.begin(&subject.backplane, &orders).await;
    let published = subject.publish_numbers(&orders, &rule, 5).await;
    let epoch = published[0].epoch;
    assert!((1 << 40..1 << 53).contains(&epoch), "{epoch}");
    assert_eq!(published, (0..5).map(|seq| StreamId::new(epoch, seq)).collect::<Vec<_>>());
    let arrived = subject.follower.has_arrived(&orders, 5).await;
    assert_eq!(ids(&arrived), published);
    let proofs: Vec<_> = arrived.iter().map(|message| message.prev).collect();
    assert_eq!(proofs, [Some(StreamId::ZERO), None, None, None, None]);
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as u64;
    assert!(arrived[0].published_ms.abs_diff(now_ms) < 60_000, "{}", arrived[0].published_ms);
}

async fn arrivals_keep_the_order_of_the_calls(subject: BackplaneSubject) {
    let (orders, rule) = (topic("orders"), retain(2000));
    subject.follower.begin(&subject.backplane, &orders).await;
    let tickets: Vec<_> = (0..1000).map(|n| subject.backplane.publish(number(&orders, &rule, n))).collect();
    let arrived = subject.follower.has_arrived(&orders, 1000).await;
    for (n, message) in arrived.iter().enumerate() {
        assert_eq!(text(message), format!("{{\"n\":{n}}}"));
    }
    let mut published = Vec::new();
    for ticket in tickets {
        published.push(ticket.await.expect("accepted").id.expect("an id"));
    }
    assert_eq!(ids(&arrived), published);
}

async fn messages_without_retention_arrive_without_an_id(subject: BackplaneSubject) {
    let (ticks, rule) = (topic("ticks"), retain(0));
    subject.follower.begin(&subject.backplane, &ticks).await;
    assert_eq!(subject.publish(number(&ticks, &rule, 1)).await, None);
    let arrived = subject.follower.has_arrived(&ticks, 1).await;
    assert_eq!((arrived[0].id, arrived[0].prev, text(&arrived[0])), (None, None, r#"{"n":1}"#));
    let page = subject.read(&ticks, StreamId::ZERO, 10).await;
    assert_eq!((page.messages.len(), page.end), (0, None));
}

async fn a_repeated_msg_id_is_published_once(subject: BackplaneSubject) {
    for rule in [retain(100), retain(0)] {
        let (orders, other) = (topic(&format!("orders{}", rule.retain_max)), topic(&format!("o{}", rule.retain_max)));
        subject.follower.begin(&subject.backplane, &orders).await;
        let publish = |topic: &Topic, n| subject.backplane.publish(named(topic, &rule, n, "a}:s"));
        let first = publish(&orders, 1).await.expect("accepted");
        let again = publish(&orders, 1).await.expect("accepted");
        let reused = publish(&orders, 2).await;
        assert!(matches!(reused, Err(PublishError::Reused)), "{reused:?}");
        let elsewhere = publish(&other, 3).await.expect("accepted");
        assert_eq!((first.duplicate, again.duplicate, elsewhere.duplicate), (false, true, false));
        assert_eq!(first.id, again.id);
        subject.publish(number(&orders, &rule, 4)).await;
        let arrived = subject.follower.has_arrived(&orders, 2).await;
        assert_eq!(arrived.iter().map(text).collect::<Vec<_>>(), [r#"{"n":1}"#, r#"{"n":4}"#]);
    }
}

async fn a_msg_id_is_remembered_as_long_as_the_rule_says(subject: BackplaneSubject) {
    let (long, dedupe_ttl) = (retain(100), Duration::from_secs(1));
    let brief = Arc::new(TopicRule { dedupe_ttl, ..(*long).clone() });
    let (orders, other) = (topic("orders"), topic("other"));
    let publish = async |topic, rule| subject.backplane.publish(named(topic, rule, 1, "m")).await.expect("accepted");
    assert!(!publish(&other, &long).await.duplicate && !publish(&orders, &brief).await.duplicate);
    let again = eventually("it is forgotten", async || {
        Some(publish(&orders, &brief).await).filter(|published| !published.duplicate)
    });
    assert!(again.await.id.is_some());
    assert!(publish(&other, &long).await.duplicate, "the other rule's time is not over");
}

async fn a_private_channel_stays_with_its_message(subject: BackplaneSubject) {
    let stream = Topic::user_stream(&UserId::new("alice").expect("a user"));
    let rule = retain(100);
    subject.follower.begin(&subject.backplane, &stream).await;
    let order = Publication { channel: Some("orders".into()), ..number(&stream, &rule, 1) };
    subject.publish(order).await;
    subject.publish(number(&stream, &rule, 2)).await;
    let arrived = subject.follower.has_arrived(&stream, 2).await;
    let page = subject.read(&stream, StreamId::ZERO, 10).await;
    for (live, kept) in arrived.iter().zip(&page.messages) {
        assert_eq!((live.id, &live.channel, &live.content), (kept.id, &kept.channel, &kept.content));
    }
    assert_eq!(arrived[0].channel.as_deref(), Some("orders"));
    assert_eq!(arrived[1].channel, None);
}

async fn any_user_may_have_a_stream(subject: BackplaneSubject) {
    let rule = retain(100);
    for (n, user) in ["a}b", "{", "x y", "100%", "}:c", "ü"].into_iter().enumerate() {
        let stream = Topic::user_stream(&UserId::new(user).expect("a user"));
        subject.follower.begin(&subject.backplane, &stream).await;
        subject.publish(number(&stream, &rule, n)).await;
        let arrived = subject.follower.has_arrived(&stream, 1).await;
        assert_eq!(text(&arrived[0]), format!("{{\"n\":{n}}}"));
    }
}

async fn a_page_follows_its_cursor(subject: BackplaneSubject) {
    let (orders, rule) = (topic("orders"), retain(100));
    let published = subject.publish_numbers(&orders, &rule, 5).await;
    let start = subject.read(&orders, StreamId::ZERO, 3).await;
    assert_eq!((start.end, start.more), (Some(published[4]), true));
    assert_eq!(numbers(&start.messages), [r#"{"n":0}"#, r#"{"n":1}"#, r#"{"n":2}"#]);
    let rest = subject.read(&orders, published[2], 3).await;
    assert!(!rest.more);
    assert_eq!(numbers(&rest.messages), [r#"{"n":3}"#, r#"{"n":4}"#]);
    let exact = subject.read(&orders, published[1], 3).await;
    assert_eq!((exact.more, exact.messages.len()), (false, 3));
    let head = subject.read(&orders, published[4], 3).await;
    assert_eq!((head.more, head.messages.len()), (false, 0));
    for cursor in [&published[..], &[published[0].previous()]].concat() {
        assert_eq!(subject.lack(&orders, cursor).await, None, "{cursor}");
    }
}

async fn what_cannot_be_proven_is_reported(subject: BackplaneSubject) {
    let (orders, rule) = (topic("orders"), retain(100));
    let published = subject.publish_numbers(&orders, &rule, 3).await;
    let StreamId { epoch, .. } = published[0];
    for cursor in [StreamId::new(epoch, 9), StreamId::new(epoch + 1, 0), StreamId::new(epoch - 1, 5), StreamId::ZERO] {
        assert!(subject.lack(&orders, cursor).await.is_some(), "{cursor}");
    }
    let fork = subject.read(&orders, StreamId::new(epoch - 1, 5), 10).await;
    assert_eq!(fork.messages.len(), 3, "what there is comes all the same");
    let never = subject.read(&topic("never"), StreamId::new(epoch, 0), 10).await;
    assert_eq!((never.end, never.messages.len()), (None, 0));
    assert!(subject.lack(&topic("never"), StreamId::new(epoch, 0)).await.is_some());
}

async fn a_topic_without_a_stream_has_a_proven_position(subject: BackplaneSubject) {
    let (orders, rule) = (topic("orders"), retain(100));
    let anchor = subject.anchor(&orders).await;
    assert_eq!(subject.anchor(&orders).await, anchor);
    assert_eq!(subject.lack(&orders, anchor).await, None);
    let first = subject.publish(number(&orders, &rule, 1)).await.expect("an id");
    assert_eq!(first.previous(), anchor);
    assert_eq!(subject.lack(&orders, anchor).await, None);
    let page = subject.read(&orders, anchor, 10).await;
    assert_eq!((page.messages.len(), page.messages[0].prev), (1, Some(anchor)));
    assert_ne!(subject.anchor(&topic("other")).await, anchor);
}

async fn a_position_is_deleted_but_publications_are_not(subject: BackplaneSubject) {
    let (quiet, orders, rule) = (topic("quiet"), topic("orders"), retain(100));
    let before = subject.anchor(&quiet).await;
    subject.anchor(&orders).await;
    let published = subject.publish(number(&orders, &rule, 1)).await.expect("an id");
    let topics = [quiet.clone(), orders.clone(), topic("never")];
    subject.backplane.forget(&topics).await.expect("forgotten");
    let heads = subject.backplane.heads(&topics).await;
    let heads: Vec<_> = heads.into_iter().map(|head| head.expect("a head")).collect();
    assert_eq!(heads, [None, Some(published), None]);
    assert!(subject.anchor(&quiet).await > before, "never the same one again");
}

async fn trimmed_history_is_reported(subject: BackplaneSubject) {
    let (orders, rule) = (topic("orders"), retain(10));
    let count = 1000;
    let published = subject.publish_numbers(&orders, &rule, count).await;
    let all = subject.read(&orders, StreamId::ZERO, count).await;
    assert!(subject.lack(&orders, published[0].previous()).await.is_some());
    assert!(all.messages.len() >= 10 && all.messages.len() < count, "{}", all.messages.len());
    let first = all.messages[0].id.expect("an id");
    let at = published.iter().position(|id| *id == first).expect("published");
    assert_eq!(subject.lack(&orders, published[at - 1]).await, None, "trimmed exactly there");
    assert!(subject.lack(&orders, published[at - 2]).await.is_some());
}

async fn the_newest_are_returned_oldest_first(subject: BackplaneSubject) {
    let (orders, rule) = (topic("orders"), retain(100));
    let newest = async |limit| subject.newest(&orders, ReadLimits::new(limit, usize::MAX)).await.messages;
    assert!(newest(3).await.is_empty());
    subject.publish_numbers(&orders, &rule, 5).await;
    assert_eq!(numbers(&newest(2).await), [r#"{"n":3}"#, r#"{"n":4}"#]);
    assert_eq!(newest(100).await.len(), 5);
}

async fn a_read_is_limited_in_bytes_and_the_next_continues(subject: BackplaneSubject) {
    const COUNT: usize = 700;
    let (orders, rule) = (topic("orders"), retain(1000));
    let published = subject.publish_numbers(&orders, &rule, COUNT).await;
    let bytes = |messages: &[Arc<Message>]| messages.iter().map(|message| message.payload_bytes()).sum::<usize>();
    let limits = ReadLimits::new(500, 3_000);
    let (mut cursor, mut read) = (StreamId::ZERO, Vec::new());
    loop {
        let page = subject.read_within(&orders, cursor, limits).await;
        assert!(bytes(&page.messages) <= limits.bytes_max, "{}", bytes(&page.messages));
        assert!(!page.more || page.messages.len() > 200, "as many as fit: {}", page.messages.len());
        read.extend(ids_of(&page.messages));
        cursor = *read.last().expect("a message");
        if !page.more {
            break;
        }
    }
    assert_eq!(read, published);
    let newest = subject.newest(&orders, limits).await;
    assert!(!newest.whole && newest.messages.len() > 200 && bytes(&newest.messages) <= limits.bytes_max);
    assert!(published.ends_with(&ids_of(&newest.messages)));
    for limit in [1, 64, 65, 192, 500, 699, 700, 701] {
        let limits = ReadLimits::new(limit, usize::MAX);
        let (page, newest) =
            (subject.read_within(&orders, StreamId::ZERO, limits).await, subject.newest(&orders, limits).await);
        assert_eq!(ids_of(&page.messages), published[..limit.min(COUNT)], "{limit}");
        assert_eq!((page.more, newest.whole), (limit < COUNT, true), "{limit}");
        assert_eq!(ids_of(&newest.messages), published[COUNT.saturating_sub(limit)..], "{limit}");
    }
}

async fn at_least_one_message_is_returned_whatever_its_size(subject: BackplaneSubject) {
    let (orders, rule) = (topic("orders"), retain(100));
    let published = subject.publish_numbers(&orders, &rule, 3).await;
    let limits = ReadLimits::new(10, 1);
    let page = subject.read_within(&orders, published[0], limits).await;
    assert_eq!((ids_of(&page.messages), page.more), (vec![published[1]], true));
    let newest = subject.newest(&orders, limits).await;
    assert_eq!((ids_of(&newest.messages), newest.whole), (vec![published[2]], false));
}

async fn heads_are_returned_in_the_requested_order(subject: BackplaneSubject) {
    let rule = retain(100);
    let topics: Vec<_> = (0..600).map(|n| topic(&format!("t{n}"))).collect();
    let (first, last) = (topics[0].clone(), topics[599].clone());
    let last_head = subject.publish_numbers(&last, &rule, 3).await[2];
    let first_head = subject.publish_numbers(&first, &rule, 1).await[0];
    let heads: Vec<_> = subject.backplane.heads(&topics).await.into_iter().map(|head| head.expect("a head")).collect();
    assert_eq!((heads.len(), heads[0], heads[599]), (600, Some(first_head), Some(last_head)));
    assert!(heads[1..599].iter().all(Option::is_none));
}

async fn only_followed_topics_arrive(subject: BackplaneSubject) {
    let (followed, other, rule) = (topic("followed"), topic("other"), retain(100));
    subject.follower.begin(&subject.backplane, &followed).await;
    subject.publish(number(&other, &rule, 1)).await;
    subject.publish(number(&followed, &rule, 2)).await;
    subject.follower.has_arrived(&followed, 1).await;
    assert!(subject.follower.arrived(&other).is_empty());
}

async fn following_again_is_confirmed_again(subject: BackplaneSubject) {
    let (orders, rule) = (topic("orders"), retain(100));
    for _ in 0..20 {
        subject.follower.begin(&subject.backplane, &orders).await;
        subject.backplane.unfollow(&orders);
    }
    subject.follower.begin(&subject.backplane, &orders).await;
    subject.publish(number(&orders, &rule, 1)).await;
    subject.follower.has_arrived(&orders, 1).await;
    let confirmed = OwnedEvent::Confirmed("orders".to_owned());
    assert_eq!(subject.follower.told().iter().filter(|told| **told == confirmed).count(), 21);
}

/// The rule of topics that are retained for a second.
fn brief() -> Arc<TopicRule> {
    let (pattern, retain_ttl) = (Pattern::new("brief").expect("a pattern"), Duration::from_secs(1));
    Arc::new(TopicRule { pattern, retain_ttl, ..(*retain(100)).clone() })
}

async fn a_quiet_topic_loses_its_entries_but_keeps_its_end(subject: BackplaneSubject) {
    let (quiet, rule) = (topic("brief"), brief());
    subject.follower.begin(&subject.backplane, &quiet).await;
    let before = subject.publish_numbers(&quiet, &rule, 2).await;
    let forgotten = async {
        while !subject.newest(&quiet, ReadLimits::ONE).await.messages.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, forgotten).await.expect("the entries are forgotten");
    assert_eq!(subject.lack(&quiet, before[1]).await, None, "nothing is missing");
    assert!(subject.lack(&quiet, before[0]).await.is_some());
    let after = subject.publish(number(&quiet, &rule, 3)).await.expect("an id");
    assert_eq!(after, before[1].next());
    assert_eq!(subject.lack(&quiet, before[1]).await, None);
}

async fn each_of_many_concurrent_topics_keeps_its_order(subject: BackplaneSubject) {
    const TOPICS: usize = 40;
    let (rule, topics) = (retain(100), (0..TOPICS).map(|n| topic(&format!("many:{n}"))).collect::<Vec<_>>());
    for topic in &topics {
        subject.follower.begin(&subject.backplane, topic).await;
    }
    let publish = |n: usize| {
        let topic = &topics[n % TOPICS];
        // Some with a msg_id: those are sent differently.
        let publication =
            if n.is_multiple_of(7) { named(topic, &rule, n, &format!("m{n}")) } else { number(topic, &rule, n) };
        subject.backplane.publish(publication)
    };
    let tickets: Vec<_> = (0..TOPICS * 25).map(publish).collect();
    for ticket in tickets {
        ticket.await.expect("accepted");
    }
    let heads = subject.backplane.heads(&topics).await;
    for (at, (topic, head)) in topics.iter().zip(heads).enumerate() {
        let arrived = subject.follower.has_arrived(topic, 25).await;
        let expected: Vec<_> = (0..25).map(|round| format!("{{\"n\":{}}}", round * TOPICS + at)).collect();
        assert_eq!(arrived.iter().map(text).collect::<Vec<_>>(), expected, "{topic}");
        let first = arrived[0].id.expect("an id");
        assert_eq!(ids(&arrived), (0..25).map(|seq| StreamId::new(first.epoch, seq)).collect::<Vec<_>>());
        assert_eq!(head.expect("a head"), Some(StreamId::new(first.epoch, 24)));
        assert!(subject.backplane.history(topic).generation > 0);
    }
    for server in &subject.servers {
        assert!(server.run::<usize>(&["DBSIZE"]).await > TOPICS / 4, "each server has its share");
    }
}
