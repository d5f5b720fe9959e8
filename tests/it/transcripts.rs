//! Golden transcripts: conversations of the clients that this gateway's five forerunners documented, to the byte.
//!
//! Each file of `tests/transcripts/` is played against a replica of its own. A line begins with the name of a
//! connection (none, where there is only one) and a sign:
//!
//! | line | means |
//! |---|---|
//! | `%` TOML | a setting of the replica |
//! | `=` path | the client connects; `=o` path: from a browser's page |
//! | `>` text | the client sends |
//! | `<` text | the next message of the server |
//! | `x` code reason | the server closes |
//! | `+` JSON | a backend publishes by the API |
//! | `?` path | `GET` on the public listener, answered with status and body by `:` |
//!
//! `<time>`, `<id>`, `<uuid>`, `<hex>`, `<name>` and `<version>` stand for one value of that kind, `<token:alice>` for a token.
//! Heartbeats are passed over unless one is expected.

use std::{collections::HashMap, fs, path::Path};

use crate::support::{
    client::TestClient,
    replica::{API_KEY, TestReplica, token},
};

#[tokio::test]
async fn ingest_connector() {
    play("ingest_connector").await;
}

#[tokio::test]
async fn ingest_messages() {
    play("ingest_messages").await;
}

#[tokio::test]
async fn two_way_connector() {
    play("two_way_connector").await;
}

#[tokio::test]
async fn trading_platform() {
    play("trading_platform").await;
}

#[tokio::test]
async fn broadcast_feed() {
    play("broadcast_feed").await;
}

#[tokio::test]
async fn test_runs() {
    play("test_runs").await;
}

#[test]
fn every_transcript_is_played() {
    let source = include_str!("transcripts.rs");
    for file in fs::read_dir(folder()).expect("the transcripts") {
        let path = file.expect("a file").path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(source.contains(&format!("play(\"{name}\")")), "{name}.txt is played by no test");
    }
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

async fn play(name: &str) {
    let path = folder().join(format!("{name}.txt"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let settings: String =
        text.lines().filter_map(|line| line.strip_prefix("% ")).flat_map(|line| [line, "\n"]).collect();
    let replica = TestReplica::alone_with(&settings).await;
    let mut player = Player { replica, clients: HashMap::new(), answer: None };
    for (number, line) in (1..).zip(text.lines()) {
        if !line.is_empty() && !line.starts_with(['#', '%']) {
            player.line(&format!("{name}.txt:{number}"), line).await;
        }
    }
    for (client, connection) in &mut player.clients {
        if let Some(unread) = connection.unread() {
            panic!("{name}.txt: the server said more to connection {client:?}: {unread}");
        }
    }
}

struct Player {
    replica: TestReplica,
    clients: HashMap<String, TestClient>,
    answer: Option<(u16, String)>,
}

impl Player {
    async fn line(&mut self, place: &str, line: &str) {
        let (head, rest) = line.split_once(' ').unwrap_or((line, ""));
        let sign = head.find(|c: char| !c.is_ascii_alphanumeric() || c == 'x').unwrap_or(head.len());
        let (client, sign) = head.split_at(sign);
        let rest = rest.trim();
        match sign {
            "=" | "=o" => {
                let mut request = self.replica.connect(&filled(rest)).name(place);
                if sign == "=o" {
                    request = request.origin("https://app.example");
                }
                self.clients.insert(client.into(), request.open().await);
            }
            ">" => self.client(place, client).send_text(&filled(rest)).await,
            "<" => {
                let said = self.client(place, client).say(rest.starts_with(r#"{"type":"heartbeat""#)).await;
                let said = said.unwrap_or_else(|close| panic!("{place}: closed with {close:?}, expected {rest}"));
                assert!(matches(rest, &said), "{place}: the server said\n{said}\nexpected\n{rest}");
            }
            "x" => {
                let closed = self.client(place, client).say(false).await.expect_err("the server to close");
                assert_eq!(format!("{} {}", closed.0, closed.1), rest, "{place}");
                self.clients.remove(client);
            }
            "+" => {
                let headers = [("x-api-key", API_KEY), ("content-type", "application/json")];
                let answer = self.replica.api("POST", "/api/v1/publish", &headers, Some(rest.into())).await;
                assert_eq!(answer.status, 200, "{place}: {answer:?}");
            }
            "?" => {
                let answer = self.replica.get(rest).await;
                self.answer = Some((answer.status, answer.body));
            }
            ":" => {
                let (status, body) = self.answer.take().expect("a question before the answer");
                let answer = format!("{status} {body}");
                assert!(matches(rest, &answer), "{place}: the answer was\n{answer}\nexpected\n{rest}");
            }
            other => panic!("{place}: no line begins with {other:?}"),
        }
    }

    fn client(&mut self, place: &str, name: &str) -> &mut TestClient {
        self.clients.get_mut(name).unwrap_or_else(|| panic!("{place}: no connection {name:?}"))
    }
}

/// Puts tokens in the place of `<token:…>`.
fn filled(text: &str) -> String {
    match text.split_once("<token:") {
        None => text.into(),
        Some((before, rest)) => {
            let (user, after) = rest.split_once('>').expect("a closing bracket");
            format!("{before}{}{after}", token(user))
        }
    }
}

/// Whether the text is what the pattern says, placeholders filled in.
fn matches(mut pattern: &str, mut text: &str) -> bool {
    while let Some(open) = pattern.find('<') {
        let Some(close) = pattern[open..].find('>') else { break };
        let Some(length) = placeholder(&pattern[open + 1..open + close]) else { break };
        let (Some(rest), before) = (text.strip_prefix(&pattern[..open]), &pattern[open + close + 1..]) else {
            return false;
        };
        let Some(taken) = length(rest) else { return false };
        (pattern, text) = (before, &rest[taken..]);
    }
    pattern == text
}

type Length = fn(&str) -> Option<usize>;

/// How many bytes of a text are of the placeholder's kind.
fn placeholder(name: &str) -> Option<Length> {
    fn leading(text: &str, of: fn(char) -> bool) -> Option<usize> {
        Some(text.find(|c| !of(c)).unwrap_or(text.len())).filter(|length| *length > 0)
    }
    Some(match name {
        // 2026-11-21T09:00:00.000Z
        "time" => |text| text.get(..24).filter(|t| t.ends_with('Z') && t.as_bytes()[19] == b'.').map(|_| 24),
        "id" => |text| {
            let epoch = leading(text, |c| c.is_ascii_digit())?;
            let rest = text[epoch..].strip_prefix('-')?;
            Some(epoch + 1 + leading(rest, |c| c.is_ascii_digit())?)
        },
        "uuid" => |text| leading(text, |c| c.is_ascii_hexdigit() || c == '-').filter(|length| *length == 36),
        "hex" => |text| leading(text, |c| c.is_ascii_hexdigit()),
        "name" => |text| leading(text, |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')),
        "version" => |text| leading(text, |c| c.is_ascii_digit() || c == '.'),
        _ => return None,
    })
}

#[test]
fn placeholders_stand_for_values_of_their_kind_only() {
    assert!(matches(r#"{"id":"<id>","t":"<time>"}"#, r#"{"id":"17-4","t":"2026-11-21T09:00:00.000Z"}"#));
    assert!(!matches(r#"{"id":"<id>"}"#, r#"{"id":"17"}"#));
    assert!(!matches(r#"{"id":"<id>"}"#, r#"{"id":"17-4" }"#));
    assert!(matches("a < b", "a < b"));
}
