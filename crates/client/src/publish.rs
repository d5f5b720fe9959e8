//! Publishing over the HTTP API.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tickgate_wire::model::StreamId;

use crate::{
    error::Error,
    http::{HttpRequest, TIMEOUT},
};

/// One publication.
#[derive(Clone, Debug, Serialize)]
pub struct PublicationRequest<'a> {
    /// A topic, or with `user` one of the user's private channels.
    pub channel: &'a str,
    /// The owner of the private channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
    /// A JSON object. It is sent exactly as written.
    pub data: &'a RawValue,
    /// The publisher's own id. A publication that is sent again with the same id arrives once, so it is safe to retry
    /// if the outcome is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msg_id: Option<&'a str>,
}

/// The result of an accepted publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicationReceipt {
    /// Its position; `None` if the topic is not retained.
    pub id: Option<StreamId>,
    /// It was published before under the same `msg_id`; `id` is that of the first time.
    pub duplicate: bool,
}

impl PublicationRequest<'_> {
    /// Publishes it through any replica, by its operations listener, such as `http://127.0.0.1:8001`; within 15 seconds.
    ///
    /// # Errors
    /// As [`PublicationRequest::publish_within`].
    pub async fn publish(&self, operations: &str, api_key: Option<&str>) -> Result<PublicationReceipt, Error> {
        self.publish_within(TIMEOUT, operations, api_key).await
    }

    /// Publishes it within a time limit.
    ///
    /// # Errors
    /// [`Error::Refused`] if the gateway did not accept it: with status 504 the outcome is unknown, with any other
    /// status it is certainly not stored. [`Error::Lost`] and [`Error::Timeout`]: the outcome is unknown.
    pub async fn publish_within(
        &self,
        timeout: Duration,
        operations: &str,
        api_key: Option<&str>,
    ) -> Result<PublicationReceipt, Error> {
        let body = serde_json::to_string(self).map_err(|error| Error::Invalid(error.to_string()))?;
        let request = HttpRequest::post(format!("{}/api/v1/publish", operations.trim_end_matches('/')), body);
        let request = api_key.into_iter().fold(request, HttpRequest::bearer);
        let response = request.timeout(timeout).send().await?.success()?;
        serde_json::from_str(&response.body)
            .map_err(|error| Error::Lost(format!("not a response of a gateway: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_sent_as_written() {
        let data = RawValue::from_string(r#"{"price": 1.10, "a":1e400}"#.into()).unwrap();
        let publication = PublicationRequest { channel: "orders", user: Some("alice"), data: &data, msg_id: None };
        let body = serde_json::to_string(&publication).unwrap();
        assert_eq!(body, r#"{"channel":"orders","user":"alice","data":{"price": 1.10, "a":1e400}}"#);
    }
}
