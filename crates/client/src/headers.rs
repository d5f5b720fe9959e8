//! Headers as the caller gave them. Their values are never shown: one of them is a token or a key.

use std::fmt;

use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL},
};

use crate::error::Error;

/// Names and values, which may be invalid.
#[derive(Clone, Default)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    pub(crate) fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// `Authorization: Bearer <key>`.
    pub(crate) fn push_bearer(&mut self, key: &str) {
        self.push(AUTHORIZATION.as_str(), format!("Bearer {key}"));
    }

    /// Adds them to a request.
    pub(crate) fn put(&self, map: &mut HeaderMap) -> Result<(), Error> {
        for (name, value) in &self.0 {
            let invalid = || Error::Invalid(format!("the header {name:?} is not valid"));
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| invalid())?;
            value.set_sensitive(name == AUTHORIZATION || name == SEC_WEBSOCKET_PROTOCOL);
            map.append(name, value);
        }
        Ok(())
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}
