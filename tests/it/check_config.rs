//! `check-config` and `serve` agree: what one refuses the other refuses, with the same text, exit code 2, and in time.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::{self, PATIENCE, eventually};

/// A certificate's frame with invalid content.
const GARBAGE: &str = "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n";
/// How soon a replica that cannot start must report it.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

fn start(verb: &str, directory: &TempDir, settings: &str) -> Child {
    let file = directory.path().join("a.toml");
    fs::write(&file, settings).unwrap();
    let mut command = Command::new(support::program());
    command.arg(verb).arg("--config").arg(&file);
    command.env("TICKGATE__SERVER__LISTEN", "127.0.0.1:0").env("TICKGATE__SERVER__OPS_LISTEN", "127.0.0.1:0");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program to start")
}

async fn ended(mut child: Child) -> Output {
    eventually("the program to end", async || child.try_wait().unwrap()).await;
    child.wait_with_output().unwrap()
}

#[tokio::test]
async fn check_config_refuses_what_serve_refuses() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str, content: &str| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (garbage, empty) = (path("garbage.pem", GARBAGE), path("empty.pem", ""));
    let no_key = path("no-key.pem", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
    let (words, lists) = (path("words", "hello\n"), path("lists", "redis://a:6379,b:6379\n"));
    let (redis, tls) = ("[redis]\nurl = \"redis://h:6379/", "[redis]\nurl = \"rediss://h:6379/\"\nca_file = ");
    let key = "[[auth.public_keys]]\nalgorithm = \"ES256\"\npath = ";
    let cases = [
        ("[auth]\njwks_url = \"http://login.example.com/keys\"\n".into(), "auth.jwks_url", "https://"),
        (format!("{key}\"{no_key}\"\n"), "auth.public_keys[0].path", "should contain a PEM public key"),
        (format!("{key}\"{empty}\"\n"), "auth.public_keys[0].path", "it should contain a public key"),
        (format!("{key}\"/nowhere/key.pem\"\n"), "auth.public_keys[0].path", "cannot read /nowhere/key.pem"),
        (format!("{redis}abc\"\n"), "redis.url", "requires database 0"),
        (format!("{redis}-1\"\n"), "redis.url", "requires database 0"),
        ("[redis]\nurl = \"redis://a:6379,b:6379\"\n".into(), "redis.url", "must be one server"),
        (format!("[redis]\nurl_file = \"{lists}\"\n"), "redis.url", "must be one server"),
        (format!("[redis]\nurl_file = \"{words}\"\n"), "redis.url_file", "it should contain one line with the Redis"),
        (format!("[redis]\nurl_file = \"{empty}\"\n"), "redis.url_file", "is empty; it should contain"),
        (format!("{tls}\"{garbage}\"\n"), "redis.ca_file", "it should contain the certificate authority"),
        (format!("{tls}\"{words}\"\n"), "redis.ca_file", "it should contain the certificate authority"),
        (format!("{tls}\"{empty}\"\n"), "redis.ca_file", "it should contain the certificate authority"),
        (format!("{redis}\"\nca_file = \"{garbage}\"\n"), "redis.ca_file", "requires rediss://"),
        (
            "[auth]\nhs256_secrets = [\"-----BEGIN PUBLIC KEY-----AAAAAAAAAA\"]\n".into(),
            "auth.hs256_secrets",
            "is a PEM key",
        ),
    ];
    for (settings, key, text) in cases {
        let began = Instant::now();
        let served = ended(start("serve", &directory, &settings)).await;
        assert!(began.elapsed() < REFUSAL_TIMEOUT, "{settings}");
        let checked = ended(start("check-config", &directory, &settings)).await;
        let [served_text, checked_text] = [&served, &checked].map(|output| String::from_utf8_lossy(&output.stderr));
        assert_eq!((served.status.code(), checked.status.code()), (Some(2), Some(2)), "{settings}\n{served_text}");
        let problem =
            |all: &str| all.lines().filter(|line| line.starts_with("  ")).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(problem(&served_text), problem(&checked_text), "{settings}");
        let told = problem(&served_text).into_iter().any(|line| line.contains(key) && line.contains(text));
        assert!(told, "{key} … {text}\n{served_text}");
    }
}

#[tokio::test]
async fn serve_accepts_what_check_config_accepts() {
    let directory = TempDir::new().unwrap();
    let settings = "[redis]\nurl = \"redis://nobody:hidden@127.0.0.1:1/0\"\n[auth]\n\
                    jwks_url = \"http://127.0.0.1:1/keys\"\n[server]\nmode = \"production\"\n";
    let checked = ended(start("check-config", &directory, settings)).await;
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stderr));
    let mut served = start("serve", &directory, settings);
    let log = BufReader::new(served.stderr.take().unwrap());
    let serves = tokio::task::spawn_blocking(move || {
        log.lines().map_while(Result::ok).find(|line| line.contains("serving") || line.contains("tickgate: "))
    });
    let line = timeout(PATIENCE, serves).await;
    served.kill().unwrap();
    served.wait().unwrap();
    let line = line.expect("a line in time").unwrap();
    assert!(line.as_ref().is_some_and(|line| line.contains("serving")), "{line:?}");
}

/// What `--connect` finds: everything at once, each with its key.
#[tokio::test]
async fn connect_tries_what_serve_would_use() {
    let directory = TempDir::new().unwrap();
    let (redis, taken) = (support::redis::RedisServer::start(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let run = async |settings: String| {
        let file = directory.path().join("a.toml");
        fs::write(&file, settings).unwrap();
        let mut command = Command::new(support::program());
        command.args(["check-config", "--connect", "--config"]).arg(&file);
        ended(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).await
    };
    let good = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nops_listen = \"127.0.0.1:0\"\n[redis]\nurl = \"{}\"\n",
        redis.url()
    );
    let output = run(good).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let address = taken.local_addr().unwrap();
    let closed = support::redis::free_port();
    let output = run(format!(
        "[server]\nlisten = \"{address}\"\nops_listen = \"127.0.0.1:0\"\n[redis]\nurl = \"redis://127.0.0.1:{closed}\"\n\
         [auth]\njwks_url = \"http://127.0.0.1:{closed}/keys\"\n"
    ))
    .await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for wanted in ["3 problems", "server.listen: cannot listen on", "set another one", "redis.url: ", "auth.jwks_url: "]
    {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}

#[tokio::test]
async fn a_token_is_checked_like_in_the_gateway() {
    let check = async |token: &str, more: &[&str]| {
        let mut command = Command::new(support::program());
        command.args(["token", "--check", token, "--secret", support::replica::SECRET]).args(more);
        let output = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = ended(output).await;
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let good = support::replica::token("alice");
    let (code, said) = check(&good, &[]).await;
    assert!(code == Some(0) && said.contains("accepted: user alice, until 2"), "{said}");
    let (code, said) = check(&good, &["--json"]).await;
    assert!(code == Some(0) && said.contains("\"valid\":true"), "{said}");
    let expired = support::replica::TokenBuilder::of("alice").expires_in(-600).sign();
    let (code, said) = check(&expired, &[]).await;
    assert!(code == Some(1) && said.contains("refused (expired): the token is expired"), "{said}");
    let (code, said) = check("nonsense", &["--json"]).await;
    assert!(code == Some(1) && said.contains("\"reason\":\"malformed\""), "{said}");
}
