//! `tickgate publish`: one publication over the HTTP API.

use std::{io::Read, time::Duration};

use serde_json::value::RawValue;

use super::{Failure, http::Call, print};

const EXAMPLES: &str = r#"Examples:
  tickgate publish ticker:BTCUSDT '{"type":"ticker","price":"50000.00"}'
  tickgate publish orders --user alice '{"type":"order_update","order_id":"1"}'
  tickgate publish logs - --msg-id log-77 < record.json

The API key comes from --api-key or TICKGATE_API_KEY. What has a --msg-id can be
tried again after any failure: it is published once."#;

/// Publish one JSON object to a topic, or to a user's private channel
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Topic, or private channel with --user
    channel: String,
    /// A JSON object; `-`: from standard input
    data: String,
    /// The user whose private channel it is
    #[arg(long)]
    user: Option<String>,
    /// Your own id of it: what is published twice with the same id arrives once
    #[arg(long)]
    msg_id: Option<String>,
    /// Operations listener of any replica
    #[arg(long, default_value = "http://127.0.0.1:8001")]
    url: String,
    /// API key
    #[arg(long, env = "TICKGATE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// The body of `POST /api/v1/publish`.
#[derive(serde::Serialize)]
pub(super) struct Entry<'a> {
    pub channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
    pub data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msg_id: Option<&'a str>,
}

impl Entry<'_> {
    /// Publishes it over the operations listener at `url`; the gateway's answer.
    pub(super) async fn publish(&self, url: &str, api_key: Option<&str>) -> Result<String, Failure> {
        let body = serde_json::to_string(self).map_err(|error| Failure::new(error.to_string()))?;
        let url = format!("{}/api/v1/publish", url.trim_end_matches('/'));
        let call = Call { method: "POST", url: &url, api_key, body, timeout: Duration::from_secs(15) };
        let (status, answer) = call.send().await?;
        if !status.is_success() {
            return Err(Failure::new(format!("not published: {}", explain(status.as_u16(), &answer))));
        }
        Ok(answer)
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let mut data = args.data.clone();
    if data == "-" {
        data.clear();
        let read = std::io::stdin().read_to_string(&mut data);
        read.map_err(|error| Failure::new(format!("can't read standard input: {error}")))?;
    }
    let entry = Entry {
        channel: &args.channel,
        user: args.user.as_deref(),
        data: object(&data)?,
        msg_id: args.msg_id.as_deref(),
    };
    let answer = entry.publish(&args.url, args.api_key.as_deref()).await?;
    print(&if args.json { answer.trim().to_owned() } else { outcome(&answer) })
}

/// The data exactly as it was written.
fn object(data: &str) -> Result<&RawValue, Failure> {
    let data: &RawValue =
        serde_json::from_str(data.trim()).map_err(|error| Failure::usage(format!("the data is not JSON: {error}")))?;
    if !data.get().starts_with('{') {
        return Err(Failure::usage("the data is not a JSON object: write {…}"));
    }
    Ok(data)
}

/// What became of it, for people.
fn outcome(answer: &str) -> String {
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap_or_default();
    let id = answer["id"].as_str().unwrap_or("without an id (the topic is not retained)");
    let again = if answer["duplicate"] == true { ", published before" } else { "" };
    format!("published {id}{again}")
}

/// Problem details say best what was wrong.
fn explain(status: u16, answer: &str) -> String {
    let problem: serde_json::Value = serde_json::from_str(answer).unwrap_or_default();
    let text = problem["detail"].as_str().or_else(|| problem["title"].as_str()).unwrap_or(answer.trim());
    format!("{text} ({status})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_goes_out_as_it_was_written() {
        let data = object(" {\"price\": 1.10, \"a\":1e400}\n").unwrap();
        let entry = Entry { channel: "orders", user: Some("alice"), data, msg_id: None };
        let body = serde_json::to_string(&entry).unwrap();
        assert_eq!(body, r#"{"channel":"orders","user":"alice","data":{"price": 1.10, "a":1e400}}"#);
    }

    #[test]
    fn what_is_no_object_is_not_sent() {
        for data in ["", "[1]", "5", "{", "null"] {
            assert_eq!(object(data).unwrap_err().code, 2, "{data}");
        }
    }

    #[test]
    fn answers_are_sentences() {
        assert_eq!(outcome(r#"{"id":"17-3","duplicate":true}"#), "published 17-3, published before");
        assert_eq!(outcome(r#"{"id":null}"#), "published without an id (the topic is not retained)");
        assert_eq!(explain(401, r#"{"title":"Unauthorized","detail":"no key"}"#), "no key (401)");
        assert_eq!(explain(502, "bad gateway\n"), "bad gateway (502)");
    }
}
