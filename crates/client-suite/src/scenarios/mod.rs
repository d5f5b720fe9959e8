//! The scenarios, in the order of the rules. Each plays a gateway for one rule, and starts and ends its own runs.

mod channels;
mod coming_back;
mod connecting;
mod cursors;
mod reading;
mod replay;
mod requests;
mod silence;
mod tokens;

use std::{fmt, future::Future, pin::Pin};

use crate::{suite::Suite, trace::StepResult};

type Playing = Pin<Box<dyn Future<Output = StepResult>>>;

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name in `docs/client.md`.
    pub name: &'static str,
    /// The number of its rule.
    pub rule: u8,
    /// What happens in it.
    pub about: &'static str,
    pub(crate) script: fn(Suite) -> Playing,
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! scenarios {
    ($($rule:literal $name:literal $module:ident::$script:ident $about:literal;)+) => {
        /// All scenarios, by their rules.
        pub const SCENARIOS: &[Scenario] = &[$(Scenario {
            name: $name,
            rule: $rule,
            about: $about,
            script: |suite| Box::pin($module::$script(suite)),
        }),+];
    };
}

scenarios! {
    1 "handshake" connecting::handshake "the first connection, with a token";
    1 "anonymous" connecting::anonymous "a connection without a token";
    1 "protocol-not-selected" connecting::protocol_not_selected "the answer selects no sub-protocol";
    2 "late-token" connecting::late_token "the token is sent as the first message";
    2 "late-token-refused" connecting::late_token_refused "an `error` before the welcome: temporary, then permanent";
    3 "opening-timeout" connecting::opening_timeout "the handshake is never answered";
    3 "no-welcome" connecting::no_welcome "the welcome never arrives";
    4 "limits" connecting::limits "five channels, two at once, four a second";
    4 "too-large" requests::too_large "a publication over the limit, then one within it";
    5 "session" connecting::session "each connection sends the session of the previous one";
    6 "push-or-reply" reading::push_or_reply "publications that look like replies and notices";
    7 "array-frame" reading::array_frame "several messages in one frame, then one that cannot be read behind others";
    8 "large-message" reading::large_message "1 MiB in four fragments, with pings between them";
    9 "newer-server" reading::newer_server "unknown types, fields, classes, reasons and codes";
    10 "malformed" reading::malformed "messages that cannot be read";
    11 "first-cursor" cursors::first_cursor "nothing was published before the connection is lost";
    11 "opaque-cursor" cursors::opaque_cursor "cursors in an unknown format";
    11 "null-cursor" cursors::null_cursor "a channel without retention";
    12 "resume" cursors::resume "a lost connection, and what was missed";
    12 "state-channel" cursors::state_channel "a channel of class `state`";
    12 "epoch-change" cursors::epoch_change "ids of a new epoch, and of an older one";
    12 "left-channel" cursors::left_channel "messages of a channel that is being left";
    13 "gap" cursors::gap "one loss in two channels";
    13 "gap-in-replay" replay::gap_in_replay "the oldest missed messages are gone";
    14 "cut-replay" replay::cut_replay "the connection is lost while two channels of a stream are replayed";
    15 "shared-stream" cursors::shared_stream "a message of one channel moves the cursor of the other";
    15 "named-channels" replay::named_channels "`caught_up` and `gap` name one of two channels of a stream";
    16 "caught-up" replay::caught_up "a replay without messages";
    16 "heartbeat-cursors" cursors::heartbeat_cursors "cursors that move without a push";
    17 "handled" cursors::handled "the application is slower than the messages";
    17 "stored-cursors" cursors::stored_cursors "the application starts with a stored cursor";
    18 "options" cursors::options "`last`, `max_rate` and `snapshot` over a reconnect";
    18 "options-changed" cursors::options_changed "other options for a subscribed channel, and a message before the reply";
    19 "unsubscribe" cursors::unsubscribe "a channel is left and subscribed again";
    19 "other-user" cursors::other_user "the next welcome names another user, then none";
    20 "channel-refused" channels::channel_refused "one of two channels is forbidden";
    21 "channel-later" channels::channel_later "one of two channels is refused temporarily";
    21 "request-later" channels::request_later "too many requests: the whole subscribe has to wait";
    21 "request-refused" channels::request_refused "the whole subscribe is refused";
    22 "unsubscribed-later" channels::unsubscribed_later "the server ends a subscription for a while";
    22 "unsubscribed-refused" channels::unsubscribed_refused "the right to a channel is lost";
    23 "replies-in-any-order" requests::replies_in_any_order "two publications, answered in reverse";
    23 "unanswered-subscribe" requests::unanswered_subscribe "a subscribe is never answered";
    23 "unnamed-channel" requests::unnamed_channel "a reply names one of two channels";
    23 "unanswered-auth" tokens::unanswered_auth "an `auth` is never answered";
    24 "publish-repeated" requests::publish_repeated "the connection is lost before a publication is answered";
    24 "publish-later" requests::publish_later "refused temporarily, then unknown, then accepted";
    25 "publish-refused" requests::publish_refused "a publication and a command that are not allowed";
    25 "publish-deadline" requests::publish_deadline "a publication is never answered";
    25 "publish-offline" requests::publish_offline "the deadline passes before there is a connection";
    25 "publish-unsure" requests::publish_unsure "not answered, then refused";
    25 "publish-ended" requests::publish_ended "the client ends before publications are answered";
    26 "token-expiring" tokens::token_expiring "the server announces that the token expires";
    26 "token-planned" tokens::token_planned "the server does not, and its clock is an hour behind";
    26 "auth-paced" tokens::auth_paced "the server announces it again and again";
    27 "auth-refused" tokens::auth_refused "the new token is refused temporarily, then permanently";
    28 "new-token" tokens::new_token "closed because the token has expired";
    28 "new-token-twice" tokens::new_token_twice "refused, welcomed, then refused twice";
    28 "expiry-in-replay" tokens::expiry_in_replay "the token expires during a replay";
    29 "token-unavailable" tokens::token_unavailable "the login fails twice";
    30 "half-open" silence::half_open "the connection is silent but stays open";
    30 "heartbeats" silence::heartbeats "heartbeats, then pings, and nothing else";
    31 "late-socket" silence::late_socket "an abandoned connection sends again";
    32 "busy-application" silence::busy_application "pings and a lost connection while the application is busy";
    32 "slow-application" silence::slow_application "64 MiB of messages for an application that handles none";
    33 "closing-yes" coming_back::closing_yes "a drain with a delay; no Close frame follows";
    33 "closing-no" coming_back::closing_no "`no` with a code that is otherwise retried";
    33 "closing-over-code" coming_back::closing_over_code "`yes` with a final code, and an unknown value";
    34 "final-codes" coming_back::final_codes "each close code that is final";
    34 "retried-codes" coming_back::retried_codes "each close code that is not";
    34 "failed-handshake" coming_back::failed_handshake "a proxy refuses, or the connection is cut";
    35 "after-ms" coming_back::after_ms "too many connections, with a delay";
    35 "refused" coming_back::refused "refusals before the welcome";
    36 "back-off" coming_back::back_off "connections fail at once, again and again";
    37 "flapping" coming_back::flapping "connections end right after the welcome";
    37 "back-off-reset" coming_back::back_off_reset "a stable connection after failures";
    38 "stop" coming_back::stop "the application stops the client";
    39 "states" coming_back::states "the states of a connection, a replay and a reconnect";
    39 "live" coming_back::live_state "a channel that has to wait, and no channel";
    39 "stale" silence::stale "one heartbeat is late";
}
