//! Inquiries to all replicas about their open connections, and how their answers combine. Pure.
//!
//! A page of a listing combines the pages of all replicas: each returns its first connections by id, and connections
//! after the end of any incomplete answer are left for the next page.

use serde::{Deserialize, Serialize};

/// An inquiry to all replicas. Each answers about its own connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inquiry {
    /// The first `limit` matching connections in the order of their ids, after the id `after`.
    List {
        /// Which connections to list.
        matching: ConnectionFilter,
        /// The last id of the previous page; `None`: from the start.
        after: Option<String>,
        /// Maximum number of connections.
        limit: usize,
    },
    /// Send this payload, a JSON object, to one connection.
    Send {
        /// The connection's id.
        connection_id: String,
        /// One JSON object.
        payload: String,
    },
    /// Close the matching connections (4500).
    Close {
        /// Which connections to close.
        matching: ConnectionFilter,
        /// The text of the Close frame.
        reason: String,
    },
}

/// A filter of connections, which must match all given fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionFilter {
    /// Only this connection.
    pub connection_id: Option<String>,
    /// Only connections of this user.
    pub user: Option<String>,
    /// The name of a profile.
    pub endpoint: Option<String>,
    /// The path parameter.
    pub param: Option<String>,
    /// The topic under which subscribers are counted.
    pub topic: Option<String>,
    /// The client has sent nothing for this time, not even an answer to a ping.
    pub idle_seconds: Option<u64>,
}

/// One open connection, for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenConnection {
    /// The connection's id, unique in the cluster.
    pub connection_id: String,
    /// The session's id.
    pub session: String,
    /// The replica that holds the socket.
    pub replica: String,
    /// The user, once known.
    pub user: Option<String>,
    /// The name of the profile.
    pub endpoint: String,
    /// The path parameter, such as a run id.
    pub param: Option<String>,
    /// Milliseconds since 1970.
    pub connected_ms: u64,
    /// When the client last sent something, in milliseconds since 1970.
    pub heard_ms: u64,
    /// The subscribed channels, by the client's names.
    pub channels: Vec<String>,
}

/// One replica's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaAnswer {
    /// `more`: further connections match.
    Listed {
        /// Ordered by connection id, up to the page's size.
        connections: Vec<OpenConnection>,
        /// Further connections follow.
        more: bool,
    },
    /// The replica holds the connection, with this result.
    Sent(SendResult),
    /// How many are being closed.
    Closed(usize),
}

/// The result of sending to one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SendResult {
    /// The message was queued for the connection.
    Taken,
    /// The connection's queue is full.
    Full,
    /// There is no such connection.
    Unknown,
}

/// All answers to an inquiry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InquiryAnswers {
    /// One per replica that answered in time.
    pub answers: Vec<ReplicaAnswer>,
    /// Whether all replicas that had to answer did so in time.
    pub complete: bool,
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionPage {
    /// Ordered by connection id.
    pub connections: Vec<OpenConnection>,
    /// Where the next page starts; `None` on the last page.
    pub cursor: Option<String>,
    /// Whether every live replica has answered.
    pub complete: bool,
}

impl Inquiry {
    /// Whether the answer leaves nothing for other replicas to do.
    pub(super) fn is_settled_by(&self, answer: &ReplicaAnswer) -> bool {
        match (self, answer) {
            (Self::Send { .. }, ReplicaAnswer::Sent(sent)) => *sent != SendResult::Unknown,
            (Self::Close { matching, .. }, ReplicaAnswer::Closed(closed)) => {
                matching.connection_id.is_some() && *closed > 0
            }
            _ => false,
        }
    }

    /// Whether it concerns at most one replica, so that this one is asked first.
    pub(super) fn is_about_one(&self) -> bool {
        match self {
            Self::List { .. } => false,
            Self::Send { .. } => true,
            Self::Close { matching, .. } => matching.connection_id.is_some(),
        }
    }

    /// The topic whose subscribers are requested.
    pub(super) fn topic(&self) -> Option<&str> {
        match self {
            Self::List { matching, .. } | Self::Close { matching, .. } => matching.topic.as_deref(),
            Self::Send { .. } => None,
        }
    }
}

impl InquiryAnswers {
    /// The answer of one replica, if no other one had to answer.
    #[must_use]
    pub fn of(answer: ReplicaAnswer) -> Self {
        Self { answers: vec![answer], complete: true }
    }

