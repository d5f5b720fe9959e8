//! Following channels in the implicit mode, without the sub-protocol `tickgate.v1`.

pub use crate::{
    client::{Client, Event},
    cursors::Cursors,
    message::{Gap, Message, Meta, RefusedChannel, Subscribed, SubscribedChannel},
};
