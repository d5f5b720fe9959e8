//! The values of metric labels: closed sets, so that a scrape stays small regardless of clients. Never a user, a
//! symbol, an address or a connection.

use tickgate_wire::{
    code::{self, CODES},
    model::Class,
};

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

            /// The exported value.
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

mod feed;

pub use feed::{BadFrame, FeedData, FeedEnd, FeedFrame, FeedState};

label!(
    /// The outcome of a WebSocket handshake.
    HandshakeResult as "result" {
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
    /// The outcome of a TLS handshake.
    TlsHandshake as "result" {
        Accepted = "accepted",
        Failed = "failed",
        Timeout = "timeout",
    }
);

label!(
    /// A certificate that this replica presents: on a listener, or to Redis.
    ShownCertificate as "certificate" {
        Public = "public",
        Operations = "operations",
        RedisClient = "redis_client",
    }
);

label!(
    /// Why a connection ended.
    DisconnectReason as "reason" {
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
    /// The source of a publication.
    PublicationSource as "source" {
        Http = "http",
        Socket = "socket",
        Ingest = "ingest",
        Command = "command",
        Feed = "feed",
    }
);

label!(
    /// The class of a topic.
    TopicClass as "class" {
        Reliable = "reliable",
        Event = "event",
        State = "state",
    }
);

impl From<Class> for TopicClass {
    fn from(class: Class) -> Self {
        match class {
            Class::Reliable => Self::Reliable,
            Class::Event => Self::Event,
            Class::State => Self::State,
        }
    }
}

label!(
    /// The class of a publication's topic; `none` if it names no topic.
    PublicationClass as "class" {
        Reliable = "reliable",
        Event = "event",
        State = "state",
        None = "none",
    }
);

impl From<Option<Class>> for PublicationClass {
    fn from(class: Option<Class>) -> Self {
        match class {
            Some(Class::Reliable) => Self::Reliable,
            Some(Class::Event) => Self::Event,
            Some(Class::State) => Self::State,
            None => Self::None,
        }
    }
}

label!(
    /// The purpose of a command to Redis.
    RedisCommand as "kind" {
        Publish = "publish",
        Read = "read",
        Compare = "compare",
        Admit = "admit",
        Lease = "lease",
        Registry = "registry",
        Probe = "probe",
    }
);

label!(
    /// The result of a publication.
    PublishResult as "result" {
        Accepted = "accepted",
        Duplicate = "duplicate",
        LeftOut = "left_out",
        Invalid = "invalid",
        TooLarge = "too_large",
        Refused = "refused",
        Unknown = "unknown",
        Reused = "reused",
    }
);

label!(
    /// Why a client received a gap notice.
    GapLabel as "reason" {
        SlowConsumer = "slow_consumer",
        Retention = "retention",
        Backplane = "backplane",
        Failover = "failover",
        FailoverResumed = "failover_resumed",
        InvalidPayload = "invalid_payload",
    }
);

label!(
    /// The source that answered a request for missed messages.
    ReplayResult as "result" {
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
    LinkLabel as "link" {
        Command = "command",
        PubSub = "pubsub",
    }
);

label!(
    /// A queue of topics that wait for the hub.
    WorkQueueKind as "queue" {
        Compare = "compare",
        Read = "read",
    }
);

label!(
    /// A failure of Redis. Errors that Redis returns have its error code as their name.
    RedisError as "kind" {
        Loading = "loading",
        ReadOnly = "readonly",
        MasterDown = "masterdown",
        Oom = "oom",
        Misconf = "misconf",
        NoReplicas = "noreplicas",
        Busy = "busy",
        Stale = "stale",
        Format = "format",
        NoScript = "noscript",
        Moved = "moved",
        Ask = "ask",
        TryAgain = "tryagain",
        ClusterDown = "clusterdown",
        CrossSlot = "crossslot",
        WrongType = "wrongtype",
        NoPerm = "noperm",
        NoAuth = "noauth",
        WrongPass = "wrongpass",
        Timeout = "timeout",
        Closed = "closed",
        PoolWait = "pool_wait",
        Other = "other",
    }
);

label!(
    /// The result of a reload of settings and secrets.
    ReloadResult as "result" {
        Ok = "ok",
        Failed = "failed",
    }
);

label!(
    /// Why an identity was refused.
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
    /// The result of a request with an API key.
    KeyUse as "result" {
        Accepted = "accepted",
        Forbidden = "forbidden",
        RateLimited = "rate_limited",
    }
);

label!(
    /// The rate limit that was exceeded.
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
    /// The class of a status code; a code outside all classes counts as a server error.
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
    /// The plain HTTP routes, by path; all others are `other`.
    RouteLabel as "route" {
        Root = "/",
        Health = "/health",
        Livez = "/livez",
        Readyz = "/readyz",
        Status = "/ws/status",
        Metrics = "/metrics",
        OpenApi = "/openapi.json",
        Publish = "/api/v1/publish",
        PublishBatch = "/api/v1/publish/batch",
        Send = "/api/v1/send",
        Presence = "/api/v1/presence",
        Connections = "/api/v1/connections",
        User = "/api/v1/users/{id}",
        Disconnect = "/api/v1/disconnect",
        Topics = "/api/v1/topics",
        Topic = "/api/v1/topics/{topic}",
        History = "/api/v1/topics/{topic}/history",
        Replicas = "/api/v1/replicas",
        Tickets = "/api/v1/tickets",
        AdminDrain = "/api/v1/admin/drain",
        AdminUndrain = "/api/v1/admin/undrain",
        AdminRebalance = "/api/v1/admin/rebalance",
        AdminLog = "/api/v1/admin/log",
        AdminTrace = "/api/v1/admin/trace",
        AdminConfig = "/api/v1/admin/config",
        AdminConnection = "/api/v1/admin/connections/{connection_id}",
        Other = "other",
    }
);

/// A close or error code of the wire contract; unknown codes are `other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeLabel(usize);

impl CodeLabel {
    /// The label of a code, as sent on the wire.
    #[must_use]
    pub fn of(code: u16) -> Self {
        Self(code::index(code).unwrap_or(CODES.len()))
    }
}

impl Labels for CodeLabel {
    const NAMES: &'static [&'static str] = &["code"];
    const COUNT: usize = CODES.len() + 1;

    fn index(self) -> usize {
        self.0
    }

    fn values(index: usize) -> Vec<&'static str> {
        vec![CODES.get(index).map_or("other", |code| code.label)]
    }
}
