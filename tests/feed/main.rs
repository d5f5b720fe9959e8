//! The Binance feed against an exchange with injected faults: real replicas on a real Redis follow `sim-exchange`, and
//! what clients receive is compared with what happened there. A01 to A20 are the scenarios of docs/feeds.md.
//!
//! `cargo test --test feed` runs the short forms. TICKGATE_FEED=long runs each for as long as its description says
//! (`just feed`), and `just feed-load` the full load with the shipped build. Each deliberate defect of the feed must
//! fail one of them (`defects`).
#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` means shared between its files")]
#![allow(clippy::unwrap_used, reason = "a missing value fails the test, as it should")]
#![allow(clippy::disallowed_methods, reason = "these settings and tasks are the test's own")]

mod audience;
mod clock;
mod connection;
mod defects;
mod exchange;
mod load;
mod network;
mod normal;
mod redis;
mod replay;
mod rest;
mod silence;
mod stage;
mod symbols;
mod takeover;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use tickgate_kit as support;
use tokio::runtime::Builder;

/// Number of concurrent scenarios. Each waits most of the time, so there are more of them than processors.
const THREADS: usize = 8;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    libtest_mimic::run(&arguments, scenarios()).exit_code()
}

/// A scenario with its own runtime.
fn scenario<F: Future<Output = ()>>(name: &str, run: impl FnOnce() -> F + Send + 'static) -> Trial {
    Trial::test(name, move || {
        Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(run());
        Ok(())
    })
}

macro_rules! scenarios {
    ($($run:path),+ $(,)?) => { vec![$(scenario(stringify!($run), $run)),+] };
}

/// All scenarios, the longest first.
fn scenarios() -> Vec<Trial> {
    let mut all = scenarios![
        connection::a08_only_data_makes_the_feed_live,
        silence::a04_a_silent_stream_is_found_and_its_trades_are_fetched,
        symbols::a15_stopped_symbols_are_marked_and_the_others_continue,
        symbols::a15_a_maintenance_is_reported_and_its_end_noticed,
        silence::a03_a_silent_connection_is_reported_and_replaced,
        normal::a06_connections_are_replaced_without_an_interruption,
        takeover::a10_another_replica_takes_over_from_a_killed_one,
        rest::a09_a_source_that_lags_or_fails,
        silence::a05_pings_without_data_count_as_silence,
        connection::a02_no_trade_is_lost_however_a_connection_ends,
        replay::a20_a_replayed_recording_gives_what_an_independent_script_builds,
        takeover::a10_a_replica_that_slept_through_its_lease_publishes_nothing,
        takeover::a10_a_replica_cut_off_from_redis_stops_with_its_lease,
        takeover::a10_another_replica_takes_over_from_a_drained_one,
        normal::a17_subscriptions_match_what_clients_follow,
        redis::a11_redis_is_unreachable,
        redis::a11_redis_is_full,
        connection::a12_bad_frames_are_counted_and_dropped,
        normal::a07_many_symbols_are_subscribed_within_the_limits,
        normal::a14_wrong_times_of_the_exchange_change_nothing,
        clock::a14_a_clock_that_jumps_changes_only_timestamps,
        connection::a18_an_exchange_that_bends_the_protocol_is_tolerated,
        connection::a13_a_burst_is_survived,
        rest::a16_a_rate_limited_connection_waits_as_long_as_demanded,
        load::many_symbols_reach_many_subscribers,
        normal::a01_what_clients_receive_is_what_happened,
        rest::a09_what_rest_refuses_is_reported_as_a_gap,
        rest::a16_a_restricted_region_is_reported_and_retried_rarely,
        connection::a02_repeated_trades_are_published_once,
        network::a_host_name_that_does_not_resolve_is_reported,
        network::a_failed_tls_handshake_is_reported,
        network::an_untrusted_certificate_is_reported,
        network::a_trusted_certificate_is_accepted,
        network::a_proxy_that_answers_html_is_reported,
        network::without_the_list_of_symbols_followed_ones_are_live,
        normal::the_status_is_offered_on_both_endpoints,
        normal::the_synthetic_feed_keeps_its_symbols,
    ];
    all.extend(defects::scenarios());
    all
}

/// Fails with all errors found.
fn nothing(wrong: impl IntoIterator<Item = String>) {
    let wrong: Vec<_> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
