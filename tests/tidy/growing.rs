//! Every collection that can grow and outlives a call has a bound: a new queue or table fails the test until it names its
//! row of SECURITY.md. Vectors are not checked, unless a lock guards them: most live for one call.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    bounds::bounds_of_the_table,
    nothing,
    source::{SourceFile, sources},
};

/// Types that hold as many items as are put in.
const TYPES: [&str; 12] = [
    "VecDeque<",
    "HashMap<",
    "HashSet<",
    "BTreeMap<",
    "BTreeSet<",
    "IndexMap<",
    "IndexSet<",
    "BinaryHeap<",
    "FuturesUnordered<",
    "JoinSet<",
    "Mutex<Vec<",
    "RwLock<Vec<",
];
/// What is read once, or runs as a command of its own.
const LEFT_OUT: [&str; 3] = ["cli/", "config/", "crates/"];

// What bounds a collection that has no row of its own.
const CONNECTIONS: &str = "limits.connections_max";
const TOPICS: &str = "hub.topics_max";
const UNPUBLISHED: &str = "hub.unpublished_topics_max";
/// Written by whoever runs the gateway.
const CONFIGURATION: &str = "the configuration";
/// As many as an operator runs.
const REPLICAS: &str = "the replicas of a deployment";
/// Bounded by what it is read from or written for, and gone with it.
const ONE_CALL: &str = "one call";
const OTHERS: [&str; 3] = [CONFIGURATION, REPLICAS, ONE_CALL];

