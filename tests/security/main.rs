//! Attacks within the limits on a real gateway process with default settings and a real Redis, while other clients use
//! it. An attack fails the test if other clients were affected, if it cost more than its bounds, or if it made the
//! gateway send Redis too many bytes for each byte of the attacker. At the end, all attacks are printed as one table.
//!
//! `cargo test --test security` runs the short forms, with faster clocks in the gateway where an attack needs time.
//! TICKGATE_SECURITY=long runs them at full length, with default settings (`just security`).
//! TICKGATE_SECURITY_GATEWAY names another program to attack, such as an earlier release.
#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` means shared between its files")]
#![allow(clippy::unwrap_used, reason = "what is not there fails the test, as it should")]
#![allow(clippy::disallowed_methods, reason = "these settings and tasks are the test's own")]

mod attacker;
mod cost;
mod gateway;
mod neighbour;
mod scene;
mod siege;

mod s00_work_queue;
mod s01_toggling;
mod s02_left_behind;
mod s03_plain;
mod s04_handshakes;
mod s05_history;
mod s06_unpublished;
mod s07_other_types;
mod s08_log;
mod s09_presence;
mod s10_revocation;
mod s11_msg_id;
mod s12_engine;
mod s13_user_limit;
mod s14_development;
mod s15_redis_reader;
mod s16_keys;
mod s17_forwarded;
mod s18_key_set;
mod s19_redis_settings;
mod s20_mistyped;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use scene::AttackLength;
use tickgate_kit as support;
use tokio::runtime::Builder;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One at a time, because the effect on others is measured.
    arguments.test_threads = Some(1);
    let mut attacks = attacks();
    if AttackLength::asked() == AttackLength::Long {
        attacks.extend(moderate_attacks());
    }
    let conclusion = libtest_mimic::run(&arguments, attacks);
    siege::print_table();
    conclusion.exit_code()
}

/// Runs an attack in a separate runtime.
fn attack<F: Future<Output = ()>>(name: &str, run: impl FnOnce() -> F + Send + 'static) -> Trial {
    let name = name.rsplit("::").next().unwrap_or(name).trim();
    Trial::test(name, move || {
        Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(run());
        Ok(())
    })
}

macro_rules! attacks {
    ($($run:path),+ $(,)?) => { vec![$(attack(stringify!($run), $run)),+] };
}

fn attacks() -> Vec<Trial> {
    attacks![
        s00_work_queue::s00_strangers_who_come_and_go_keep_nobody_from_subscribing,
        s00_work_queue::s00_strangers_who_leave_together_keep_nobody_from_subscribing,
        s01_toggling::s01_turning_a_channel_on_and_off_writes_no_session,
        s02_left_behind::s02_strangers_who_leave_leave_little_and_no_publication_is_refused,
        s02_left_behind::s02_a_redis_that_is_nearly_full_drops_sessions_before_it_refuses_publications,
        s03_plain::s03_plain_connections_are_bounded_and_responses_that_nobody_reads_end,
        s04_handshakes::s04_whatever_a_stranger_asks_for_counts_against_its_address,
        s05_history::s05_whoever_asks_for_much_waits_for_himself,
        s06_unpublished::s06_topics_that_nobody_publishes_take_nobodys_room,
        s07_other_types::s07_a_key_of_another_type_fails_alone,
        s08_log::s08_a_log_whose_reader_is_gone_stops_nothing,
        s08_log::s08_a_log_whose_reader_stalls_stops_nothing,
        s08_log::s08_a_log_on_a_full_disk_stops_nothing,
        s08_log::s08_a_replica_that_lost_a_vital_task_drains_and_ends_with_a_code,
        s09_presence::s09_a_question_for_presence_waits_for_no_other,
        s10_revocation::s10_a_revoked_token_opens_nothing_whatever_becomes_of_redis,
        s10_revocation::s10_a_token_of_the_same_second_is_refused_for_a_moment_only,
        s10_revocation::s10_redis_clock_decides_nothing,
        s11_msg_id::s11_nobody_uses_up_the_msg_id_of_another_publisher,
        s12_engine::s12_an_engine_publishes_and_does_nothing_else,
        s13_user_limit::s13_a_users_limit_holds_while_redis_is_away_and_the_older_connections_stay,
        s14_development::s14_development_mode_serves_this_machine_alone,
        s15_redis_reader::s15_who_reads_redis_learns_nothing_to_connect_with,
        s16_keys::s16_an_api_key_opens_nothing_from_an_address,
        s17_forwarded::s17_a_client_behind_a_proxy_does_not_choose_its_address,
        s18_key_set::s18_keys_that_cannot_be_fetched_any_more_are_not_used_for_ever,
        s19_redis_settings::s19_the_recommended_redis_is_for_this_machine_and_asks_who_is_there,
        s20_mistyped::s20_what_names_nothing_stops_the_start,
    ]
}

/// Attacks at a moderate rate: their effect on other users is visible only on a machine without other work.
fn moderate_attacks() -> Vec<Trial> {
    attacks![
        s05_history::s05_history_at_a_tenth_of_the_limit_delays_nobody,
        s05_history::s05_replays_at_a_tenth_of_the_limit_delay_nobody,
        s05_history::s05_event_streams_that_resume_delay_nobody,
    ]
}
