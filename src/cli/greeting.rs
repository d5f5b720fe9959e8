//! The text that a gateway in development mode prints at startup: its addresses, and three commands to copy. Never
//! printed outside development mode, because it contains a token and an API key.

use std::{fmt::Write, time::SystemTime};

use crate::{
    app::Addresses,
    auth::{DEMO_USER, demo_token},
    config::Config,
};

/// The text. `program` is the command that started this program, so that the lines can be copied as they are.
pub(super) fn greeting(
    config: &Config,
    Addresses { public, operations }: Addresses,
    program: &str,
    now: SystemTime,
) -> String {
    let mut text = format!("Tickgate {}, development mode, on loopback only\n\n", env!("CARGO_PKG_VERSION"));
    let backplane = config
        .redis
        .as_ref()
        .map_or_else(|| "memory: one replica, nothing is kept after it stops".into(), |redis| redis.access().shown());
    let token = demo_token(&config.auth, now);
    let key = config.auth.api_keys.first().map_or("", |key| key.expose());
    let sockets = format!("{}://{public}", if config.server.tls.is_some() { "wss" } else { "ws" });
    let operations = format!("{}://{operations}", if config.server.ops_tls.is_some() { "https" } else { "http" });
    let lines = [
        ("WebSockets", format!("{sockets}  {}", paths(config))),
        ("operations", format!("{operations}  /metrics /api/v1")),
        ("backplane", backplane),
        ("API key", key.into()),
        (
            "token",
            token.as_ref().map_or_else(
                || "your own: no HS256 secret is configured".into(),
                |t| format!("{t}  (user {DEMO_USER}, one day)"),
            ),
        ),
    ];
    for (name, value) in lines {
        let _ = writeln!(text, "  {name:<11} {value}");
    }
    let order = r#"{"type":"order_update","order_id":"1","status":"filled"}"#;
    let token = token.as_deref().unwrap_or("TOKEN");
    let at = |usual: &str, url: String| if url == usual { String::new() } else { format!(" --url {url}") };
    let market = at("ws://127.0.0.1:8000/ws/market", format!("{sockets}/ws/market"));
    let api = at("http://127.0.0.1:8001", operations);
    let copy = [
        ("watch", format!("{program} tail{market} ticker:BTCUSDT")),
        ("subscribe", format!("{program} tail --url {sockets}/ws/trading --token {token} orders")),
        ("publish", format!("{program} publish{api} --api-key {key} --user {DEMO_USER} orders '{order}'")),
    ];
    for (name, line) in copy {
        let _ = write!(text, "\n{name}:\n  {line}\n");
    }
    text
}

fn paths(config: &Config) -> String {
    config.profiles.iter().map(|profile| profile.path.as_str()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[tokio::test]
    async fn the_lines_can_be_copied() {
        let config = Config::development();
        let [public, operations] = [8000, 9001].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let text = greeting(&config, Addresses { public, operations }, "./tickgate", SystemTime::now());
        assert!(text.contains("\n  ./tickgate tail ticker:BTCUSDT\n"), "{text}");
        assert!(text.contains("./tickgate publish --url http://127.0.0.1:9001 --api-key"), "{text}");
        assert!(text.contains("loopback only") && text.contains("memory"));
        let token = text.split("--token ").nth(1).unwrap().split(' ').next().unwrap();
        let verifier = crate::auth::Verifier::new(&config.auth).unwrap();
        let identity = verifier.verify(token, SystemTime::now()).await.unwrap();
        assert!(identity.rights.may_subscribe("logs", false) && identity.rights.may_publish("run:1"));
    }
}