/// Every collection, and its bound: a row of the table, or one of the words above.
const BOUNDS: &[(&str, &str)] = &[
    ("api/status.rs ReplicaSummary.user_connections", ONE_CALL),
    ("api/stream.rs PendingResults.under_way", "src/api/stream.rs UNDER_WAY_MAX"),
    ("api/throttle.rs Throttle.buckets", "src/api/throttle.rs THROTTLED_MAX"),
    ("audit.rs SampledLines.pairs", "src/audit.rs PAIRS_MAX"),
    ("auth/mint.rs MintedClaims.user", ONE_CALL),
    ("backplane/channel.rs KeptMessages.messages", "limits.replay_entries_max"),
    ("backplane/memory.rs Results.ends", "src/backplane/memory.rs DEDUPE_MAX"),
    ("backplane/memory.rs Results.ids", "src/backplane/memory.rs DEDUPE_MAX"),
    ("backplane/memory.rs MemoryState.events", "src/backplane/memory.rs EVENTS_MAX"),
    ("backplane/memory.rs MemoryState.followed", TOPICS),
    ("backplane/memory.rs MemoryState.streams", "src/backplane/memory.rs TOPICS_MAX"),
    ("backplane/memory.rs MemoryStream.entries", "src/backplane/memory.rs BYTES_MAX"),
    ("backplane/redis/generation.rs GenerationStart.accounted", REPLICAS),
    ("backplane/redis/generation.rs GenerationStart.ends", REPLICAS),
    ("backplane/redis/generation.rs GenerationStart.needed", REPLICAS),
    ("backplane/redis/generation.rs GenerationStart.vouched", REPLICAS),
    ("backplane/redis/generation.rs MemberEntry.heirs", REPLICAS),
    ("backplane/redis/generation.rs GenerationState.lost", "src/backplane/redis/generation.rs LOST_MAX"),
    ("backplane/redis/generation.rs GenerationState.members", REPLICAS),
    ("backplane/redis/handover.rs ReceivedHandovers.members", REPLICAS),
    ("backplane/redis/lane.rs LaneTask.flying", "src/backplane/redis/lane.rs FLYING_MAX"),
    ("backplane/redis/ledger.rs TopicLedger.old", "src/backplane/redis/ledger.rs TOPICS_MAX"),
    ("backplane/redis/ledger.rs TopicLedger.young", "src/backplane/redis/ledger.rs TOPICS_MAX"),
    ("backplane/redis/roster.rs MemberMemory.heirs", REPLICAS),
    ("backplane/redis/roster.rs MemberMemory.seen", REPLICAS),
    ("backplane/redis/roster.rs MemberMemory.view", REPLICAS),
    ("backplane/redis/seen.rs KnownBeats", REPLICAS),
    ("backplane/redis/seen.rs BeatResponse.beats", REPLICAS),
    ("connection/address/limits.rs AddressTable.entries", CONNECTIONS),
    ("connection/ended_users.rs EndedUsers", "src/connection/ended_users.rs KEPT_MAX"),
    ("connection/replica.rs UserBuckets", CONNECTIONS),
    ("connection/spares.rs SpareConnections.taken", "src/app.rs src/descriptors.rs"),
    ("connection/table.rs ConnectionTable.parts", CONNECTIONS),
    ("connection/wheel.rs TimerWheel.slots", CONNECTIONS),
    ("fairness.rs Rounds.last", TOPICS),
    ("feeds/binance.rs FeedShared.others", CONFIGURATION),
    ("feeds/binance.rs FeedShared.requested", "src/feeds/binance.rs REQUESTED_MAX"),
    ("feeds/binance/control.rs StreamControl.again", "src/feeds/binance.rs REQUESTED_MAX"),
    ("feeds/binance/control.rs StreamControl.requested", "src/feeds/binance.rs REQUESTED_MAX"),
    ("feeds/binance/demand.rs Demand.followed", "src/feeds/binance.rs REQUESTED_MAX"),
    ("feeds/binance/demand.rs Demand.refused", "src/feeds/binance.rs REQUESTED_MAX"),
    ("feeds/binance/demand.rs SymbolRules.fixed", CONFIGURATION),
    ("feeds/binance/following.rs Following.stopped", "src/feeds/binance.rs REQUESTED_MAX"),
    ("feeds/binance/following.rs Following.streams", "src/feeds/binance.rs REQUESTED_MAX"),
    ("feeds/binance/holder.rs Holder.lookups", "src/feeds/binance/holder.rs REQUESTS_MAX"),
    ("feeds/binance/holder.rs Holder.requests", "src/feeds/binance/holder.rs REQUESTS_MAX"),
    ("feeds/binance/ladder.rs Ladder.attempts", "src/feeds/binance.rs REQUESTED_MAX"),
    ("feeds/binance/ladder.rs Remedies.streams", "src/feeds/binance.rs REQUESTED_MAX"),
    ("feeds/binance/listing.rs SymbolListing.statuses", ONE_CALL),
    ("feeds/binance/market.rs FollowedSymbols.symbols", "src/feeds/binance.rs REQUESTED_MAX"),
    ("feeds/binance/outgoing.rs FeedQueue.trades", "src/feeds/binance.rs REQUESTED_MAX"),
    ("feeds/binance/outgoing.rs FeedQueue.under_way", "src/feeds/binance.rs REQUESTED_MAX"),
    ("feeds/binance/outgoing.rs FeedQueue.values", "src/feeds/binance.rs REQUESTED_MAX"),
    ("feeds/binance/outgoing.rs Trades.queue", "src/feeds/binance/outgoing.rs QUEUE_MAX"),
    ("feeds/binance/tape.rs Tape.held", "src/feeds/binance/tape.rs HELD_MAX"),
    ("history.rs Generations.lost", "src/backplane/redis/generation.rs LOST_MAX"),
    ("hub/follow.rs RetryQueue.places", TOPICS),
    ("hub/follow.rs RetryQueue.waiting", TOPICS),
    ("hub/abandoned.rs AbandonedState.sizes", "src/hub/abandoned.rs LEFT_MAX"),
    ("hub/abandoned.rs AbandonedState.topics", "src/hub/abandoned.rs LEFT_MAX"),
    ("hub/abandoned.rs AbandonedState.waiting", "src/hub/abandoned.rs LEFT_MAX"),
    ("hub/linger.rs LingerQueue.waiting", TOPICS),
    ("hub/subscriber.rs FormGroup.subscribers", CONNECTIONS),
    ("hub/new_topics.rs NewTopicState.addresses", "src/hub/new_topics.rs NAMING_ADDRESSES_MAX"),
    ("hub/pages.rs RecentPages", "src/hub/pages.rs PAGES_MAX"),
    ("hub/queue.rs OutboxQueue.public", "limits.outbox_messages_max"),
    ("hub/queue.rs OutboxQueue.urgent", "limits.outbox_messages_max"),
    ("hub/ring.rs Ring.messages", "hub.ring_messages_max"),
    ("hub/shard.rs ShardRound.paced", TOPICS),
    ("hub/shard.rs Shard.inbox", TOPICS),
    ("hub/table.rs TopicTable", TOPICS),
    ("hub/topic_shard.rs TopicShard.subscribers", CONNECTIONS),
    ("hub/turns.rs TurnTable.order", CONNECTIONS),
    ("hub/turns.rs TurnTable.readers", CONNECTIONS),
    ("hub/turns.rs ReaderUsage.waiting", CONNECTIONS),
    ("hub/unpublished.rs AddressTopics.topics", UNPUBLISHED),
    ("hub/unpublished.rs AddressTopics.trials", "src/hub/unpublished.rs TRIALS_MAX"),
    ("hub/unpublished.rs UnpublishedState.owners", UNPUBLISHED),
    ("hub/unpublished.rs UnpublishedState.sizes", UNPUBLISHED),
    ("hub/withdraw.rs WithdrawnTopics.waiting", UNPUBLISHED),
    ("hub/work_queue.rs WorkQueueState.turns", TOPICS),
    ("hub/work_queue.rs WorkQueueState.under_way", TOPICS),
    ("hub/work_queue.rs WorkQueueState.waiting", TOPICS),
    ("metrics/process.rs COUNTING", REPLICAS),
    ("redis_link/mod.rs LinkShared.scripts", ONE_CALL),
    ("redis_link/subscriptions.rs ChannelSubscriptions.controls", ONE_CALL),
    ("redis_link/subscriptions.rs ChannelTable.channels", TOPICS),
    ("redis_link/subscriptions.rs ChannelTable.given_up", TOPICS),
    ("redis_link/subscriptions.rs ChannelTable.wanted", TOPICS),
    ("registry/memory.rs RegistryState.connections", CONNECTIONS),
    ("registry/memory.rs RegistryState.ends", "src/registry/memory.rs LEFT_MAX"),
    ("registry/memory.rs RegistryState.records", "src/registry/memory.rs LEFT_MAX"),
    ("registry/memory.rs RegistryState.ticket_order", "src/registry/memory.rs TICKETS_MAX"),
    ("registry/memory.rs RegistryState.tickets", "src/registry/memory.rs TICKETS_MAX"),
    ("registry/memory.rs RegistryState.users", CONNECTIONS),
    ("registry/presence.rs TopicAudience.users", CONNECTIONS),
    ("registry/redis/batch.rs ShardBatch.index", ONE_CALL),
    ("registry/redis/batch.rs ShardBatch.unindex", ONE_CALL),
    ("registry/redis/control.rs KeptInstructions.sessions", ONE_CALL),
    ("registry/redis/control.rs KeptInstructions.users", ONE_CALL),
    ("registry/redis/followers.rs TopicSessions.sessions", CONNECTIONS),
    ("registry/redis/followers.rs TopicSessions.topics", "limits.subscriptions_max"),
    ("registry/redis/followers.rs SessionSet.Many", CONNECTIONS),
    ("registry/redis/inquiry.rs Inquiries.waiting", "src/api/mod.rs REQUESTS_MAX"),
    ("registry/redis/leases.rs LeaseTable.buckets", CONNECTIONS),
    ("registry/redis/profiles.rs Profiles", CONFIGURATION),
    ("registry/redis/left.rs LeftRecords", "src/registry/redis/left.rs LEFT_MAX"),
    ("registry/redis/mod.rs RedisRegistryShared.held", CONFIGURATION),
    ("registry/redis/own_count.rs OwnCount.limits", CONFIGURATION),
    ("registry/redis/own_count.rs OwnCount.parts", CONNECTIONS),
    ("registry/redis/own_count.rs OwnCount.replacing", CONNECTIONS),
    ("registry/redis/presence.rs Questions.recent", "src/registry/redis/presence.rs CACHE_MAX"),
    ("registry/redis/presence.rs Questions.waiting", "src/registry/redis/presence.rs WAITING_MAX"),
    ("registry/revocations.rs Revocations", "src/registry/revocations.rs KEPT_MAX"),
    ("registry/standings.rs Standings", "src/registry/revocations.rs KEPT_MAX"),
];

