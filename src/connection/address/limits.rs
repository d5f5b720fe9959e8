//! Limits per address on connections and handshakes, within bounded memory.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use indexmap::{IndexMap, map::Entry};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::{bucket::Bucket, config::Rate, hub::ReaderAddress};

/// Retry delay after a refusal by the connection limit, because it is unknown when a connection will close.
const CONNECTIONS_RETRY: Duration = Duration::from_secs(5);
/// Number of entries examined for removal whenever one is added.
const SWEEP: usize = 4;

/// Counts and buckets by address. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AddressLimits(Arc<LimitsShared>);

#[derive(Debug)]
struct LimitsShared {
    /// 0: no limit.
    connections_max: u32,
    handshakes: Rate,
    entries_max: usize,
    began: Instant,
    /// Permits in use.
    connections: AtomicUsize,
    // Held for one lookup and a few comparisons, never across I/O.
    table: Mutex<AddressTable>,
}

#[derive(Debug, Default)]
struct AddressTable {
    entries: IndexMap<IpAddr, AddressUsage>,
    /// Where the next sweep starts.
    hand: usize,
}

#[derive(Debug, Default)]
struct AddressUsage {
    connections: u32,
    /// As a duration since `began`.
    handshakes: Bucket,
}

/// The reason, and when to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRefusal {
    /// The limit that was reached.
    pub by: RefusedBy,
    /// When an attempt can succeed, unless the address uses up its limit again.
    pub retry_after: Duration,
}

/// The limit of an address that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedBy {
    /// Too many handshakes per second.
    Rate,
    /// Too many concurrent connections.
    Connections,
    /// Every entry in the address table has an open connection.
    Addresses,
}

/// The slot of one connection, released on drop.
#[derive(Debug)]
pub struct Permit {
    limits: AddressLimits,
    address: IpAddr,
    /// The slot at an endpoint that has a connection limit. Boxed, because few endpoints have one.
    endpoint: Option<Box<OwnedSemaphorePermit>>,
}

impl Permit {
    /// Attaches the endpoint's slot to this permit, which then releases both.
    pub fn hold(&mut self, endpoint: OwnedSemaphorePermit) {
        self.endpoint = Some(Box::new(endpoint));
    }

    /// The counted address: a /64 for IPv6.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// All connections of an address share one reader for replays.
    #[must_use]
    pub fn reader(&self) -> ReaderAddress {
        let mut hasher = DefaultHasher::new();
        self.address.hash(&mut hasher);
        ReaderAddress(hasher.finish())
    }
}

impl AddressLimits {
    /// `connections_max` concurrent connections and `handshakes` per second, 0 for no limit, for at most `entries_max`
    /// addresses, which should be well above the replica's connection limit.
    #[must_use]
    pub fn new(connections_max: u32, handshakes: Rate, entries_max: usize, now: Instant) -> Self {
        let inner = LimitsShared {
            connections_max,
            handshakes,
            entries_max,
            began: now,
            connections: AtomicUsize::new(0),
            table: Mutex::default(),
        };
        Self(Arc::new(inner))
    }

    /// Counts a handshake and a connection of the address at `now`.
    ///
    /// # Errors
    /// [`AddressRefusal`] if over a limit; the handshake is then not counted.
    pub fn admit(&self, address: IpAddr, now: Instant) -> Result<Permit, AddressRefusal> {
        let inner = &*self.0;
        let address = counted(address);
        let now = now.saturating_duration_since(inner.began);
        let mut table = inner.table.lock();
        if !table.entries.contains_key(&address) {
            table.make_room(now, inner.entries_max)?;
        }
        let usage = table.entries.entry(address).or_default();
        if inner.connections_max > 0 && usage.connections >= inner.connections_max {
            return Err(AddressRefusal { by: RefusedBy::Connections, retry_after: CONNECTIONS_RETRY });
        }
        let taken = usage.handshakes.take(1, now, inner.handshakes);
        taken.map_err(|retry_after| AddressRefusal { by: RefusedBy::Rate, retry_after })?;
        usage.connections += 1;
        inner.connections.fetch_add(1, Ordering::Relaxed);
        Ok(Permit { limits: self.clone(), address, endpoint: None })
    }

