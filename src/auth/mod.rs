//! Who may do what: tokens are verified in `token`, rights are decided in `policy` (pure).

mod policy;
mod token;

pub use policy::{Identity, Rights};
pub use token::{TokenError, Verifier};
