//! Key sets over a real socket: rotation, failure, bounds.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{keys::SigningPair, *};
use crate::{config::Jwks, metrics::Metrics, tasks::Tasks};

/// Status line and body of the server's response.
type KeySetResponse = (&'static str, String);

/// An HTTP server on loopback that counts its requests.
struct KeySetServer {
    url: String,
    answer: Arc<Mutex<KeySetResponse>>,
    requests: Arc<AtomicUsize>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

impl KeySetServer {
    async fn start(answer: KeySetResponse) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys.json", listener.local_addr().unwrap());
        let (answer, requests, tasks) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)), Tasks::new());
        let (answers, count) = (Arc::clone(&answer), Arc::clone(&requests));
        tasks.spawn("key_server", async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let _ = socket.read(&mut head).await;
                count.fetch_add(1, Ordering::SeqCst);
                let (status, body) = answers.lock().clone();
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nlocation: /elsewhere", body.len());
                let _ = socket.write_all(format!("{head}\r\nconnection: close\r\n\r\n{body}").as_bytes()).await;
            }
        });
        Self { url, answer, requests, tasks, metrics: Metrics::new() }
    }

    fn now_answers(&self, answer: KeySetResponse) {
        *self.answer.lock() = answer;
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// A verifier with only this server's keys, after its first fetch.
    async fn verifier(&self) -> Verifier {
        self.verifier_with(Duration::from_secs(86_400)).await
    }

    /// The same, with a maximum age of keys.
    async fn verifier_with(&self, age_max: Duration) -> Verifier {
        let refresh_interval = Duration::from_secs(600);
        let jwks = Jwks { url: self.url.clone(), refresh_interval, age_max, ..Jwks::default() };
        let verifier = Verifier::new(&Auth { jwks: Some(jwks), hs256_secrets: Vec::new(), ..config() }).unwrap();
        verifier.start(&self.tasks, &self.metrics).await;
        verifier
    }
}

fn set(keys: &[Value]) -> KeySetResponse {
    ("200 OK", json!({ "keys": keys }).to_string())
}

fn public(pair: &SigningPair, kid: &str) -> Value {
    let mut jwk = serde_json::to_value(pair.jwk()).unwrap();
    jwk["kid"] = json!(kid);
    jwk
}

fn token(pair: &SigningPair, kid: Option<&str>) -> String {
    signed(&with_kid(pair.algorithm, kid), &good(), &pair.private)
}

async fn verified(verifier: &Verifier, token: &str, after_seconds: u64) -> Result<String, TokenError> {
    let identity = verifier.verify(token, now() + Duration::from_secs(after_seconds)).await;
    identity.map(|identity| identity.user.to_string())
}

#[tokio::test]
async fn every_kind_of_key_is_found_by_its_kid() {
    let pairs = [(keys::rs256(), "r"), (keys::es256(), "e"), (keys::eddsa(), "d")];
    let server = KeySetServer::start(set(&pairs.each_ref().map(|(pair, kid)| public(pair, kid)))).await;
    let verifier = server.verifier().await;
    for (pair, kid) in &pairs {
        assert_eq!(
            outcome(&verifier, &token(pair, Some(kid))).as_deref(),
            Ok("alice"),
            "no wait after the first fetch"
        );
        assert_eq!(outcome(&verifier, &token(pair, None)).as_deref(), Ok("alice"), "the only key of its algorithm");
        assert_eq!(outcome(&verifier, &token(pair, Some("other"))), Err(TokenError::UnknownKey));
    }
    assert_eq!(server.requests(), 1);
    assert_eq!(verified(&verifier, &token(&keys::es256(), Some("e")), 0).await, Err(TokenError::Signature));
}

#[tokio::test]
async fn a_rotated_key_is_fetched_at_a_bounded_rate() {
    let (old, new) = (keys::es256(), keys::es256());
    let server = KeySetServer::start(set(&[public(&old, "k1")])).await;
    let verifier = server.verifier().await;
    server.now_answers(set(&[public(&old, "k1"), public(&new, "k2")]));
    assert_eq!(verified(&verifier, &token(&new, Some("k2")), 5).await, Err(TokenError::UnknownKey), "too soon");
    assert_eq!(server.requests(), 1);
    assert_eq!(verified(&verifier, &token(&new, Some("k2")), 40).await.as_deref(), Ok("alice"));
    assert_eq!(verified(&verifier, &token(&old, Some("k1")), 40).await.as_deref(), Ok("alice"));
    server.now_answers(set(&[public(&new, "k2")]));
    assert_eq!(verified(&verifier, &token(&old, Some("k3")), 75).await, Err(TokenError::UnknownKey));
    assert_eq!(verified(&verifier, &token(&old, Some("k1")), 76).await, Err(TokenError::UnknownKey), "withdrawn");
    assert_eq!(server.requests(), 3);
    assert_eq!(verified(&verifier, &token(&new, None), 76).await.as_deref(), Ok("alice"));
}

