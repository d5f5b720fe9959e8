//! Deliberate defects, at least one for each rule of `docs/client.md`, used by a test to verify that the suite detects
//! a client that breaks the rule. Present only with the feature `defects`, which only tests enable.

/// Declares the defects with the numbers of their rules.
macro_rules! defects {
    ($($rule:literal $name:ident $about:literal;)+) => {
        /// A rule that is not followed.
        #[cfg_attr(not(feature = "defects"), expect(dead_code, unreachable_pub, reason = "one is used only by the adapter"))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum OmittedRule { $(#[doc = $about] $name),+ }

        #[cfg(feature = "defects")]
        impl OmittedRule {
            /// All of them, in the order of their rules.
            pub const ALL: &'static [(u8, Self)] = &[$(($rule, Self::$name)),+];

            /// The defect with this name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().map(|(_, defect)| *defect).find(|defect| format!("{defect:?}") == name)
            }
        }
    };
}

defects! {
    1 TokenInUrl "The token goes into the URL.";
    2 NoLateToken "The token is not sent as a message when it should be.";
    2 RefusedTokenAgain "After an `error` before the welcome, the same token is used again.";
    3 NoOpeningTimeout "Opening a connection has no timeout.";
    4 NoPace "All channels are subscribed at once, regardless of the limits.";
    4 SendsAnySize "A request is sent regardless of its size.";
    5 NoSession "The session is not sent again.";
    6 TypeFirst "A publication with the type of a notice is mistaken for one.";
    7 NoArrays "An array is not read.";
    7 WholeArrays "An array is handled only after all of it was parsed.";
    8 SmallMessages "A message over 64 KiB is not read.";
    9 NothingNew "Anything unknown ends the connection.";
    10 SkipsUnreadable "Unreadable messages are skipped.";
    11 NoFirstCursor "The cursor of `subscribed` is not stored.";
    12 NoPushCursor "The id of a push is not stored.";
    12 LeftDelivered "A push of an unsubscribed channel is delivered.";
    13 NoGapCursor "The cursor of a gap is not stored.";
    14 EarlySharing "A channel moves with its stream before it is caught up.";
    14 PastMovesLive "A replayed push moves the live channels of its stream.";
    15 NoSharing "Channels of a stream do not move together.";
    15 NamedMoveStream "`caught_up` moves channels that it does not name.";
    16 NoSilentMoves "Cursors of `caught_up` and `heartbeat` are not stored.";
    17 HandledOnArrival "The application's cursors move when a message arrives.";
    18 OptionsLost "A channel is resumed without its options.";
    18 NothingDropped "Messages between a request with `since` and its reply are delivered.";
    18 FirstOptions "The options of a wanted channel do not change.";
    19 NothingForgotten "Cursors survive an unsubscribe and a change of user.";
    19 NullIsNobody "A welcome without a user counts as the same user.";
    19 OthersRequests "Requests of another user are sent.";
    20 RefusedStaysWanted "A refused channel is requested again on the next connection.";
    21 AsksAtOnce "Retries are sent immediately instead of after the requested delay.";
    22 UnsubscribedIgnored "The end of a subscription by the server is ignored.";
    23 NoAnswerTimeout "A subscribe without a reply never times out.";
    23 UnnamedForgotten "A channel that the reply does not name is not requested again.";
    23 AuthMayWait "An `auth` without a reply never times out.";
    24 NewMsgId "A repeated publication has a new `msg_id`.";
    25 NoDeadline "A publication has no deadline.";
    25 EndAnswersNothing "Stopping does not complete pending requests.";
    25 LastErrorCounts "An error marks an earlier unanswered request as refused.";
    26 NoRenewal "A token is not renewed in place.";
    26 NoAuthPace "`auth` is sent whenever the server warns about the expiry.";
    27 RefusedAuthIgnored "A refused `auth` has no consequence.";
    28 OldToken "The old token is used again.";
    28 CountNeverEnds "A welcome does not reset the count of refused tokens.";
    29 TokenFailureFinal "A failure to get a token stops the client.";
    30 NoWatch "Silence is not detected.";
    31 WaitsForClose "A lost connection is abandoned only after a reply to a Close frame.";
    32 ReadingWaits "Nothing is read while the application is busy.";
    32 EndlessQueue "Reading continues regardless of how many events wait for the application.";
    32 StoppedIsSilent "Time without reading counts as silence.";
    33 ClosingIgnored "`closing` is ignored.";
    34 EveryCodeRetried "Every close code leads to another attempt.";
    35 NoAfterMs "`after_ms` is ignored.";
    35 AddsBackOff "The back-off is added to `after_ms`.";
    36 NoDoubling "The bound of the back-off does not grow.";
    37 ResetByWelcome "The back-off restarts with each welcome.";
    38 NoGoodbye "Stopping closes the TCP connection without a Close frame.";
    39 LaterIsLive "A channel that is refused for now does not count for `live`.";
    39 NoReasons "States are reported without their reasons.";
}

/// Whether this process omits a rule.
#[cfg(not(feature = "defects"))]
#[inline]
pub(crate) const fn is(_: OmittedRule) -> bool {
    false
}

#[cfg(feature = "defects")]
pub use switch::{everywhere, is};

#[cfg(feature = "defects")]
mod switch {
    use std::sync::OnceLock;

    use super::OmittedRule;

    static EVERYWHERE: OnceLock<OmittedRule> = OnceLock::new();

    /// The whole process omits a rule from now on.
    pub fn everywhere(defect: OmittedRule) {
        let _ = EVERYWHERE.set(defect);
    }

    /// Whether this process omits a rule.
    #[must_use]
    pub fn is(defect: OmittedRule) -> bool {
        EVERYWHERE.get() == Some(&defect)
    }
}
