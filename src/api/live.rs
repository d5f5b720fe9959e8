//! The page that a browser receives at `/` in development mode: prices, orders, and guarantees to try. Never served in
//! production, because it contains a token.

use std::time::SystemTime;

use axum::{
    http::{HeaderMap, HeaderValue, header},
    response::{Html, IntoResponse, Response},
};
use serde_json::json;
use uuid::Uuid;

use super::ApiShared;
use crate::auth;

const PAGE: &str = include_str!("live/page.html");

/// Whether the request comes from a browser that opens the page.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepts.flat_map(|value| value.split(',')).any(|kind| kind.trim().starts_with("text/html"))
}

/// The page, with a token for the user `demo` and the symbols of the synthetic feed.
pub(super) fn page(shared: &ApiShared, now: SystemTime) -> Response {
    let synthetic = shared.config.feeds.synthetic.as_ref();
    let symbols = synthetic.map_or(&[][..], |feed| &feed.symbols);
    let settings = json!({
        "token": auth::demo_token(&shared.config.auth, now),
        "symbols": symbols,
    });
    let nonce = Uuid::new_v4().simple().to_string();
    // Inside a script element, `</script>` would end it.
    let settings = settings.to_string().replace('<', "\\u003c");
    let page =
        PAGE.replace("VERSION", env!("CARGO_PKG_VERSION")).replace("NONCE", &nonce).replace("SETTINGS", &settings);
    let policy = format!(
        "default-src 'none'; connect-src 'self' ws: wss:; img-src data:; script-src 'nonce-{nonce}'; \
         style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = Html(page).into_response();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}
