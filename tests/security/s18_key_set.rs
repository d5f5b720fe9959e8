//! S18: an attacker blocks the gateway from its key set, so that a withdrawn key stays valid. It once stayed valid for
//! as long as the block lasted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, jwk::Jwk};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    attacker::Attacker,
    neighbour::Question,
    scene::{AttackLength, AttackScene},
    siege::{GrowthBounds, Siege},
    support::{client::ConnectRequest, eventually},
};

/// Maximum age of its keys.
const AGE_MAX: Duration = Duration::from_secs(4);

/// A login service: its address, whether it responds, and a token that it has issued.
struct LoginService {
    url: String,
    answers: Arc<AtomicBool>,
    token: String,
}

impl LoginService {
    async fn start() -> Self {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
        let der: PublicKeyX509Der = pair.public_key().as_der().unwrap();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der.as_ref()));
        let public = DecodingKey::from_ec_pem(pem.as_bytes()).unwrap();
        let mut jwk = Jwk::from_decoding_key(&public, Some(Algorithm::ES256)).unwrap();
        jwk.common.key_id = Some("k1".into());
        let body = json!({"keys": [jwk]}).to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys.json", listener.local_addr().unwrap());
        let answers = Arc::new(AtomicBool::new(true));
        let listening = Arc::clone(&answers);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let _ = socket.read(&mut head).await;
                if listening.load(Ordering::SeqCst) {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close", body.len());
                    let _ = socket.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await;
                }
            }
        });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({"sub": "alice", "iat": now, "exp": now + 3_600});
        let header = Header { kid: Some("k1".into()), ..Header::new(Algorithm::ES256) };
        let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_der(pkcs8.as_ref())).unwrap();
        Self { url, answers, token }
    }
}

pub async fn s18_keys_that_cannot_be_fetched_any_more_are_not_used_for_ever() {
    let login = LoginService::start().await;
    let settings = format!(
        "[auth]\njwks_url = \"{}\"\njwks_refresh_interval = \"1s\"\njwks_age_max = \"{}s\"\n",
        login.url,
        AGE_MAX.as_secs()
    );
    let scene = AttackScene::set(&settings).await;
    let siege = Siege::lay(&scene, "S18 kept from the key set", Question::Ping).await;
    let attacker = Attacker::of(scene.gateway.public);
    let (gateway, door) = (&scene.gateway, attacker.door().await);
    let join = async || ConnectRequest::new(door, "/ws/trading").token(&login.token).try_open().await;
    let mut connected = eventually("the keys", async || join().await.ok()).await;
    connected.greeted().await;
    assert!(gateway.is_ready().await);
    login.answers.store(false, Ordering::SeqCst);
    let cut_off = Instant::now();
    let refusal = eventually("the token to be refused", async || join().await.err()).await;
    let after = cut_off.elapsed();
    println!("  gateway    accepted the token for {:.1} s after it was cut off", after.as_secs_f64());
    assert_eq!(refusal.status, 503, "not the client's fault: {refusal:?}");
    // The last fetch may be up to one refresh interval earlier.
    let late = AGE_MAX + AttackLength::asked().or(Duration::from_secs(3), Duration::from_secs(1));
    assert!(after < late, "{after:?}");
    assert!(gateway.is_ready().await, "it has a secret for other tokens");
    assert!(gateway.metric("tickgate_key_set_failures_total").await > 0.0);
    connected.ask(json!({"type": "ping"})).await;
    login.answers.store(true, Ordering::SeqCst);
    eventually("the token to be accepted again", async || join().await.ok()).await;
    siege.lift(&scene, &[attacker], GrowthBounds::SMALL).await;
}
