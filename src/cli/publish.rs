//! `tickgate publish`: one publication over the HTTP API.

use std::io::Read;

use serde_json::{json, value::RawValue};
use tickgate_client::{PublicationReceipt, PublicationRequest};

use super::{CommandFailure, print};
use crate::config::without_marks;

const EXAMPLES: &str = r#"Examples:
  tickgate publish ticker:BTCUSDT '{"type":"ticker","price":"50000.00"}'
  tickgate publish orders --user alice '{"type":"order_update","order_id":"1"}'
  tickgate publish logs - --msg-id log-77 < record.json

The API key comes from --api-key or TICKGATE_API_KEY. With a --msg-id, you
can retry after any failure: the message is published once."#;

/// Publish one JSON object to a topic, or to a user's private channel
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Topic, or private channel with --user
    channel: String,
    /// A JSON object; `-`: read it from standard input
    data: String,
    /// The user who owns the private channel
    #[arg(long)]
    user: Option<String>,
    /// Your own id: a publication that is sent again with the same id arrives once
    #[arg(long)]
    msg_id: Option<String>,
    /// Operations listener of any replica
    #[arg(long, default_value = "http://127.0.0.1:8001")]
    url: String,
    /// API key
    #[arg(long, env = "TICKGATE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Print the response as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<(), CommandFailure> {
    let mut data = args.data.clone();
    if data == "-" {
        data.clear();
        let read = std::io::stdin().read_to_string(&mut data);
        read.map_err(|error| CommandFailure::new(format!("cannot read standard input: {error}")))?;
        data = without_marks(data);
    }
    let publication = PublicationRequest {
        channel: &args.channel,
        user: args.user.as_deref(),
        data: object(&data)?,
        msg_id: args.msg_id.as_deref(),
    };
    let published = publication.publish(&args.url, args.api_key.as_deref()).await.map_err(|error| {
        let failure = CommandFailure::from(error);
        CommandFailure { text: format!("not published: {}: {}", args.url, failure.text), ..failure }
    })?;
    print(&if args.json { json!(published).to_string() } else { outcome(&published) })
}

/// The data exactly as written.
fn object(data: &str) -> Result<&RawValue, CommandFailure> {
    let data: &RawValue = serde_json::from_str(data.trim())
        .map_err(|error| CommandFailure::usage(format!("the data is not JSON: {error}")))?;
    if !data.get().starts_with('{') {
        return Err(CommandFailure::usage("the data is not a JSON object: write {…}"));
    }
    Ok(data)
}

/// The outcome, for people.
fn outcome(published: &PublicationReceipt) -> String {
    let id = published.id.map_or_else(|| "without an id (the topic is not retained)".into(), |id| id.to_string());
    let again = if published.duplicate { ", already published" } else { "" };
    format!("published {id}{again}")
}

#[cfg(test)]
mod tests {
    use tickgate_wire::model::StreamId;

    use super::*;

    #[test]
    fn data_that_is_not_an_object_is_not_sent() {
        for data in ["", "[1]", "5", "{", "null"] {
            assert_eq!(object(data).unwrap_err().code, 2, "{data}");
        }
        assert_eq!(object(" {\"price\": 1.10}\n").unwrap().get(), r#"{"price": 1.10}"#);
    }

    #[test]
    fn outcomes_are_sentences() {
        let again = PublicationReceipt { id: Some(StreamId::new(17, 3)), duplicate: true };
        assert_eq!(outcome(&again), "published 17-3, already published");
        let plain = PublicationReceipt { id: None, duplicate: false };
        assert_eq!(outcome(&plain), "published without an id (the topic is not retained)");
    }
}