    /// A page of at most `limit` connections.
    #[must_use]
    pub fn page(self, limit: usize) -> ConnectionPage {
        let (mut all, mut end, mut more) = (Vec::new(), None::<String>, false);
        for answer in self.answers {
            let ReplicaAnswer::Listed { connections, more: goes_on } = answer else { continue };
            if let (true, Some(last)) = (goes_on, connections.last()) {
                more = true;
                end = Some(end.map_or_else(|| last.connection_id.clone(), |end| end.min(last.connection_id.clone())));
            }
            all.extend(connections);
        }
        all.sort_by(|one, other| one.connection_id.cmp(&other.connection_id));
        if let Some(end) = end {
            all.retain(|connection| connection.connection_id <= end);
        }
        more |= all.len() > limit;
        all.truncate(limit);
        let cursor = all.last().filter(|_| more).map(|last| last.connection_id.clone());
        ConnectionPage { connections: all, cursor, complete: self.complete }
    }

    /// The result of sending; `None`: a replica that has not answered may have sent it.
    #[must_use]
    pub fn sent(&self) -> Option<SendResult> {
        let known = self.answers.iter().find_map(|answer| match answer {
            ReplicaAnswer::Sent(sent) if *sent != SendResult::Unknown => Some(*sent),
            _ => None,
        });
        known.or_else(|| self.complete.then_some(SendResult::Unknown))
    }

    /// How many connections are being closed.
    #[must_use]
    pub fn closed(&self) -> usize {
        let closed = |answer: &ReplicaAnswer| if let ReplicaAnswer::Closed(closed) = answer { *closed } else { 0 };
        self.answers.iter().map(closed).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(id: u64) -> OpenConnection {
        OpenConnection {
            connection_id: format!("{id:016x}"),
            session: String::new(),
            replica: "r1".into(),
            user: None,
            endpoint: "market".into(),
            param: None,
            connected_ms: 0,
            heard_ms: 0,
            channels: Vec::new(),
        }
    }

    /// The answer of a replica with these connections.
    fn answer(all: &[u64], after: Option<&str>, limit: usize) -> ReplicaAnswer {
        let mut found: Vec<_> = all.iter().map(|id| connection(*id)).collect();
        found.sort_by(|one, other| one.connection_id.cmp(&other.connection_id));
        found.retain(|one| after.is_none_or(|after| *one.connection_id > *after));
        let more = found.len() > limit;
        found.truncate(limit);
        ReplicaAnswer::Listed { connections: found, more }
    }

    #[test]
    fn pages_list_all_connections_of_all_replicas_once() {
        let replicas: [&[u64]; 3] = [&[9, 1, 5, 300], &[2, 3, 4, 6, 7, 8], &[]];
        for (of_a_replica, of_a_page) in [(1, 1), (2, 3), (3, 3), (2, 100), (10, 4), (10, 100)] {
            let (mut seen, mut after) = (Vec::new(), None::<String>);
            loop {
                let answers = replicas.map(|all| answer(all, after.as_deref(), of_a_replica)).to_vec();
                let page = InquiryAnswers { answers, complete: true }.page(of_a_page);
                assert!(page.connections.len() <= of_a_page && page.complete);
                seen.extend(page.connections.into_iter().map(|one| one.connection_id));
                after = page.cursor;
                if after.is_none() {
                    break;
                }
            }
            let all: Vec<_> = [1, 2, 3, 4, 5, 6, 7, 8, 9, 300].map(|id| connection(id).connection_id).into();
            assert_eq!(seen, all, "{of_a_replica} {of_a_page}");
        }
    }

    #[test]
    fn the_result_of_sending_is_unknown_only_while_an_answer_is_missing() {
        let sent = |answers: &[SendResult], complete| {
            InquiryAnswers { answers: answers.iter().copied().map(ReplicaAnswer::Sent).collect(), complete }.sent()
        };
        assert_eq!(sent(&[SendResult::Unknown, SendResult::Taken], true), Some(SendResult::Taken));
        assert_eq!(sent(&[SendResult::Full], false), Some(SendResult::Full));
        assert_eq!(sent(&[SendResult::Unknown, SendResult::Unknown], true), Some(SendResult::Unknown));
        assert_eq!((sent(&[SendResult::Unknown], false), sent(&[], false)), (None, None));
    }
}
