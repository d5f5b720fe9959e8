//! Key sets fetched over HTTPS from a server with a certificate of a private authority.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{
    redis_tls,
    support::{
        eventually,
        redis::{RedisServer, free_port},
        replica::TestReplica,
    },
};

/// The example of RFC 7517, appendix A.1.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"1",
    "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

/// Serves the files of a directory over HTTPS until it is dropped.
struct Provider(Child);

impl Provider {
    fn start(certificates: &Path, port: u16) -> Self {
        // As an editor might have saved it.
        fs::write(certificates.join("keys.json"), format!("\u{feff}{KEYS}")).unwrap();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-quiet", "-WWW", "-accept", &port.to_string(), "-cert", "redis.pem"]);
        command.args(["-key", "redis.key"]).current_dir(certificates);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.expect("openssl: install it (apt-get install openssl)"))
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn only_the_configured_authority_is_trusted() {
    let (certificates, port, redis) = (redis_tls::certificates(), free_port(), RedisServer::start());
    let _provider = Provider::start(certificates.path(), port);
    let settings = |authority: &str| {
        let authority = certificates.path().join(authority);
        let url = format!("https://127.0.0.1:{port}/keys.json");
        format!("[auth]\njwks_url = \"{url}\"\nca_file = \"{}\"\n", authority.display())
    };
    let trusting = TestReplica::alone_with(&settings("ca.pem")).await;
    let fetched = "tickgate_key_set_fetched_timestamp_seconds";
    eventually("the keys", async || (trusting.metric(fetched).await > 0.0).then_some(())).await;

    let other = TestReplica::process(&redis, &settings("other.pem")).await;
    let said = eventually("the cause", async || {
        let log = other.log();
        log.lines().find(|line| line.contains("key set can't be loaded")).map(str::to_owned)
    })
    .await;
    assert!(said.contains("certificate") || said.contains("UnknownIssuer"), "{said}");
    assert_eq!(other.metric(fetched).await, 0.0);
}