#[test]
fn whatever_grows_has_a_bound_in_the_table() {
    let rows = bounds_of_the_table();
    let known: BTreeMap<_, _> = BOUNDS.iter().copied().collect();
    let found: BTreeSet<_> = own_sources().iter().flat_map(collections).collect();
    let mut wrong = Vec::new();
    for name in found.iter().filter(|name| !known.contains_key(name.as_str())) {
        wrong.push(format!("{name} can grow, and growing.rs does not say what bounds it"));
    }
    for name in known.keys().filter(|name| !found.contains(**name)) {
        wrong.push(format!("growing.rs: {name} is not there"));
    }
    for (name, bound) in BOUNDS.iter().filter(|(_, bound)| !rows.contains(*bound) && !OTHERS.contains(bound)) {
        wrong.push(format!("growing.rs: {name}: {bound} is not a row of SECURITY.md"));
    }
    nothing(wrong);
}

#[test]
fn every_channel_takes_as_many_as_a_row_of_the_table_says() {
    let rows = bounds_of_the_table();
    let mut wrong = Vec::new();
    for source in own_sources() {
        for call in source.code().split("channel(").skip(1).filter(|call| !call.starts_with(')')) {
            let size = call.split([')', ' ']).next().unwrap_or_default();
            let name = size.rsplit("::").next().unwrap_or(size);
            // `presence::ASKED_MAX` is that of `presence.rs` beside the file.
            let file = size.split_once("::").map_or_else(
                || format!("src/{}", source.path),
                |(module, _)| {
                    let folder = source.path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    format!("src/{folder}/{module}.rs")
                },
            );
            let is_bound = size == "1" || rows.contains(&format!("{file} {name}"));
            // A `watch` holds one value, whatever that is.
            if !is_bound && name.ends_with(|last: char| last.is_ascii_uppercase() || last.is_ascii_digit()) {
                wrong.push(format!("{}: no row of SECURITY.md bounds a channel of {size}", source.path));
            }
        }
    }
    nothing(wrong);
}

