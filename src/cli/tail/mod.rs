//! `tickgate tail`: subscribes and prints, and after a broken connection gets what it missed.

mod show;

use tickgate_client::{
    Opening,
    implicit::{Client, Cursors, Event},
};
use tickgate_wire::model::StreamId;

use self::show::Show;
use super::Failure;

const EXAMPLES: &str = r#"Examples:
  tickgate tail ticker:BTCUSDT trades:BTCUSDT
  tickgate tail --url ws://127.0.0.1:8000/ws
  tickgate tail --url wss://gw.example.com/ws/trading --token "$TOKEN" orders
  tickgate tail trades:BTCUSDT --last 10 --count 10 --json

A line a message: channel, id, the JSON object. Notices go to standard error.
After a broken connection it comes back by itself and gets what it missed, from
the last id it has seen; close codes from 4500 on end it."#;

/// Subscribe to channels and print what arrives
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Channels of the endpoint; left out: those it subscribes by itself
    channels: Vec<String>,
    /// The endpoint
    #[arg(long, default_value = "ws://127.0.0.1:8000/ws/market")]
    url: String,
    /// Token
    #[arg(long, env = "TICKGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Begin after this id
    #[arg(long, value_name = "ID", conflicts_with = "last")]
    since: Option<StreamId>,
    /// Begin with the last messages of event channels
    #[arg(long, value_name = "N")]
    last: Option<u32>,
    /// End after so many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End with the connection
    #[arg(long)]
    once: bool,
    /// Print every frame as it came, for programs
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let opening = Opening::to(args.url);
    let opening = args.token.iter().fold(opening, |opening, token| opening.token(token));
    let mut client = Client::new([opening], Cursors::new(args.channels, args.since));
    if let Some(last) = args.last {
        client = client.last(last);
    }
    let mut show = Show::new(args.json, args.count);
    loop {
        match client.next().await? {
            Event::Message { text, message } => {
                if show.message(&text, &message)? {
                    return Ok(());
                }
            }
            Event::Lost { error, .. } if args.once => return Err(error.into()),
            Event::Lost { error, wait } => eprintln!("{error}; again in {:.1} s", wait.as_secs_f64()),
        }
    }
}
