//! Proof that the suite can fail: each deliberate defect of the feed fails the scenario for it.

use libtest_mimic::Trial;

use crate::{connection, normal, rest, scenario, silence, takeover};

/// Fails if a scenario does not detect a defect.
fn found(defect: &str, wrong: &[String]) {
    assert!(!wrong.is_empty(), "the suite does not detect {defect}");
}

macro_rules! defects {
    ($($name:ident: $defect:literal by $scenario:path;)+) => {
        pub fn scenarios() -> Vec<Trial> {
            vec![$(scenario(concat!("defects::", stringify!($name)), || async {
                found($defect, &$scenario(Some($defect)).await);
            })),+]
        }
    };
}

defects! {
    publishing_without_the_lease: "FeedWithoutLease" by takeover::stopped;
    pings_taken_for_data: "FeedPingsAreData" by silence::pings_alone;
    repeated_trades: "FeedRepeats" by connection::overlap;
    side_of_the_maker: "FeedSides" by normal::truth;
    time_of_the_event: "FeedEventTimes" by normal::truth;
    prices_through_floating_point: "FeedFloats" by normal::truth;
    control_messages_in_a_burst: "FeedBursts" by normal::many;
    streams_in_capitals: "FeedCapitals" by normal::truth;
    requests_without_a_wait: "FeedImpatience" by rest::refused;
}
