//! Passwords that were checked not long ago, so that they need not be checked again. Pure, so `now` is an argument.
//!
//! After an outage a thousand devices connect again at once; checking a thousand Argon2id hashes would keep an ARM core
//! busy for minutes. What is kept is a keyed hash of name, password and the line of the password file, under a key that
//! this process made for itself and keeps to itself: never the password, and of no use to anybody who reads it. A line that
//! has changed changes the hash, so a verdict never outlives what it was about.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use ring::{hmac, rand::SystemRandom};

use super::hash::{Credential, NoHash};

/// Most right passwords that are remembered.
const RIGHT_MAX: usize = 16_384;
/// A right password that was not used for this long is forgotten.
const RIGHT_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Most wrong passwords that are remembered.
const WRONG_MAX: usize = 1024;
/// For how long a wrong password is known to be wrong.
const WRONG_LIFE: Duration = Duration::from_secs(600);

/// What a verdict is about: user, password and the hash in the file; tells nothing about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tag([u8; 32]);

/// The verdicts.
pub(super) struct Verdicts {
    key: hmac::Key,
    right: Recent,
    wrong: Recent,
}

impl fmt::Debug for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (right, wrong) = (self.right.0.len(), self.wrong.0.len());
        f.debug_struct("Verdicts").field("right", &right).field("wrong", &wrong).finish_non_exhaustive()
    }
}

/// Tags with the time of their last use.
#[derive(Default)]
struct Recent(HashMap<Tag, Instant>);

impl Verdicts {
    /// Nothing is known; under a new key.
    pub(super) fn new() -> Result<Self, NoHash> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map_err(|_| NoHash)?;
        Ok(Self { key, right: Recent::default(), wrong: Recent::default() })
    }

    /// The tag of a password for this user, whose hash in the file is `credential` (`None`: there is no such user).
    pub(super) fn tag(&self, name: &str, password: &[u8], credential: Option<&Credential>) -> Tag {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [name.as_bytes(), credential.map_or("", Credential::as_str).as_bytes(), password] {
            // With their lengths, so that no two triples run together into the same bytes.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        Tag(tag)
    }

    /// What is known: right, wrong, or nothing.
    pub(super) fn get(&mut self, tag: Tag, now: Instant) -> Option<bool> {
        if let Some(used) = self.right.0.get_mut(&tag).filter(|used| now.duration_since(**used) < RIGHT_LIFE) {
            *used = now;
            return Some(true);
        }
        // Being tried again does not make a wrong password known for longer.
        let wrong = self.wrong.0.get(&tag).is_some_and(|since| now.duration_since(*since) < WRONG_LIFE);
        wrong.then_some(false)
    }

    /// Remembers a verdict.
    pub(super) fn set(&mut self, tag: Tag, is_right: bool, now: Instant) {
        if is_right {
            self.right.set(tag, now, RIGHT_MAX, RIGHT_LIFE);
        } else {
            self.wrong.set(tag, now, WRONG_MAX, WRONG_LIFE);
        }
    }
}

impl Recent {
    fn set(&mut self, tag: Tag, now: Instant, most: usize, life: Duration) {
        if self.0.len() >= most && !self.0.contains_key(&tag) {
            self.0.retain(|_, used| now.duration_since(*used) < life);
            if self.0.len() >= most {
                // Half of it, so that the search for the oldest is not made for every single one.
                let mut times: Vec<Instant> = self.0.values().copied().collect();
                times.sort_unstable();
                let middle = times[times.len() / 2];
                self.0.retain(|_, used| *used > middle);
            }
        }
        self.0.insert(tag, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_about_user_password_and_the_line_in_the_file() {
        let (mut verdicts, now) = (Verdicts::new().unwrap(), Instant::now());
        let (one, other) = (Credential::of(b"p").unwrap(), Credential::of(b"p").unwrap());
        let tag = verdicts.tag("u", b"p", Some(&one));
        verdicts.set(tag, true, now);
        assert_eq!(verdicts.get(verdicts.tag("u", b"p", Some(&one)), now), Some(true));
        for (name, password, credential) in [
            ("v", &b"p"[..], Some(&one)),
            ("u", b"q", Some(&one)),
            ("u", b"p", Some(&other)),
            ("u", b"p", None),
            ("up", b"", Some(&one)),
        ] {
            let tag = verdicts.tag(name, password, credential);
            assert_eq!(verdicts.get(tag, now), None, "{name}");
        }
        let elsewhere = Verdicts::new().unwrap();
        assert_ne!(elsewhere.tag("u", b"p", Some(&one)), tag, "every process has its own key");
    }

    #[test]
    fn right_ones_live_by_use_and_wrong_ones_only_for_a_while() {
        let (mut verdicts, start) = (Verdicts::new().unwrap(), Instant::now());
        let (right, wrong) = (verdicts.tag("u", b"p", None), verdicts.tag("u", b"q", None));
        verdicts.set(right, true, start);
        verdicts.set(wrong, false, start);
        let mut now = start;
        for _ in 0..5 {
            now += RIGHT_LIFE / 2;
            assert_eq!(verdicts.get(right, now), Some(true));
        }
        assert_eq!(verdicts.get(right, now + RIGHT_LIFE), None);
        assert_eq!(verdicts.get(wrong, start + WRONG_LIFE / 2), Some(false));
        assert_eq!(verdicts.get(wrong, start + WRONG_LIFE), None);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_wrong_ones_push_no_right_ones_out() {
        let (mut verdicts, start) = (Verdicts::new().unwrap(), Instant::now());
        let right = verdicts.tag("u", b"p", None);
        verdicts.set(right, true, start);
        for number in 0..5 * WRONG_MAX as u64 {
            let tag = verdicts.tag("u", &number.to_be_bytes(), None);
            verdicts.set(tag, false, start + Duration::from_millis(number));
        }
        assert!(verdicts.wrong.0.len() <= WRONG_MAX);
        assert_eq!(verdicts.get(right, start), Some(true));
        let newest = verdicts.tag("u", &(5 * WRONG_MAX as u64 - 1).to_be_bytes(), None);
        assert_eq!(verdicts.get(newest, start + Duration::from_secs(6)), Some(false));
    }
}
