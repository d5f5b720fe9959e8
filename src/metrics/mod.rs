//! All metrics, declared once in one table. Base units; handles are fields, resolved at start, so counting is one
//! atomic addition. Labels never contain a user, symbol or connection, and the process-wide registry is not used:
//! several replicas run in one test process.

use std::sync::Arc;

use prometheus::{Gauge, Histogram, IntCounter, IntGauge, Registry, TextEncoder};

mod allocator;
mod endpoint;
mod family;
mod held;
mod labels;
mod named;
mod process;
mod resources;

pub use endpoint::EndpointFigures;
pub use family::{Family, PerEndpoint, Sparse};
pub use held::GaugeGuard;
pub use labels::{
    AuthFailure, BadFrame, CodeLabel, DisconnectReason, FeedData, FeedEnd, FeedFrame, FeedState, GapLabel,
    HandshakeResult, KeyUse, LinkLabel, PublicationClass, PublicationSource, PublishResult, RateScope, RedisCommand,
    RedisError, ReloadResult, ReplayResult, RouteLabel, ShownCertificate, StatusClass, TlsHandshake, TopicClass,
    WorkQueueKind,
};
pub use named::{ByKey, ByTopicRule, NamedGauge};
pub use process::{count_panics, watch_event_loop};

use family::{Declared, MetricSpec};

/// For durations that clients or publishers observe: half a millisecond to ten seconds.
const LATENCY: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// For work inside the replica: ten microseconds to one second.
const WORK: &[f64] = &[0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0];
/// For the age of connections: a second to a day.
const AGES: &[f64] = &[1.0, 10.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0];
/// For the number of frames passed to the kernel in one call.
const BATCH: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// A metric as documented.
#[derive(Clone, Debug)]
pub struct Described {
    /// Full name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Label names with their possible values.
    pub labels: Vec<(&'static str, Vec<&'static str>)>,
    /// One sentence.
    pub help: &'static str,
}

/// Generates the struct, its constructor and its description from the table. A field's name is the metric's name
/// without the prefix, so that a search for either finds both.
macro_rules! metrics {
    ($($name:ident: $type:ty $([$buckets:ident])? = $help:literal;)+) => {
        /// All metrics of one replica.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $(#[doc = $help] pub $name: $type,)+
        }

        impl Metrics {
            fn declare(registry: Registry) -> Self {
                $(let $name = <$type>::declare(&registry, &MetricSpec {
                    name: concat!("tickgate_", stringify!($name)),
                    help: $help,
                    buckets: metrics!(@buckets $($buckets)?),
                });)+
                Self { registry, $($name,)+ }
            }

            /// All metrics with the prefix, in the order of the table.
            #[must_use]
            pub fn describe() -> Vec<Described> {
                vec![$(Described {
                    name: concat!("tickgate_", stringify!($name)),
                    kind: <$type>::KIND,
                    labels: <$type>::labels(),
                    help: $help,
                },)+]
            }
        }
    };
    (@buckets) => { &[] };
    (@buckets $buckets:ident) => { $buckets };
}

