//! What bad input gets: each kind has its stated answer, and neither the replica nor anybody else comes to harm.

mod floods;
mod frames;
mod handshakes;
mod messages;
mod publications;
mod tokens;
