//! The table of close and error codes, and the rule by which a client decides whether to reconnect.
//!
//! Clients implement the rule with one `if`: reconnect below 4500, never from 4500 on; codes that others defined (RFC
//! 6455 and the four oldest of the trading endpoints) are the listed exceptions. A number never changes its meaning.

use Reconnect::{Never, No, WithNewToken, Yes};

/// What a client does after a close with this code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconnect {
    /// Reconnect with jittered back-off, after the hinted delay if there is one.
    Yes,
    /// Reconnect with a new token; the same one is refused again.
    WithNewToken,
    /// The same attempt would fail again: something must be changed first.
    No,
    /// Never closes a connection: the code is used only in error messages.
    Never,
}

impl Reconnect {
    /// The text in the documentation's table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Yes => "yes",
            WithNewToken => "with a new token",
            No => "no",
            Never => "–",
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The number on the wire: in the Close frame, or as `code` of an error message.
    pub number: u16,
    /// The number as a metric label.
    pub label: &'static str,
    /// The stable name, `error` of an error message.
    pub name: &'static str,
    /// One sentence for people.
    pub meaning: &'static str,
    /// Whether to reconnect after a close with it.
    pub reconnect: Reconnect,
}

/// Generates all types from the table. Rows marked `close` are variants of [`CloseCode`], rows marked `error` of
/// [`ErrorCode`]; rows with an HTTP status, and HTTP-only rows, are variants of [`ProblemKind`].
macro_rules! codes {
    (
        $($number:literal $variant:ident $name:literal $close:tt $error:tt $status:tt $reconnect:ident $meaning:literal;)+
        http only { $($only:ident $only_name:literal $only_status:literal $only_meaning:literal;)+ }
    ) => {
        /// Every code that the gateway sends, ascending.
        pub const CODES: &[Code] = &[$(Code {
            number: $number,
            label: stringify!($number),
            name: $name,
            meaning: $meaning,
            reconnect: $reconnect,
        }),+];

        codes!(@close {} $($close $variant $number $meaning,)+);
        codes!(@error {} $($error $variant $number $meaning,)+);
        codes!(@problem {} $($status $variant $name $number $meaning,)+ { $($only $only_name $only_status $only_meaning,)+ });
    };

    (@close { $($variant:ident $number:literal $meaning:literal)+ }) => {
        codes!(@typed
            /// Why a connection is closed.
            CloseCode $($variant $number $meaning)+
        );
    };
    (@close { $($rows:tt)* } close $variant:ident $number:literal $meaning:literal, $($rest:tt)*) => {
        codes!(@close { $($rows)* $variant $number $meaning } $($rest)*);
    };
    (@close $rows:tt - $variant:ident $number:literal $meaning:literal, $($rest:tt)*) => {
        codes!(@close $rows $($rest)*);
    };

    (@error { $($variant:ident $number:literal $meaning:literal)+ }) => {
        codes!(@typed
            /// Why a request failed although the connection stays open (`code` and `error` of an error message).
            ErrorCode $($variant $number $meaning)+
        );
    };
    (@error { $($rows:tt)* } error $variant:ident $number:literal $meaning:literal, $($rest:tt)*) => {
        codes!(@error { $($rows)* $variant $number $meaning } $($rest)*);
    };
    (@error $rows:tt - $variant:ident $number:literal $meaning:literal, $($rest:tt)*) => {
        codes!(@error $rows $($rest)*);
    };

    (@typed $(#[$doc:meta])* $type:ident $($variant:ident $number:literal $meaning:literal)+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum $type { $(#[doc = $meaning] $variant = $number),+ }

        impl $type {
            /// All of them, ascending.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// The code with this number.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The stable name.
            #[must_use]
            pub fn name(self) -> &'static str {
                lookup(self.number()).map_or("unknown", |code| code.name)
            }

            /// One sentence for people.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                lookup(self.number()).map_or("", |code| code.meaning)
            }
        }
    };

    (@problem { $($variant:ident $name:literal $status:literal $number:literal $meaning:literal)+ }
        { $($only:ident $only_name:literal $only_status:literal $only_meaning:literal,)+ }) => {
        /// The kind of a problem document (RFC 9457) in an HTTP response.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProblemKind { $(#[doc = $meaning] $variant,)+ $(#[doc = $only_meaning] $only),+ }

        impl ProblemKind {
            /// All of them: first those shared with sockets, ascending by code, then HTTP-only ones.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+ $(Self::$only),+];

            /// The stable name; `error` of the document.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ $(Self::$only => $only_name),+ }
            }

            /// `type` of the document.
            #[must_use]
            pub fn urn(self) -> String {
                format!("urn:tickgate:problem:{}", self.name())
            }

            /// The HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ $(Self::$only => $only_status),+ }
            }

            /// The kind for a refused connection that would have closed a WebSocket with this code.
            #[must_use]
            pub const fn of_close(code: CloseCode) -> Self {
                match code.number() {
                    $($number => Self::$variant,)+
                    _ => Self::InternalError,
                }
            }

            /// The code of the same failure on a socket, if there is one.
            #[must_use]
            pub const fn code(self) -> Option<u16> {
                match self { $(Self::$variant => Some($number),)+ $(Self::$only => None),+ }
            }
        }
    };
    (@problem $rows:tt - $variant:ident $name:literal $number:literal $meaning:literal, $($rest:tt)*) => {
        codes!(@problem $rows $($rest)*);
    };
    (@problem { $($rows:tt)* } $status:literal $variant:ident $name:literal $number:literal $meaning:literal,
        $($rest:tt)*) => {
        codes!(@problem { $($rows)* $variant $name $status $number $meaning } $($rest)*);
    };
}