metrics! {
    connections: PerEndpoint<(), IntGauge> = "Open connections of this replica.";
    connections_max: IntGauge = "Maximum number of open connections.";
    tls_handshakes_total: Family<TlsHandshake, IntCounter> = "TLS handshakes of the listeners, by outcome; 0 if neither has TLS.";
    certificate_expires_timestamp_seconds: Sparse<ShownCertificate> = "When a certificate that this replica presents expires, in seconds since 1970; absent without TLS.";
    handshakes_total: Family<HandshakeResult, IntCounter> = "WebSocket handshakes by outcome.";
    handshake_duration_seconds: Histogram [LATENCY] = "Time from a complete request head to an admitted connection.";
    connection_duration_seconds: PerEndpoint<(), Histogram> [AGES] = "Time from a connection's admission to its end.";
    disconnects_total: Family<DisconnectReason, IntCounter> = "Connections that ended, by reason.";
    close_frames_total: Family<CodeLabel, IntCounter> = "Close frames sent, by code.";
    users: IntGauge = "Users with a connection to this replica; sampled every five seconds.";
    outbox_bytes: IntGauge = "Bytes queued for all sockets of this replica; sampled every five seconds.";
    outbox_bytes_highest: IntGauge = "Bytes queued for the socket with the longest queue; sampled every five seconds.";
    subscriptions: ByTopicRule = "Subscriptions of this replica.";
    topics: IntGauge = "Topics that this replica follows.";
    unpublished_topics: IntGauge = "Of these, topics without any known publication; sampled every second.";
    topics_withdrawn_total: IntCounter = "Topics without publications that were unfollowed, or not followed, because their limit was reached.";
    messages_received_total: IntCounter = "Messages received from clients.";
    received_bytes_total: IntCounter = "Bytes of messages received from clients.";
    errors_total: Family<CodeLabel, IntCounter> = "Error messages sent to clients, by code.";

    publications_total: Family<(PublicationSource, PublicationClass, PublishResult), IntCounter> = "Publications sent to this replica, by the class of their topic.";
    deliveries_total: PerEndpoint<TopicClass, IntCounter> = "Publications queued for subscribers, one per subscriber.";
    sent_bytes_total: IntCounter = "Bytes written to clients.";
    writes_total: IntCounter = "Writes to clients: one system call each.";
    frames_per_write: Histogram [BATCH] = "Frames or batches of frames passed to the kernel in one call, if more than one.";
    conflated_total: PerEndpoint<(), IntCounter> = "Values of state topics that a client did not receive because a newer one followed.";
    dropped_total: PerEndpoint<(), IntCounter> = "Messages of event topics dropped for slow clients.";
    lagged_total: PerEndpoint<TopicClass, IntCounter> = "Subscriptions that exceeded their outbox and caught up from the stream.";
    gaps_total: PerEndpoint<(TopicClass, GapLabel), IntCounter> = "Gap notices sent to clients: the only way in which messages can be missing.";
    slow_consumers: PerEndpoint<(), IntGauge> = "Connections that skip values or catch up now, because their client reads too slowly.";
    delivery_latency_seconds: PerEndpoint<TopicClass, Histogram> [LATENCY] = "Time from a publication's acceptance by \
        a replica to its write to a socket (sampled); between two replicas it includes their clock difference.";
    fan_out_duration_seconds: Histogram [WORK] = "Time to queue one publication for all its subscribers.";

    replay_requests_total: Family<ReplayResult, IntCounter> = "Requests for missed messages, by the source that answered them.";
    replayed_messages_total: IntCounter = "Messages replayed to clients.";
    replay_duration_seconds: Histogram [LATENCY] = "Time from a request for missed messages until they are read.";

    redis_up: Sparse<LinkLabel> = "1 while the link to Redis works; absent without Redis.";
    redis_sentinels: IntGauge = "Sentinels that answer; 0 without sentinels.";
    redis_sentinels_doubt: IntGauge = "1 while the sentinels name no primary that can be trusted.";
    redis_primary_moves_total: IntCounter = "Changes of the primary that the sentinels named.";
    redis_reconnects_total: Family<LinkLabel, IntCounter> = "Reconnections to Redis.";
    redis_errors_total: Family<RedisError, IntCounter> = "Failures of Redis, by kind.";
    redis_publish_duration_seconds: Histogram [LATENCY] = "Time from sending a publication to Redis to its response.";
    redis_command_duration_seconds: Family<RedisCommand, Histogram> [LATENCY] = "Time from sending a command or pipeline to Redis to its response, by purpose.";
    redis_canary_seconds: Histogram [LATENCY] = "Round trip of the canary through Redis pub/sub.";
    redis_clock_skew_seconds: Gauge = "This replica's clock minus Redis's, measured every second; 0 before the first \
        measurement and without Redis.";
    redis_pool_wait_seconds: Histogram [LATENCY] = "Time history reads wait for a connection of the pool.";
    redis_memory_used_bytes: IntGauge = "Memory that Redis uses for data and buffers; sampled every five seconds, 0 without Redis.";
    redis_memory_max_bytes: IntGauge = "Redis's maxmemory; 0 without a limit or without Redis.";
    redis_persistence_ok: IntGauge = "0 while Redis's last write to its append-only file, or its last snapshot, failed.";
    redis_blocked_clients: IntGauge = "Redis clients that wait in a blocking command; sampled every five seconds.";
    redis_replicas: IntGauge = "Replicas connected to Redis; sampled every five seconds.";
    redis_replication_lag_seconds: IntGauge = "Time since Redis last heard from the replica that is furthest behind; sampled every five seconds.";
    fills_total: IntCounter = "Holes in received publications that were filled from the topic's stream.";
    work_queue_depth: Family<WorkQueueKind, IntGauge> = "Topics that wait to be compared with their stream, or to be read; sampled every second.";
    work_queue_oldest_seconds: Family<WorkQueueKind, Gauge> = "How long the first topic in the queue has waited; sampled every second.";
    topics_behind: IntGauge = "Topics with subscribers that are not in sync with their stream, because a comparison \
        or read is pending; sampled every five seconds.";
    stream_lag_messages: IntGauge = "Known number of messages by which the topic furthest behind its stream lags; sampled every five seconds.";
    generation_changes_total: IntCounter = "Times that a different Redis server responded than before.";
    lost_publications_total: IntCounter = "Acknowledged publications that Redis lost, as detected by this replica.";
    sessions_swept_total: IntCounter = "Sessions of dead replicas that this replica removed.";
    replicas: IntGauge = "Live replicas as this one sees them; aggregate with max, not sum.";

    feed_enabled: IntGauge = "1 if the feed of an exchange is configured.";
    feed_holder: IntGauge = "1 on the replica that publishes the feed.";
    feed_status: Family<FeedState, IntGauge> = "1 for the current state of the feed, on the replica that publishes it.";
    feed_frames_total: Family<FeedFrame, IntCounter> = "Frames from the exchange, by what they contain.";
    feed_bad_frames_total: Family<BadFrame, IntCounter> = "Frames from the exchange that cannot be used, by reason.";
    feed_frames_dropped_total: IntCounter = "Frames dropped because they arrived faster than they were processed; \
        missing trades among them are fetched or reported.";
    feed_data_timestamp_seconds: Family<FeedData, IntGauge> = "When data of each kind was last received from the exchange, in seconds since 1970; 0 before the first time.";
    feed_latency_seconds: Histogram [LATENCY] = "Time from the exchange's timestamp of a trade event to its arrival; \
        includes the clock difference, and is 0 if that is negative.";
    feed_reconnects_total: Family<FeedEnd, IntCounter> = "Connections to the exchange that ended or could not be opened, by reason.";
    feed_rotations_total: IntCounter = "Connections to the exchange that were replaced before they ended.";
    feed_resubscriptions_total: IntCounter = "Streams resubscribed because they were silent.";
    feed_repeats_total: IntCounter = "Duplicate trades that were dropped.";
    feed_backfilled_total: IntCounter = "Missed trades that were fetched later.";
    feed_gaps_total: IntCounter = "Gaps in trades that were reported.";
    feed_missing_trades_total: IntCounter = "Trades in the reported gaps.";
    feed_rest_weight: IntGauge = "Weight of requests to the exchange in the current minute.";
    feed_symbols: IntGauge = "Followed symbols.";
    feed_symbols_stale: IntGauge = "Followed symbols whose last values may be out of date.";
    feed_symbols_unknown: IntGauge = "Requested symbols for which the exchange has no data.";
    feed_symbols_refused: IntGauge = "Requested symbols beyond feeds.binance.symbols_max.";
    feed_symbols_skipped: IntGauge = "Symbols of the exchange that cannot be part of a topic name.";
    feed_streams: IntGauge = "Streams required by the followed symbols.";
    feed_streams_live: IntGauge = "Streams that have delivered data on the current connection.";
    feed_recording_dropped_total: IntCounter = "Items missing from the recording because the disk was too slow or failed.";

    tokens_accepted_total: IntCounter = "Accepted tokens: in handshakes, in messages, and for tickets.";
    auth_failures_total: Family<AuthFailure, IntCounter> = "Refused tokens and keys, by reason.";
    key_set_failures_total: IntCounter = "Failed fetches of the key set; the last good keys stay in use.";
    key_set_fetched_timestamp_seconds: IntGauge = "When the key set was last fetched, in seconds since 1970; 0 before the first time and without a key set.";
    api_key_requests_total: ByKey = "Requests to the API and producers at /ws/ingest by key, and the publications refused to each key.";
    rate_limited_total: Family<RateScope, IntCounter> = "Requests and messages refused by a rate limit.";
    http_requests_total: Family<(RouteLabel, StatusClass), IntCounter> = "Plain HTTP requests.";
    http_request_duration_seconds: Family<RouteLabel, Histogram> [LATENCY] = "Time from a request to the head of its response.";
    reloads_total: Family<ReloadResult, IntCounter> = "Reloads of settings and secrets, by result.";
    reload_failed: IntGauge = "1 while the last reload failed and the previous settings stay in force.";
    reloaded_timestamp_seconds: IntGauge = "When settings and secrets were last applied, in seconds since 1970; initially the start time.";
    replica_info: NamedGauge = "Always 1; the label is the replica's `server.name`.";
    draining: IntGauge = "1 while this replica drains.";
    panics_total: IntCounter = "Panics in this process; any value but 0 is a bug.";
    log_lines_dropped_total: IntCounter = "Log lines dropped because the reader of the log was absent or too slow.";
    runtime_tasks: IntGauge = "Tasks of this process; sampled every five seconds.";
    runtime_queue_depth: IntGauge = "Tasks that wait for any worker; sampled every five seconds.";
    runtime_busy_ratio: Gauge = "Share of the workers' time that was busy in the last five seconds.";
    task_poll_duration_seconds: Histogram [WORK] = "How long a task occupies its worker in one poll.";
    allocator_committed_bytes: IntGauge = "Memory that the allocator holds from the operating system; sampled every \
        five seconds, 0 with another allocator.";
    allocator_reserved_bytes: IntGauge = "Address space that the allocator has reserved; sampled every five seconds, 0 with another allocator.";
    event_loop_lag_seconds: Histogram [LATENCY] = "How late a timer fires: the time a ready task waits for a worker.";
}

