//! Commands from the application to the driver. Plain values.

use crate::{channel::Channel, outgoing::OutgoingRequest};

/// A command for the driver.
#[derive(Debug)]
pub(crate) enum DriverCommand {
    Subscribe(Vec<Channel>),
    Unsubscribe(Vec<String>),
    Request(OutgoingRequest),
    Stop,
}
