//! CORS: which other origins may read the public routes. Never allows credentials, because these routes use no cookies.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{
    config::{LOOPBACK_ORIGINS, is_loopback_origin},
    problem::REQUEST_ID,
};

/// Allows the origins of `server.allowed_origins`; `"*"` allows all. Development mode allows those of this machine by
/// default.
pub(super) fn layer(origins: &[String]) -> CorsLayer {
    let is = |wanted: &str| origins.iter().any(|origin| origin == wanted);
    let allowed = if is("*") {
        AllowOrigin::any()
    } else if is(LOOPBACK_ORIGINS) {
        AllowOrigin::predicate(|origin, _| origin.to_str().is_ok_and(is_loopback_origin))
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::HEAD, Method::OPTIONS])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, HeaderName::from_static("x-api-key"), REQUEST_ID])
        .expose_headers([REQUEST_ID, header::RETRY_AFTER])
        .max_age(Duration::from_secs(600))
}