#[test]
fn collections_are_found_in_fields_and_statics() {
    let text = "/// A HashMap<A, B>.\nstruct Own {\n    /// Not a VecDeque<u8>.\n    by_name: Mutex<HashMap<String, u8>>,\n    \
                list: Vec<u8>,\n}\npub(super) struct Few(VecDeque<u8>);\nfn f() {\n    let all: HashMap<u8, u8> = g();\n}\n\
                enum Kind {\n    One,\n    Many(BTreeSet<u8>),\n}\nstatic ALL: Mutex<Vec<u8>> = Mutex::new(Vec::new());\n";
    let found = collections(&SourceFile::of("own.rs", text));
    assert_eq!(found, ["own.rs Own.by_name", "own.rs Few", "own.rs Kind.Many", "own.rs ALL"]);
}

fn own_sources() -> Vec<SourceFile> {
    let is_own =
        |source: &SourceFile| !source.is_test && !LEFT_OUT.iter().any(|folder| source.path.starts_with(folder));
    sources().into_iter().filter(is_own).collect()
}

/// `hub/turns.rs TurnTable.order`, for every field or static of such a type.
fn collections(source: &SourceFile) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), None);
    for line in source.code().lines() {
        let indent = line.len() - line.trim_start().len();
        let words: Vec<_> =
            line.trim_start().split([' ', ':', '(', '<', ';']).filter(|word| !word.is_empty()).collect();
        let grows = TYPES.iter().any(|of| line.contains(of));
        let named = |keyword: &str| {
            let at = words.iter().take(4).position(|word| *word == keyword)?;
            words.get(at + 1).map(|name| (*name).to_owned())
        };
        if let Some(name) = named("struct").or_else(|| named("enum")) {
            if line.ends_with('{') {
                open = Some((indent, name));
            } else if grows {
                found.push(format!("{} {name}", source.path));
            }
        } else if let (Some(name), true) = (named("static"), grows) {
            found.push(format!("{} {name}", source.path));
        } else if open.as_ref().is_some_and(|(at, _)| *at == indent && line.trim() == "}") {
            open = None;
        } else if let (Some((_, own)), true) = (&open, grows) {
            let is_public = |word: &&&str| ["pub", "super)", "crate)"].contains(*word);
            let field = words.iter().find(|word| !is_public(word)).copied().unwrap_or_default();
            found.push(format!("{} {own}.{field}", source.path));
        }
    }
    found
}