#[tokio::test]
async fn two_keys_are_ambiguous_without_a_kid() {
    let (one, two) = (keys::es256(), keys::es256());
    let server = KeySetServer::start(set(&[public(&one, "k1"), public(&two, "k2")])).await;
    assert_eq!(outcome(&server.verifier().await, &token(&one, None)), Err(TokenError::UnknownKey));
}

#[tokio::test]
async fn a_flood_of_unknown_keys_causes_one_fetch() {
    let key = keys::es256();
    let server = KeySetServer::start(set(&[public(&key, "k1")])).await;
    let verifier = server.verifier().await;
    let tokens: Vec<_> = (0..50).map(|i| token(&key, Some(&format!("made-up-{i}")))).collect();
    let outcomes = join_all(tokens.iter().map(|token| verified(&verifier, token, 60))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Err(TokenError::UnknownKey)), "{outcomes:?}");
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn known_keys_stay_when_the_server_fails() {
    let key = keys::es256();
    let server = KeySetServer::start(set(&[public(&key, "k1")])).await;
    let verifier = server.verifier().await;
    let failures = [
        ("500 Internal Server Error", "{}".into()),
        ("302 Found", String::new()),
        ("200 OK", "not json".into()),
        ("200 OK", r#"{"keys":[]}"#.into()),
        ("200 OK", format!(r#"{{"keys":[],"padding":"{}"}}"#, "x".repeat(300_000))),
    ];
    for (i, failure) in failures.into_iter().enumerate() {
        server.now_answers(failure);
        let later = 60 * (i as u64 + 1);
        assert_eq!(verified(&verifier, &token(&key, Some("k2")), later).await, Err(TokenError::UnknownKey));
        assert!(server.requests() > i + 1, "an attempt was made");
        let failed = server.metrics.key_set_failures_total.get() as usize;
        assert_eq!(failed, server.requests() - 1, "all but the first failed");
        assert_eq!(outcome(&verifier, &token(&key, Some("k1"))).as_deref(), Ok("alice"));
    }
}

#[tokio::test]
async fn a_set_that_was_never_loaded_is_a_retryable_failure() {
    let key = keys::es256();
    let over_the_limit = json!({ "keys": [public(&key, "k1")], "padding": "x".repeat(256 * 1024) });
    let server = KeySetServer::start(("200 OK", over_the_limit.to_string())).await;
    let verifier = server.verifier().await;
    assert_eq!(verified(&verifier, &token(&key, Some("k1")), 0).await, Err(TokenError::KeysUnavailable));
    assert!(verifier.awaits_keys());
    server.now_answers(set(&[public(&key, "k1")]));
    assert_eq!(verified(&verifier, &token(&key, Some("k1")), 60).await.as_deref(), Ok("alice"));
    server.now_answers(("500 Internal Server Error", "{}".into()));
    assert_eq!(verified(&verifier, &token(&key, Some("k2")), 120).await, Err(TokenError::UnknownKey));
    assert!(!verifier.awaits_keys(), "the last good keys stay in use");
}

#[tokio::test]
async fn keys_are_not_used_beyond_their_maximum_age() {
    let key = keys::es256();
    let server = KeySetServer::start(set(&[public(&key, "k1")])).await;
    let age_max = Duration::from_millis(200);
    let verifier = server.verifier_with(age_max).await;
    assert!(server.metrics.key_set_fetched_timestamp_seconds.get() > 0);
    assert_eq!(outcome(&verifier, &token(&key, Some("k1"))).as_deref(), Ok("alice"));
    server.now_answers(("500 Internal Server Error", "{}".into()));
    tokio::time::sleep(age_max).await;
    assert_eq!(outcome(&verifier, &token(&key, Some("k1"))), Err(TokenError::KeysUnavailable));
    assert!(verifier.awaits_keys(), "not ready: no token can be verified");
    server.now_answers(set(&[public(&key, "k1")]));
    assert_eq!(verified(&verifier, &token(&key, Some("k1")), 60).await.as_deref(), Ok("alice"), "fetched again");
}

#[tokio::test]
async fn keys_that_must_not_verify_are_omitted() {
    let (key, rsa) = (keys::es256(), keys::rs256());
    let with = |field: &str, value: Value| {
        let mut jwk = public(&key, "k1");
        jwk[field] = value;
        jwk
    };
    let mut rsa_of_other_algorithm = public(&rsa, "k1");
    rsa_of_other_algorithm["alg"] = json!("RS512");
    let secret = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET), "alg": "HS256", "kid": "k1" });
    let unusable = [
        secret,
        rsa_of_other_algorithm,
        with("use", json!("enc")),
        with("key_ops", json!(["sign"])),
        with("crv", json!("P-384")),
        with("x", json!("AAAA")),
        with("kty", json!("XYZ")),
        json!("not a key"),
    ];
    let server = KeySetServer::start(set(&unusable)).await;
    let verifier = server.verifier().await;
    assert_eq!(outcome(&verifier, &token(&key, Some("k1"))), Err(TokenError::KeysUnavailable), "no usable key");
    server.now_answers(set(&[&unusable[..], &[public(&key, "k1")]].concat()));
    assert_eq!(verified(&verifier, &token(&key, Some("k1")), 60).await.as_deref(), Ok("alice"));
    let by_secret =
        signed(&with_kid(Algorithm::HS256, Some("k1")), &good(), &EncodingKey::from_secret(SECRET.as_bytes()));
    assert_eq!(outcome(&verifier, &by_secret), Err(TokenError::Algorithm), "a key set holds no secrets");
}

