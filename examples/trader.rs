//! A trader's program: prints its orders and two prices, and resumes where it stopped. It keeps its cursors in a file, so it
//! misses no order and prints none twice, even if it was not running for an hour.
//!
//! ```sh
//! TOKEN=$(tickgate token --development --user demo) cargo run --example trader -- ws://127.0.0.1:8000/ws/trading
//! ```
#![expect(clippy::disallowed_methods, reason = "the rules are the gateway's; this is an application")]

use std::{collections::BTreeMap, env, error::Error, fs, io};

use tickgate_client::{Builder, Channel, Event};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::args().nth(1).ok_or("usage: trader URL [FILE]")?;
    let file = env::args().nth(2).unwrap_or_else(|| "cursors.json".to_owned());
    let stored: BTreeMap<String, String> = match fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => return Err(error.into()),
    };
    let orders = match stored.get("orders") {
        Some(cursor) => Channel::new("orders").since(cursor),
        None => Channel::new("orders"),
    };
    let prices = ["ticker:BTCUSDT", "ticker:ETHUSDT"].map(|name| Channel::new(name).max_rate(2));
    let (mut client, driver) = Builder::new(url)
        // Called for each new token. A real program asks its login service.
        .token_source(|| async { env::var("TOKEN") })
        .channel(orders)
        .channels(prices)
        .build();
    // In a separate task, so that it replies to pings while a message is being handled.
    tokio::spawn(driver.run());

    let store = |cursors: &BTreeMap<String, String>| fs::write(&file, serde_json::to_string(cursors)?);
    while let Some(event) = client.next().await {
        match event {
            Event::Message(message) if message.meta.channel == "orders" => {
                println!("order {}", message.payload());
                // `cursors` includes a message only after the next call of `next`; this order has already been handled.
                let mut cursors = client.cursors().clone();
                cursors.extend(message.meta.id.map(|id| (message.meta.channel, id)));
                store(&cursors)?;
            }
            Event::Message(message) => println!("price {}", message.payload()),
            // Here a real program loads the current state from its order service.
            Event::Gap(gap) => println!("gap {:?}: {}", gap.channels, gap.reason),
            Event::Refused { channel, error } => println!("refused {channel}: {error}"),
            Event::State(state) => {
                // A channel without a message also has a cursor, so that its first message is not missed.
                store(client.cursors())?;
                println!("state {}", state.name());
            }
            _ => {}
        }
    }
    Ok(())
}
