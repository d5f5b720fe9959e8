//! The domain types of the gateway: ids, topics, delivery classes, publications. No I/O, no clock.

mod class;
mod ids;
mod issued;
mod level;
mod pattern;
mod publication;
mod start;
mod stream_id;
mod topic;

pub use class::{Class, PrivateChannel, TopicRule, TopicRules};
pub use ids::{InvalidId, MsgId, ReplicaId, SessionId, SessionSecret, UserId};
pub use issued::IssuedAt;
pub use level::LogLevel;
pub use pattern::{InvalidPattern, Pattern};
pub use publication::{Content, Message, Once, Publication};
pub use start::StartAt;
pub use stream_id::{InvalidStreamId, StreamId};
pub use topic::{InvalidName, RESERVED, Topic, check_name};