#[test]
fn only_safe_addresses_are_fetched() {
    let new = |url: &str| {
        let jwks = Jwks { url: url.into(), ..Jwks::default() };
        Verifier::new(&Auth { jwks: Some(jwks), ..config() }).map(|_| ())
    };
    for url in ["https://id.example/keys", "http://127.0.0.1:9/k", "http://localhost/k", "http://[::1]:9/k"] {
        assert_eq!(new(url), Ok(()), "{url}");
    }
    for url in
        ["http://id.example/keys", "http://localhost.example/k", "http://10.0.0.1/k", "ftp://a/b", "/keys", "", "x y"]
    {
        assert!(new(url).is_err(), "{url}");
    }
}

#[tokio::test]
async fn a_key_replaced_under_the_same_kid_is_fetched_at_most_once_a_minute() {
    let (old, new) = (keys::es256(), keys::es256());
    let server = KeySetServer::start(set(&[public(&old, "same")])).await;
    let verifier = server.verifier().await;
    server.now_answers(set(&[public(&new, "same")]));
    let of_new = token(&new, Some("same"));
    assert_eq!(verified(&verifier, &of_new, 1).await.as_deref(), Ok("alice"), "the first bad signature causes a fetch");
    let of_old = token(&old, Some("same"));
    assert_eq!(verified(&verifier, &of_old, 30).await, Err(TokenError::Signature), "less than a minute later");
    assert_eq!(server.requests(), 2);
    assert_eq!(verified(&verifier, &of_old, 61).await, Err(TokenError::Signature));
    assert_eq!(server.requests(), 3);
    let secret = hs256(&good());
    assert!(verified(&verifier, &secret, 500).await.is_err());
    assert_eq!(server.requests(), 3, "no secret comes from a key set");
}

#[test]
fn a_key_set_requires_tls_unless_its_address_is_allowed() {
    let new = |url: &str, ranges: &[&str]| {
        let plain_ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let jwks = Jwks { url: url.into(), plain_ranges, ..Jwks::default() };
        Verifier::new(&Auth { jwks: Some(jwks), ..config() }).is_ok()
    };
    for url in ["https://id.example/keys", "http://127.0.0.1:1/k", "http://[::1]/k", "http://localhost/k"] {
        assert!(new(url, &[]), "{url}");
    }
    assert!(new("http://10.1.2.3/k", &["10.0.0.0/8"]) && new("http://keycloak.auth.svc/k", &["10.0.0.0/8"]));
    for url in ["http://id.example/keys", "http://10.1.2.3/k", "ftp://127.0.0.1/", "http://[fd00::1]/k"] {
        assert!(!new(url, &[]), "{url}");
    }
    assert!(!new("http://11.1.2.3/k", &["10.0.0.0/8"]));
}
