//! `tickgate tail`: subscribes and prints messages; after a broken connection it receives what it missed.

mod show;

use tickgate_client::{Builder, Channel, Client, ClientState, Error, Event};

use self::show::EventPrinter;
use super::CommandFailure;

const EXAMPLES: &str = r#"Examples:
  tickgate tail ticker:BTCUSDT trades:BTCUSDT
  tickgate tail --url ws://127.0.0.1:8000/ws position_update equity_update
  tickgate tail --url wss://gw.example.com/ws/trading --token "$TOKEN" orders
  tickgate tail trades:BTCUSDT --last 10 --count 10 --json

One line per message: channel, id, the JSON object. Notices go to standard error.
After a broken connection it reconnects automatically and receives what it missed,
starting after the last message. It exits when the gateway says not to reconnect."#;

/// Subscribe to channels and print what arrives
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Channels of the endpoint
    #[arg(required = true)]
    channels: Vec<String>,
    /// The endpoint
    #[arg(long, default_value = "ws://127.0.0.1:8000/ws/market")]
    url: String,
    /// Token
    #[arg(long, env = "TICKGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Start after this cursor; `earliest`: with everything that is retained
    #[arg(long, value_name = "CURSOR", conflicts_with = "last")]
    since: Option<String>,
    /// Start with the last messages of event channels
    #[arg(long, value_name = "N")]
    last: Option<u32>,
    /// Exit after this number of messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Exit when the connection ends
    #[arg(long)]
    once: bool,
    /// Print one JSON object per line, for programs: messages as received, and notices
    #[arg(long)]
    json: bool,
}

impl Args {
    fn channel(&self, name: &str) -> Channel {
        Channel { since: self.since.clone(), last: self.last, ..Channel::new(name) }
    }
}

pub(super) async fn run(args: Args) -> Result<(), CommandFailure> {
    let builder = Builder::new(&args.url).channels(args.channels.iter().map(|name| args.channel(name)));
    let builder = args.token.iter().fold(builder, |builder, token| builder.token(token));
    let (client, driver) = builder.build();
    // The client is dropped when it ends, and its driver ends with it.
    let (result, ()) = tokio::join!(follow(client, &args), driver.run());
    result
}

/// Whether no endpoint exists at the address: a mistyped address should fail at once instead of being retried.
fn is_mistaken(error: &Error) -> bool {
    matches!(error, Error::Refused(refusal) if refusal.status.is_client_error() && refusal.status.as_u16() != 429)
}

async fn follow(mut client: Client, args: &Args) -> Result<(), CommandFailure> {
    let mut show = EventPrinter::new(args.json, args.count);
    let (mut wanted, mut refusals) = (args.channels.len(), Vec::new());
    while let Some(event) = client.next().await {
        match &event {
            Event::State(ClientState::Waiting { error, .. }) if args.once || is_mistaken(error) => {
                return Err(error.clone().into());
            }
            Event::State(ClientState::Closed { error: Some(error) }) => return Err(error.clone().into()),
            _ => {}
        }
        if show.event(&event)? {
            return Ok(());
        }
        if let Event::Refused { channel, error } = event {
            refusals.push(format!("{channel}: {error}"));
            wanted -= 1;
            if wanted == 0 {
                return Err(CommandFailure::new(format!("nothing subscribed: {}", refusals.join("; "))));
            }
        }
    }
    Ok(())
}
