//! The proof that the suite can fail: each deliberate defect of the feed fails the scenario that is about it.

use crate::{connection, normal, rest, silence, takeover};

/// Fails when a scenario finds nothing wrong with a defect.
fn found(defect: &str, wrong: &[String]) {
    assert!(!wrong.is_empty(), "the suite does not notice {defect}");
}

macro_rules! defects {
    ($($test:ident: $defect:literal by $scenario:path;)+) => {
        $(
            #[tokio::test]
            async fn $test() {
                found($defect, &$scenario(Some($defect)).await);
            }
        )+
    };
}

defects! {
    trades_that_are_taken_again: "FeedRepeats" by connection::overlap;
    the_side_of_the_maker: "FeedSides" by normal::truth;
    the_time_of_the_event: "FeedEventTimes" by normal::truth;
    prices_through_floating_point: "FeedFloats" by normal::truth;
    pings_taken_for_data: "FeedPingsAreData" by silence::pings_alone;
    messages_in_a_burst: "FeedBursts" by normal::many;
    streams_in_capitals: "FeedCapitals" by normal::truth;
    requests_that_do_not_wait: "FeedImpatience" by rest::refused;
    publishing_without_the_lease: "FeedWithoutLease" by takeover::stopped;
}
