//! The values that metric labels can take: closed sets, so that a scrape stays small whatever clients do. Never a
//! user, a symbol, an address or a connection.

use super::family::Labels;

macro_rules! label {
    ($(#[$doc:meta])* $name:ident as $label:literal { $($variant:ident = $value:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = concat!("`", $value, "`")] $variant),+
        }

        impl $name {
            /// All values, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The value as it is exported.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $value),+ }
            }
        }

        impl Labels for $name {
            const NAMES: &'static [&'static str] = &[$label];
            const COUNT: usize = Self::ALL.len();

            fn index(self) -> usize {
                self as usize
            }

            fn values(index: usize) -> Vec<&'static str> {
                vec![Self::ALL[index].as_str()]
            }
        }
    };
}

label!(
    /// How a WebSocket handshake ended.
    Handshake as "result" {
        Accepted = "accepted",
        BadRequest = "bad_request",
        Unauthorized = "unauthorized",
        Forbidden = "forbidden",
        Origin = "origin",
        UserLimit = "user_limit",
        AddressLimit = "address_limit",
        RateLimited = "rate_limited",
        Capacity = "capacity",
        Draining = "draining",
        Unavailable = "unavailable",
    }
);

label!(
    /// Why a connection ended.
    Disconnect as "reason" {
        Client = "client",
        IoError = "io_error",
        Drain = "drain",
        SlowConsumer = "slow_consumer",
        HeartbeatTimeout = "heartbeat_timeout",
        AuthTimeout = "auth_timeout",
        AuthRefused = "auth_refused",
        TokenExpired = "token_expired",
        Revoked = "revoked",
        UserLimit = "user_limit",
        Superseded = "superseded",
        Operator = "operator",
        MaxAge = "max_age",
        RateLimited = "rate_limited",
        InvalidMessages = "invalid_messages",
        Protocol = "protocol",
        TooBig = "too_big",
        Internal = "internal",
    }
);

label!(
    /// Which door a publication came through.
    Door as "source" {
        Http = "http",
        Socket = "socket",
        Ingest = "ingest",
        Command = "command",
        Feed = "feed",
    }
);

label!(
    /// How a publication ended.
    PublishResult as "result" {
        Accepted = "accepted",
        Duplicate = "duplicate",
        Invalid = "invalid",
        TooLarge = "too_large",
        Refused = "refused",
        Unknown = "unknown",
    }
);

label!(
    /// Why a client was told of a gap.
    Gap as "reason" {
        SlowConsumer = "slow_consumer",
        Retention = "retention",
        Backplane = "backplane",
        Failover = "failover",
    }
);

label!(
    /// What a request for missed messages was answered from.
    Replay as "result" {
        Live = "live",
        Ring = "ring",
        Stream = "stream",
        Gap = "gap",
        TooLong = "too_long",
        Unavailable = "unavailable",
    }
);

label!(
    /// One of the links to Redis.
    Link as "link" {
        Command = "command",
        PubSub = "pubsub",
    }
);

label!(
    /// A failure of Redis, by its name.
    RedisError as "kind" {
        Loading = "loading",
        ReadOnly = "read_only",
        OutOfMemory = "out_of_memory",
        Busy = "busy",
        Moved = "moved",
        NoScript = "no_script",
        Denied = "denied",
        Timeout = "timeout",
        Closed = "closed",
        PoolWait = "pool_wait",
        Other = "other",
    }
);

label!(
    /// Why an identity was not believed.
    AuthFailure as "reason" {
        Missing = "missing",
        TooLong = "too_long",
        Malformed = "malformed",
        Header = "header",
        Algorithm = "algorithm",
        UnknownKey = "unknown_key",
        KeysUnavailable = "keys_unavailable",
        Signature = "signature",
        Expired = "expired",
        NotYetValid = "not_yet_valid",
        Issuer = "issuer",
        Audience = "audience",
        Subject = "subject",
        Claim = "claim",
        Revoked = "revoked",
        ApiKey = "api_key",
    }
);

label!(
    /// Which limit slowed somebody down.
    RateScope as "scope" {
        Connection = "connection",
        User = "user",
        Address = "address",
        Api = "api",
    }
);

label!(
    /// The class of an HTTP status.
    StatusClass as "status" {
        Informational = "1xx",
        Success = "2xx",
        Redirection = "3xx",
        ClientError = "4xx",
        ServerError = "5xx",
    }
);

impl StatusClass {
    /// The class of a status code; what no class holds counts as a server's error.
    #[must_use]
    pub const fn of(status: u16) -> Self {
        match status / 100 {
            1 => Self::Informational,
            2 => Self::Success,
            3 => Self::Redirection,
            4 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

label!(
    /// The plain HTTP routes, by their path; anything else is `other`.
    Route as "route" {
        Root = "/",
        Health = "/health",
        Livez = "/livez",
        Readyz = "/readyz",
        Status = "/ws/status",
        Metrics = "/metrics",
        OpenApi = "/openapi.json",
        Publish = "/api/v1/publish",
        PublishBatch = "/api/v1/publish/batch",
        Connections = "/api/v1/connections",
        User = "/api/v1/users/{id}",
        Disconnect = "/api/v1/disconnect",
        Topics = "/api/v1/topics",
        History = "/api/v1/topics/{topic}/history",
        Tickets = "/api/v1/tickets",
        Other = "other",
    }
);

label!(
    /// A close or error code of the wire contract; one that is not in it is `other`.
    Code as "code" {
        C1000 = "1000", C1001 = "1001", C1002 = "1002", C1003 = "1003", C1007 = "1007", C1008 = "1008",
        C1009 = "1009", C1011 = "1011", C1012 = "1012", C1013 = "1013",
        C4001 = "4001", C4002 = "4002", C4003 = "4003", C4004 = "4004",
        C4100 = "4100", C4101 = "4101", C4102 = "4102", C4103 = "4103", C4104 = "4104",
        C4500 = "4500", C4501 = "4501", C4502 = "4502", C4503 = "4503", C4504 = "4504",
        Other = "other",
    }
);

impl Code {
    /// The label of a code, as it goes over the wire.
    #[must_use]
    pub const fn of(code: u16) -> Self {
        match code {
            1000 => Self::C1000,
            1001 => Self::C1001,
            1002 => Self::C1002,
            1003 => Self::C1003,
            1007 => Self::C1007,
            1008 => Self::C1008,
            1009 => Self::C1009,
            1011 => Self::C1011,
            1012 => Self::C1012,
            1013 => Self::C1013,
            4001 => Self::C4001,
            4002 => Self::C4002,
            4003 => Self::C4003,
            4004 => Self::C4004,
            4100 => Self::C4100,
            4101 => Self::C4101,
            4102 => Self::C4102,
            4103 => Self::C4103,
            4104 => Self::C4104,
            4500 => Self::C4500,
            4501 => Self::C4501,
            4502 => Self::C4502,
            4503 => Self::C4503,
            4504 => Self::C4504,
            _ => Self::Other,
        }
    }
}