    /// Number of connections of all addresses, including those being admitted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// Number of counted addresses.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.table.lock().entries.len()
    }

    /// Whether no address is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut table = self.limits.0.table.lock();
        if let Entry::Occupied(mut entry) = table.entries.entry(self.address) {
            entry.get_mut().connections -= 1;
        }
        self.limits.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AddressTable {
    /// Makes room for one more address in constant time: removes some entries without connections whose bucket is full,
    /// and, if the table is full, also one whose bucket is not.
    fn make_room(&mut self, now: Duration, entries_max: usize) -> Result<(), AddressRefusal> {
        for _ in 0..SWEEP.min(self.entries.len()) {
            let full = self.entries.len() >= entries_max;
            self.hand %= self.entries.len();
            match self.entries.get_index(self.hand) {
                Some((_, usage)) if usage.connections == 0 && (full || usage.handshakes.is_full(now)) => {
                    self.entries.swap_remove_index(self.hand);
                }
                _ => self.hand += 1,
            }
            if self.entries.is_empty() {
                break;
            }
        }
        if self.entries.len() < entries_max {
            return Ok(());
        }
        Err(AddressRefusal { by: RefusedBy::Addresses, retry_after: CONNECTIONS_RETRY })
    }
}

/// The counted form of an address: an IPv6 host commonly owns a /64 and can use any address in it.
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const FREE: Rate = Rate { per_second: 0, burst: 0 };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn concurrent_connections_are_limited_per_address() {
        let now = Instant::now();
        let limits = AddressLimits::new(2, FREE, 100, now);
        let first = limits.admit(ip("192.0.2.1"), now).unwrap();
        let _second = limits.admit(ip("::ffff:192.0.2.1"), now).unwrap();
        let refused = limits.admit(ip("192.0.2.1"), now).unwrap_err();
        assert_eq!((refused.by, refused.retry_after.is_zero()), (RefusedBy::Connections, false));
        assert!(limits.admit(ip("192.0.2.2"), now).is_ok(), "another address is counted separately");
        drop(first);
        assert!(limits.admit(ip("192.0.2.1"), now).is_ok(), "a closed connection releases its place");
    }

    #[test]
    fn handshakes_are_limited_by_a_token_bucket() {
        let now = Instant::now();
        let limits = AddressLimits::new(0, Rate { per_second: 10, burst: 3 }, 100, now);
        let after = |ms| limits.admit(ip("192.0.2.1"), now + Duration::from_millis(ms)).map(drop);
        let refused = |ms| Err(AddressRefusal { by: RefusedBy::Rate, retry_after: Duration::from_millis(ms) });
        assert_eq!([after(0), after(0), after(0)], [Ok(()); 3], "the burst");
        assert_eq!(after(0), refused(100));
        assert_eq!(after(40), refused(60), "a refused handshake is not counted");
        assert_eq!(after(100), Ok(()));
        assert_eq!(after(100), refused(100));
        assert_eq!([after(1_000), after(1_000), after(1_000)], [Ok(()); 3], "full again");
        assert_eq!(after(1_000), refused(100));
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let now = Instant::now();
        let limits = AddressLimits::new(1, FREE, 100, now);
        let _one = limits.admit(ip("2001:db8:0:1::1"), now).unwrap();
        assert!(limits.admit(ip("2001:db8:0:1:ffff::2"), now).is_err());
        assert!(limits.admit(ip("2001:db8:0:2::1"), now).is_ok());
    }

    #[test]
    fn the_table_stays_within_its_bound() {
        let now = Instant::now();
        let limits = AddressLimits::new(5, Rate { per_second: 1, burst: 1 }, 50, now);
        let held: Vec<_> = (0..20).map(|i| limits.admit(Ipv4Addr::new(10, 0, 0, i).into(), now).unwrap()).collect();
        let mut refused = 0;
        for i in 0..10_000_u32 {
            refused += u32::from(limits.admit(Ipv4Addr::from(0x0b00_0000 + i).into(), now).is_err());
            assert!(limits.len() <= 50);
        }
        assert!(refused < 5_000, "{refused}: a flood of addresses does not block others");
        assert!(limits.admit(Ipv4Addr::new(10, 0, 0, 7).into(), now).is_err(), "connected addresses are never removed");
        drop(held);
    }

    #[test]
    fn idle_addresses_are_removed() {
        let now = Instant::now();
        let limits = AddressLimits::new(5, Rate { per_second: 1, burst: 10 }, 10_000, now);
        for i in 0..1_000_u32 {
            drop(limits.admit(Ipv4Addr::from(0x0b00_0000 + i).into(), now));
        }
        let later = now + Duration::from_secs(2);
        for i in 0..500_u32 {
            drop(limits.admit(Ipv4Addr::from(0x0c00_0000 + i).into(), later));
        }
        assert!(limits.len() < 600, "{} of 1,500", limits.len());
    }

    #[test]
    fn a_new_address_waits_when_all_entries_are_connected() {
        let now = Instant::now();
        let limits = AddressLimits::new(0, FREE, 2, now);
        let _held = [limits.admit(ip("192.0.2.1"), now), limits.admit(ip("192.0.2.2"), now)].map(Result::unwrap);
        assert_eq!(limits.admit(ip("192.0.2.3"), now).unwrap_err().by, RefusedBy::Addresses);
        assert!(limits.admit(ip("192.0.2.1"), now).is_ok());
    }
}
