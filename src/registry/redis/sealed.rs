//! What is stored in Redis for a ticket: a name that does not reveal it, and its token, which only the ticket can
//! decrypt. Pure.
//!
//! Never stores what would let a reader of the append-only file, of a backup or of MONITOR connect as another user.

use std::fmt::Write as _;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{Context, Digest, SHA256},
};

/// The stored form of a ticket.
pub(super) struct SealedTicket {
    /// The name by which it is found.
    pub(super) name: String,
    key: LessSafeKey,
}

/// It cannot be sealed, or was not sealed with this ticket.
#[derive(Debug)]
pub(super) struct NotSealed;

impl SealedTicket {
    /// Derives name and key from a ticket, which is random and used once. Neither reveals the other.
    pub(super) fn of(ticket: &str) -> Result<Self, NotSealed> {
        let name = digest("name", ticket).as_ref().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let key = UnboundKey::new(&AES_256_GCM, digest("key", ticket).as_ref()).map_err(|_| NotSealed)?;
        Ok(Self { name, key: LessSafeKey::new(key) })
    }

    /// Encrypts its token.
    pub(super) fn seal(&self, token: &str) -> Result<Vec<u8>, NotSealed> {
        let mut sealed = token.as_bytes().to_vec();
        self.key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut sealed).map_err(|_| NotSealed)?;
        Ok(sealed)
    }

    /// Decrypts its token.
    pub(super) fn open(&self, mut sealed: Vec<u8>) -> Result<String, NotSealed> {
        let token = self.key.open_in_place(nonce(), Aad::empty(), &mut sealed).map_err(|_| NotSealed)?;
        String::from_utf8(token.to_vec()).map_err(|_| NotSealed)
    }
}

/// A key seals only one token, so the nonce can be constant.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

fn digest(purpose: &str, ticket: &str) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(format!("tickgate ticket {purpose}:").as_bytes());
    context.update(ticket.as_bytes());
    context.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_opens_only_what_was_sealed_with_it() {
        let (ticket, other) = (SealedTicket::of("one").unwrap(), SealedTicket::of("other").unwrap());
        let sealed = ticket.seal("a.b.c").unwrap();
        assert!(!sealed.windows(3).any(|bytes| bytes == b"a.b"));
        assert_ne!(ticket.name, other.name);
        assert_eq!(ticket.open(sealed.clone()).unwrap(), "a.b.c");
        assert!(other.open(sealed.clone()).is_err());
        assert!(ticket.open(sealed[..sealed.len() - 1].to_vec()).is_err() && ticket.open(Vec::new()).is_err());
        assert_eq!(ticket.name.len(), 64);
    }
}
