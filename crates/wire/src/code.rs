//! The one table of close and error codes, and the rule by which a client decides whether to come back.
//!
//! Clients hold the rule in one `if`: below 4500 reconnect, from 4500 on never; the codes that others defined (RFC 6455
//! and the four oldest of the trading endpoints) are the listed exceptions. A number never changes its meaning.

use Reconnect::{Never, No, WithNewToken, Yes};

/// What a client does after it was closed with a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconnect {
    /// Reconnect with jittered back-off, after the hinted delay where there is one.
    Yes,
    /// Reconnect once there is a new token; the same one is refused again.
    WithNewToken,
    /// The same attempt would end the same way: something has to be changed first.
    No,
    /// Never closes a connection: the code comes in error messages only.
    Never,
}

impl Reconnect {
    /// The word in the documentation's table.
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

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// On the wire: in the Close frame, or as `code` of an error message.
    pub number: u16,
    /// The stable name, `error` of an error message.
    pub name: &'static str,
    /// One sentence for people.
    pub meaning: &'static str,
    /// Whether to reconnect after a close with it.
    pub reconnect: Reconnect,
}

const fn code(number: u16, name: &'static str, reconnect: Reconnect, meaning: &'static str) -> Code {
    Code { number, name, meaning, reconnect }
}

/// Every code that the gateway sends, ascending.
pub const CODES: [Code; 24] = [
    code(1000, "normal", No, "The connection ended as one of the two sides wished."),
    code(1001, "going_away", Yes, "The other side goes away."),
    code(1002, "protocol_error", No, "A frame broke the WebSocket protocol."),
    code(1003, "unsupported_data", No, "A binary frame came where text is spoken."),
    code(1007, "invalid_utf8", No, "A text frame was not valid UTF-8."),
    code(1008, "policy", No, "The endpoint refused the connection: token missing or invalid, or origin not allowed."),
    code(1009, "message_too_big", No, "A message was over the size limit."),
    code(1011, "internal_error", Yes, "The gateway failed; it is not the client's fault."),
    code(
        1012,
        "restarting",
        Yes,
        "The replica is going away; the reason says after how many milliseconds to reconnect.",
    ),
    code(1013, "try_again_later", Yes, "The replica is full, or what it depends on does not answer now."),
    code(4001, "auth_required", WithNewToken, "The token is missing, invalid or expired."),
    code(4002, "user_inactive", No, "The user is not known, not active, or was revoked."),
    code(4003, "too_many_connections", Yes, "The user has as many connections as are allowed, over all replicas."),
    code(4004, "invalid_message", No, "A message was not understood; a close after repeated offences."),
    code(4100, "rate_limited", Yes, "Too many messages; a close after sustained abuse."),
    code(4101, "heartbeat_timeout", Yes, "The client was silent after a ping, or never answers pings."),
    code(4102, "slow_consumer", Yes, "The socket took nothing for the write time-out."),
    code(4103, "auth_timeout", Yes, "No auth message came within the deadline."),
    code(4104, "max_age", Yes, "The connection is old and was asked to move, so that load spreads."),
    code(4500, "disconnected", No, "An operator closed the connection."),
    code(4501, "superseded", No, "The session was resumed elsewhere, or gave way to a newer connection of the user."),
    code(4502, "forbidden", Never, "The channel or the action is not allowed."),
    code(4503, "too_many_subscriptions", Never, "The connection has as many subscriptions as are allowed."),
    code(4504, "not_found", Never, "The channel, symbol or run is not known here."),
];

/// The table's line of a number, where it has one.
#[must_use]
pub fn lookup(number: u16) -> Option<&'static Code> {
    CODES.binary_search_by_key(&number, |code| code.number).ok().map(|index| &CODES[index])
}

/// Whether a client reconnects after a close with this number; numbers outside the table follow the rule as well.
#[must_use]
pub fn may_reconnect(number: u16) -> bool {
    match number {
        // What RFC 6455 makes an end, and the refusals that last until somebody changes something.
        1000 | 1002 | 1003 | 1007..=1009 | 4002 | 4004 => false,
        _ => number < 4500,
    }
}

macro_rules! typed_codes {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $number:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum $name { $($variant = $number),* }

        impl $name {
            /// All of them, ascending.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// The one with this number.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
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
}

typed_codes! {
    /// Why a connection is closed.
    CloseCode {
        Normal = 1000,
        GoingAway = 1001,
        ProtocolError = 1002,
        UnsupportedData = 1003,
        InvalidUtf8 = 1007,
        Policy = 1008,
        MessageTooBig = 1009,
        InternalError = 1011,
        Restarting = 1012,
        TryAgainLater = 1013,
        AuthRequired = 4001,
        UserInactive = 4002,
        TooManyConnections = 4003,
        InvalidMessage = 4004,
        RateLimited = 4100,
        HeartbeatTimeout = 4101,
        SlowConsumer = 4102,
        AuthTimeout = 4103,
        MaxAge = 4104,
        Disconnected = 4500,
        Superseded = 4501,
    }
}

typed_codes! {
    /// Why a request failed while the connection stays (`code` and `error` of an error message).
    ErrorCode {
        InternalError = 1011,
        TryAgainLater = 1013,
        AuthRequired = 4001,
        UserInactive = 4002,
        InvalidMessage = 4004,
        RateLimited = 4100,
        Forbidden = 4502,
        TooManySubscriptions = 4503,
        NotFound = 4504,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_ascends_and_names_are_unique() {
        assert!(CODES.windows(2).all(|pair| pair[0].number < pair[1].number));
        let names: std::collections::HashSet<_> = CODES.iter().map(|code| code.name).collect();
        assert_eq!(names.len(), CODES.len());
    }

    #[test]
    fn every_typed_code_is_in_the_table_and_the_table_holds_no_other() {
        for code in CODES {
            let close = CloseCode::from_number(code.number);
            let error = ErrorCode::from_number(code.number);
            assert!(close.is_some() || error.is_some(), "{}", code.number);
            assert_eq!(close.is_none(), code.reconnect == Never, "{}", code.number);
            assert!(close.is_none_or(|c| c.name() == code.name && c.number() == code.number));
            assert!(error.is_none_or(|e| e.meaning() == code.meaning && e.number() == code.number));
        }
        let in_table = |number: u16| CODES.iter().any(|code| code.number == number);
        assert!(CloseCode::ALL.iter().all(|code| in_table(code.number())));
        assert!(ErrorCode::ALL.iter().all(|code| in_table(code.number())));
    }

    #[test]
    fn the_rule_agrees_with_the_table() {
        for code in CODES {
            assert_eq!(may_reconnect(code.number), matches!(code.reconnect, Yes | WithNewToken), "{}", code.number);
        }
    }

    #[test]
    fn numbers_outside_the_table_follow_the_rule() {
        assert!(may_reconnect(1006), "no Close frame came: the network, or the replica, died");
        assert!(may_reconnect(4499));
        assert!(!may_reconnect(4500));
        assert!(!may_reconnect(4999));
    }
}