impl Metrics {
    /// All metrics of a replica, initially zero, with those of the process and the build.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        process::register(&registry);
        Arc::new(Self::declare(registry))
    }

    /// The text exposition, in the format of Prometheus 0.0.4.
    ///
    /// # Errors
    /// If a metric cannot be written, which does not happen for declared ones.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Everything that a new replica exports, by name.
    fn exported() -> BTreeSet<String> {
        let metrics = Metrics::new();
        let _ = EndpointFigures::new(&metrics, "trading");
        metrics.subscriptions.of("ticker:*").set(1);
        metrics.redis_up.of(LinkLabel::Command).set(1);
        metrics.certificate_expires_timestamp_seconds.of(ShownCertificate::Public).set(1);
        metrics.replica_info.name("a");
        metrics.api_key_requests_total.of("engine", KeyUse::Accepted).inc();
        metrics.registry.gather().iter().map(|family| family.name().to_owned()).collect()
    }

    fn row(metric: &Described) -> String {
        let label = |(name, values): &(&str, Vec<&str>)| format!(" `{name}`: {}", values.join(", "));
        let labels: Vec<_> = metric.labels.iter().map(label).collect();
        format!("| `{}` | {} |{} | {} |", metric.name, metric.kind, labels.join(";"), metric.help)
    }

    #[test]
    fn the_documented_list_matches_the_declared_one() {
        let document = include_str!("../../docs/metrics.md");
        let documented: Vec<_> = document.lines().filter(|line| line.starts_with("| `tickgate_")).collect();
        let mut declared: Vec<_> = Metrics::describe().iter().map(row).collect();
        declared.extend(process::BUILD_ROWS.iter().map(|row| (*row).to_owned()));
        let missing: Vec<_> = declared.iter().filter(|row| !documented.contains(&row.as_str())).collect();
        let stale: Vec<_> = documented.iter().filter(|row| !declared.iter().any(|declared| declared == *row)).collect();
        assert!(
            missing.is_empty() && stale.is_empty(),
            "docs/metrics.md lacks {missing:#?} and must not list {stale:#?}"
        );
        assert_eq!(documented, declared, "the order is that of the table");
    }

    #[test]
    fn exported_and_documented_metrics_are_the_same() {
        let document = include_str!("../../docs/metrics.md");
        let names = document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let documented: BTreeSet<_> = names.map(str::to_owned).collect();
        assert_eq!(documented, exported());
    }

    /// Clients choose neither endpoints nor keys, so the number of series cannot grow.
    #[test]
    fn the_number_of_series_is_the_documented_one() {
        let metrics = Metrics::new();
        LinkLabel::ALL.iter().for_each(|link| metrics.redis_up.of(*link).set(1));
        ShownCertificate::ALL.iter().for_each(|shown| metrics.certificate_expires_timestamp_seconds.of(*shown).set(1));
        metrics.replica_info.name("a");
        let series = || metrics.text().unwrap().lines().filter(|line| !line.starts_with('#')).count();
        let fixed = series();
        let _ = EndpointFigures::new(&metrics, "trading");
        let per_endpoint = series() - fixed;
        let _ = EndpointFigures::new(&metrics, "market");
        assert_eq!(series(), fixed + 2 * per_endpoint);
        KeyUse::ALL.iter().for_each(|result| metrics.api_key_requests_total.of("engine", *result).inc());
        let per_key = series() - fixed - 2 * per_endpoint;
        metrics.subscriptions.of("ticker:*").set(1);
        let per_rule = series() - fixed - 2 * per_endpoint - per_key;
        let stated = format!(
            "{fixed} series, {per_endpoint} more for each endpoint, {per_rule} more for each rule for topics, and {per_key} more \
             for each named API key"
        );
        assert!(include_str!("../../docs/metrics.md").contains(&stated), "docs/metrics.md must say: {stated}");
    }

    #[test]
    fn replicas_in_one_process_count_separately() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.publications_total.of((PublicationSource::Feed, PublicationClass::State, PublishResult::Refused)).inc_by(3);
        let series = "tickgate_publications_total{class=\"state\",result=\"refused\",source=\"feed\"}";
        assert!(one.text().unwrap().contains(&format!("{series} 3")));
        assert!(other.text().unwrap().contains(&format!("{series} 0")));
    }

    #[test]
    fn each_pair_of_label_values_has_its_own_child() {
        let metrics = Metrics::new();
        for (at, route) in RouteLabel::ALL.iter().enumerate() {
            metrics.http_requests_total.of((*route, StatusClass::of(404))).inc_by(at as u64 + 1);
        }
        let text = metrics.text().unwrap();
        for (at, route) in RouteLabel::ALL.iter().enumerate() {
            let line =
                format!("tickgate_http_requests_total{{route=\"{}\",status=\"4xx\"}} {}", route.as_str(), at + 1);
            assert!(text.contains(&line), "{line}");
        }
    }

    #[test]
    fn a_code_is_its_own_label() {
        let metrics = Metrics::new();
        for code in [1013, 4504, 4999, 0] {
            metrics.close_frames_total.of(CodeLabel::of(code)).inc();
        }
        let text = metrics.text().unwrap();
        for (label, count) in [("1013", 1), ("4504", 1), ("other", 2), ("1000", 0)] {
            assert!(text.contains(&format!("tickgate_close_frames_total{{code=\"{label}\"}} {count}\n")), "{label}");
        }
    }
}
