//! How often passwords may be guessed: by address and by user name. Pure, so `now` is an argument.
//!
//! Only a wrong password costs anything, so a thousand devices with right ones behind one address are never held up; and
//! the same wrong password again is no new guess (see `verdicts`), so one misconfigured device does not shut out the others
//! behind its address.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

/// Wrong passwords in a row that are nothing unusual.
const BURST: u32 = 20;
/// After those, one more is allowed in this time: 28 800 a day, which finds nothing that deserves the name of a password.
const PER_GUESS: Duration = Duration::from_secs(3);
/// Most addresses, and most names, that are remembered.
const REMEMBERED_MAX: usize = 4096;

/// Where a client comes from, as far as guessing is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// An address; of IPv6 the first 64 bits, for a household has all the others.
    Network(IpAddr),
    /// This machine: unix sockets.
    Machine,
}

/// What is remembered of wrong passwords. `N` stands for a user name: something short, for whoever guesses chooses how long
/// names are.
#[derive(Debug)]
pub(super) struct Guesses<N> {
    origins: Spent<Origin>,
    names: Spent<N>,
}

/// For each key, up to when its allowance is spent.
#[derive(Debug)]
struct Spent<K>(HashMap<K, Instant>);

impl Origin {
    /// The origin in an address as connections carry it: `ip:port`, or something else where it is a unix socket.
    pub(super) fn of(address: &str) -> Self {
        let Ok(address) = address.parse::<SocketAddr>() else { return Self::Machine };
        Self::Network(match address.ip().to_canonical() {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        })
    }
}

impl<N: Eq + Hash + Copy> Guesses<N> {
    /// Nobody has guessed yet.
    pub(super) fn new() -> Self {
        Self { origins: Spent(HashMap::new()), names: Spent(HashMap::new()) }
    }

    /// Whether another password may be tried.
    pub(super) fn allow(&self, origin: Origin, name: N, now: Instant) -> bool {
        self.origins.allow(origin, now) && self.names.allow(name, now)
    }

    /// A password was wrong.
    pub(super) fn wrong(&mut self, origin: Origin, name: N, now: Instant) {
        self.origins.spend(origin, now);
        self.names.spend(name, now);
    }
}

impl<K: Eq + Hash + Copy> Spent<K> {
    fn allow(&self, key: K, now: Instant) -> bool {
        self.0.get(&key).is_none_or(|until| *until + PER_GUESS <= now + PER_GUESS * BURST)
    }

    fn spend(&mut self, key: K, now: Instant) {
        if self.0.len() >= REMEMBERED_MAX && !self.0.contains_key(&key) {
            self.make_room(now);
        }
        let until = self.0.entry(key).or_insert(now);
        *until = (*until).max(now) + PER_GUESS;
    }

    /// Forgets who has everything back, or else who has spent least.
    fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, until| *until > now);
        if self.0.len() >= REMEMBERED_MAX {
            let least = self.0.iter().min_by_key(|(_, until)| **until).map(|(key, _)| *key);
            least.and_then(|key| self.0.remove(&key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE: u32 = u32::MAX;
    const OTHER: u32 = u32::MAX - 1;

    fn origin(text: &str) -> Origin {
        Origin::of(text)
    }

    #[test]
    fn a_burst_is_allowed_and_then_one_in_three_seconds() {
        let (mut guesses, mut now) = (Guesses::new(), Instant::now());
        let (here, name) = (origin("10.0.0.1:5"), "probe");
        let try_all = |guesses: &mut Guesses<&str>, now| {
            let mut count = 0;
            while guesses.allow(here, name, now) {
                guesses.wrong(here, name, now);
                count += 1;
            }
            count
        };
        assert_eq!(try_all(&mut guesses, now), BURST);
        assert_eq!(try_all(&mut guesses, now + PER_GUESS.saturating_sub(Duration::from_millis(1))), 0);
        now += PER_GUESS;
        assert_eq!(try_all(&mut guesses, now), 1);
        assert_eq!(try_all(&mut guesses, now + PER_GUESS * 5), 5);
        assert_eq!(try_all(&mut guesses, now + PER_GUESS * 1000), BURST);
    }

    #[test]
    fn addresses_and_names_are_counted_on_their_own() {
        let (mut guesses, now) = (Guesses::new(), Instant::now());
        let names: Vec<u32> = (0..BURST).collect();
        for name in names.iter().copied() {
            assert!(guesses.allow(origin("10.0.0.1:1"), name, now));
            guesses.wrong(origin("10.0.0.1:2"), name, now);
        }
        assert!(!guesses.allow(origin("10.0.0.1:3"), 1000, now), "one address, many names");
        assert!(guesses.allow(origin("10.0.0.2:3"), names[0], now));
        for number in 0..BURST {
            guesses.wrong(origin(&format!("10.1.0.{number}:1")), PROBE, now);
        }
        assert!(!guesses.allow(origin("10.0.0.9:1"), PROBE, now), "one name, many addresses");
    }

    #[test]
    fn an_ipv6_network_is_one_origin_and_unix_sockets_are_this_machine() {
        assert_eq!(origin("[2001:db8::1]:1"), origin("[2001:db8::ffff:2]:9"));
        assert_ne!(origin("[2001:db8::1]:1"), origin("[2001:db8:0:1::1]:1"));
        assert_eq!(origin("[::ffff:10.0.0.1]:1"), origin("10.0.0.1:2"));
        assert_eq!((origin("unix:pid 7"), origin("unix")), (Origin::Machine, Origin::Machine));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_worst_stay() {
        let (mut guesses, now) = (Guesses::new(), Instant::now());
        let bad = origin("10.0.0.1:1");
        for _ in 0..BURST {
            guesses.wrong(bad, PROBE, now);
        }
        for number in 0..3 * u32::try_from(REMEMBERED_MAX).unwrap() {
            let address = Origin::Network(std::net::Ipv4Addr::from_bits(0x0B00_0000 + number).into());
            guesses.wrong(address, number, now);
        }
        assert_eq!((guesses.origins.0.len(), guesses.names.0.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert!(!guesses.allow(bad, OTHER, now) && !guesses.allow(origin("10.0.0.2:1"), PROBE, now));
    }
}
