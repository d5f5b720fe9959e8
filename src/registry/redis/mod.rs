//! The registry of several replicas, in Redis.
use super::*;

#[derive(Clone, Debug)]
pub struct Redis;

impl Redis {
    pub(super) async fn admit(&self, _a: &Admission) -> Result<Verdict, Unavailable> {
        unimplemented!()
    }
    pub(super) fn opened(&self, _info: ConnectionInfo) {
        unimplemented!()
    }
    pub(super) fn closed(&self, _session: SessionId, _user: Option<&UserId>) {
        unimplemented!()
    }
    pub(super) fn record(&self, _session: SessionId, _record: SessionRecord) {
        unimplemented!()
    }
    pub(super) async fn recall(&self, _session: SessionId) -> Result<Option<SessionRecord>, Unavailable> {
        unimplemented!()
    }
    pub(super) async fn control(&self, _control: Control) -> Result<(), Unavailable> {
        unimplemented!()
    }
    pub(super) async fn revoke(&self, _user: &UserId, _ttl: Duration) -> Result<(), Unavailable> {
        unimplemented!()
    }
    pub(super) async fn put_ticket(&self, _ticket: &str, _token: &str, _ttl: Duration) -> Result<(), Unavailable> {
        unimplemented!()
    }
    pub(super) async fn take_ticket(&self, _ticket: &str) -> Result<Option<String>, Unavailable> {
        unimplemented!()
    }
    pub(super) async fn cluster(&self) -> Result<ClusterFigures, Unavailable> {
        unimplemented!()
    }
    pub(super) async fn connections(&self, _limit: usize) -> Result<Vec<ConnectionInfo>, Unavailable> {
        unimplemented!()
    }
    pub(super) async fn hold(&self, _name: &str, _ttl: Duration) -> Result<bool, Unavailable> {
        unimplemented!()
    }
    pub(super) async fn leave(&self) -> Result<(), Unavailable> {
        unimplemented!()
    }
}
