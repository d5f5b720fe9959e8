//! Invalid input: each kind gets its documented response, and neither the replica nor other clients are affected.

mod floods;
mod frames;
mod handshakes;
mod messages;
mod publications;
mod tokens;