codes! {
    // Number, variant, name; used in Close frames, in error messages, HTTP status; whether to reconnect, meaning.
    1000 Normal "normal" close - - No "Normal closure.";
    1001 GoingAway "going_away" close - - Yes "The peer is going away.";
    1002 ProtocolError "protocol_error" close - - No "A frame broke the WebSocket protocol.";
    1003 UnsupportedData "unsupported_data" close - - No "A binary frame was received; only text is supported.";
    1007 InvalidUtf8 "invalid_utf8" close - - No "A text frame was not valid UTF-8.";
    1008 Policy "policy" close - 403 No
        "The endpoint refused the connection: token missing or invalid, or origin not allowed.";
    1009 MessageTooBig "message_too_big" close - 413 No "A message exceeded the size limit.";
    1011 InternalError "internal_error" close error 500 Yes "An internal error of the gateway.";
    1012 Restarting "restarting" close - 503 Yes
        "The replica is going away; the reason says after how many milliseconds to reconnect.";
    1013 TryAgainLater "try_again_later" close error 503 Yes
        "The replica is full, or a service that it depends on does not respond.";
    4001 AuthRequired "auth_required" close error 401 WithNewToken "The token is missing, invalid or expired.";
    4002 UserInactive "user_inactive" close error 403 No "The user is unknown, not active, or was revoked.";
    4003 TooManyConnections "too_many_connections" close - 429 Yes
        "The user has reached the maximum number of connections, over all replicas.";
    4004 InvalidMessage "invalid_message" close error 400 No
        "The message is invalid; repeated invalid messages close the connection.";
    4100 RateLimited "rate_limited" close error 429 Yes "Too many messages; sustained abuse closes the connection.";
    4101 HeartbeatTimeout "heartbeat_timeout" close - - Yes "The client did not respond to a ping.";
    4102 SlowConsumer "slow_consumer" close - - Yes "The socket accepted no data for the write timeout.";
    4103 AuthTimeout "auth_timeout" close - - Yes "No auth message arrived within the deadline.";
    4104 MaxAge "max_age" close - - Yes "The connection reached its maximum age.";
    4500 Disconnected "disconnected" close - - No "An operator closed the connection.";
    4501 Superseded "superseded" close - - No
        "The session was resumed elsewhere, or replaced by a newer connection of the user.";
    4502 Forbidden "forbidden" - error 403 Never "The channel or the action is not allowed.";
    4503 TooManySubscriptions "too_many_subscriptions" - error - Never
        "The connection has reached its maximum number of subscriptions.";
    4504 NotFound "not_found" close error 404 No
        "The channel, symbol or run does not exist, or no endpoint has this path.";
    4505 MsgIdReused "msg_id_reused" - error 409 Never "The `msg_id` was already used for another publication.";

    http only {
        MethodNotAllowed "method_not_allowed" 405 "The path does not support this method.";
        RequestTimeout "request_timeout" 408 "The request did not arrive completely in time.";
        UpgradeRequired "upgrade_required" 426 "The endpoint requires a WebSocket upgrade.";
        UnsupportedMediaType "unsupported_media_type" 415 "The body has an unsupported media type.";
        OutcomeUnknown "outcome_unknown" 504 "A publication may or may not be stored; retry it with the same `msg_id`.";
    }
}

/// The index of a number in the table, if present.
#[must_use]
pub fn index(number: u16) -> Option<usize> {
    CODES.binary_search_by_key(&number, |code| code.number).ok()
}

/// The table row of a number, if present.
#[must_use]
pub fn lookup(number: u16) -> Option<&'static Code> {
    index(number).map(|index| &CODES[index])
}

/// Whether a client reconnects after a close with this number; numbers outside the table follow the same rule.
#[must_use]
pub fn may_reconnect(number: u16) -> bool {
    lookup(number).map_or(number < 4500, |code| matches!(code.reconnect, Yes | WithNewToken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_ascends_and_names_are_unique() {
        assert!(CODES.windows(2).all(|pair| pair[0].number < pair[1].number));
        let names: std::collections::HashSet<_> = CODES.iter().map(|code| code.name).collect();
        assert_eq!(names.len(), CODES.len());
        let kinds: std::collections::HashSet<_> = ProblemKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(kinds.len(), ProblemKind::ALL.len());
    }

    #[test]
    fn codes_that_never_close_a_connection_say_so() {
        for code in CODES {
            let (close, error) = (CloseCode::from_number(code.number), ErrorCode::from_number(code.number));
            assert!(close.is_some() || error.is_some(), "{}", code.number);
            assert_eq!(close.is_none(), code.reconnect == Never, "{}", code.number);
        }
        assert_eq!(CloseCode::MaxAge.name(), "max_age");
        assert_eq!(ErrorCode::Forbidden.meaning(), "The channel or the action is not allowed.");
    }

    #[test]
    fn a_problem_has_the_name_of_its_code() {
        for kind in ProblemKind::ALL {
            assert!(
                kind.code().is_none_or(|code| lookup(code).is_some_and(|code| code.name == kind.name())),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn the_rule_is_below_4500_with_the_exceptions_of_the_table() {
        for code in CODES {
            let rule = code.number < 4500 && code.reconnect != No;
            assert_eq!(may_reconnect(code.number), rule, "{}", code.number);
        }
        assert!(may_reconnect(1006), "no Close frame arrived: the network or the replica failed");
        assert!(may_reconnect(4499));
        assert!(!may_reconnect(4999));
    }
}
