//! Password hashes: Argon2id, made and checked; and those of Mosquitto, checked. Pure, and slow on purpose.
//!
//! **Parameters.** 7 MiB, 5 passes, 1 lane: of the settings that OWASP calls equal in strength (46 MiB × 1, 19 MiB × 2,
//! 12 MiB × 3, 9 MiB × 4, 7 MiB × 5) the one with the least memory, because that is what an ARM board lacks; the time differs
//! little, as it goes with memory × passes. Measured here (2 GHz x86, release build): 15 ms a check, against 17 ms with
//! 19 MiB × 2; a Cortex-A53 takes about ten times as long. `cargo test --lib broker::access::hash -- --ignored --nocapture`
//! tells for another machine.

use std::{fmt, num::NonZeroU32};

use argon2::{
    Algorithm, Argon2, Params, PasswordVerifier as _, Version,
    password_hash::{PasswordHash, PasswordHashString, PasswordHasher as _, SaltString},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    pbkdf2,
    rand::{SecureRandom as _, SystemRandom},
};

/// Memory of one check of a hash that is made here, in KiB.
const MEMORY_KIB: u32 = 7 * 1024;
/// Passes over it.
const PASSES: u32 = 5;
/// Bytes of salt.
const SALT_BYTES: usize = 16;
/// Most memory, passes and lanes of a hash made elsewhere: a file must not be able to stop the gateway.
const MOST: (u32, u32, u32) = (256 * 1024, 64, 16);
/// Most iterations of Mosquitto's hash; its default is 101, ten million take seconds.
const MOST_ITERATIONS: u32 = 10_000_000;

/// A hash that no password has: checking it costs what checking a real one costs.
const NOBODY: &str = "$argon2id$v=19$m=7168,t=5,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The hash of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// As it stands in the password file.
    text: Box<str>,
    kind: Kind,
}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Argon2(PasswordHashString),
    /// `$7$iterations$salt$hash` of Mosquitto 2: PBKDF2 with SHA-512.
    Pbkdf2 {
        iterations: NonZeroU32,
        salt: Vec<u8>,
        hash: Vec<u8>,
    },
}

/// Why no hash could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers, or no memory for the hash")]
pub struct NoHash;

impl fmt::Debug for Credential {
    /// Without the hash: logs are read by more people than password files.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(..)")
    }
}

impl Credential {
    /// Hashes a password with a new salt.
    pub fn of(password: &[u8]) -> Result<Self, NoHash> {
        let mut salt = [0; SALT_BYTES];
        SystemRandom::new().fill(&mut salt).map_err(|_| NoHash)?;
        let salt = SaltString::encode_b64(&salt).map_err(|_| NoHash)?;
        let params = Params::new(MEMORY_KIB, PASSES, 1, None).map_err(|_| NoHash)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let hash = argon2.hash_password(password, &salt).map_err(|_| NoHash)?.serialize();
        Ok(Self { text: hash.as_str().into(), kind: Kind::Argon2(hash) })
    }

    /// The hash that no password has.
    pub(super) fn of_nobody() -> Self {
        Self::parse(NOBODY).expect("the constant is a hash")
    }

    /// Reads a hash; the error says what would be right, and never repeats what was there.
    pub fn parse(text: &str) -> Result<Self, String> {
        let kind = if text.starts_with("$argon2") {
            Kind::Argon2(parse_argon2(text)?)
        } else if let Some(rest) = text.strip_prefix("$7$") {
            parse_mosquitto(rest).ok_or("is not a whole hash of Mosquitto; expected `$7$iterations$salt$hash`")?
        } else if text.starts_with("$6$") {
            return Err("is a hash of Mosquitto 1, which is too weak; make it anew with `tidegate passwd`".to_owned());
        } else if text.starts_with('$') {
            return Err("is a hash of an unknown kind; expected `$argon2id$...`, made by `tidegate passwd`".to_owned());
        } else {
            return Err(
                "is no hash (a password in clear?); expected `$argon2id$...`, made by `tidegate passwd`".to_owned()
            );
        };
        Ok(Self { text: text.into(), kind })
    }

    /// As it stands in the password file.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this is the password. Takes tens of milliseconds and megabytes: never on the event loop.
    pub fn verify(&self, password: &[u8]) -> bool {
        match &self.kind {
            Kind::Argon2(hash) => Argon2::default().verify_password(password, &hash.password_hash()).is_ok(),
            Kind::Pbkdf2 { iterations, salt, hash } => {
                let verified = pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, *iterations, salt, password, hash).is_ok();
                // A hash of Mosquitto is checked in no time, and the time must not tell who is in the file.
                Self::of_nobody().verify(password) | verified
            }
        }
    }
}

fn parse_argon2(text: &str) -> Result<PasswordHashString, String> {
    let whole = "is not a whole hash; expected `$argon2id$v=19$m=..,t=..,p=..$salt$hash`, made by `tidegate passwd`";
    let hash = PasswordHash::new(text).map_err(|_| whole)?;
    if hash.algorithm.as_str() != "argon2id" {
        return Err(format!("is a hash of {}; expected argon2id, made by `tidegate passwd`", hash.algorithm));
    }
    let params = Params::try_from(&hash).map_err(|_| whole)?;
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err(whole.to_owned());
    }
    let (memory, passes, lanes) = MOST;
    if params.m_cost() > memory || params.t_cost() > passes || params.p_cost() > lanes {
        return Err(format!("is too expensive to check; expected at most m={memory},t={passes},p={lanes}"));
    }
    Ok(hash.serialize())
}

fn parse_mosquitto(rest: &str) -> Option<Kind> {
    let mut parts = rest.split('$');
    let (iterations, salt, hash) = (parts.next()?, parts.next()?, parts.next()?);
    let iterations = iterations.parse().ok().filter(|iterations| *iterations <= MOST_ITERATIONS)?;
    let (salt, hash) = (STANDARD.decode(salt).ok()?, STANDARD.decode(hash).ok()?);
    let whole = parts.next().is_none() && !salt.is_empty() && hash.len() == 64;
    whole.then_some(Kind::Pbkdf2 { iterations: NonZeroU32::new(iterations)?, salt, hash })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_password_matches_its_own_hash_and_no_other() {
        let (one, other) = (Credential::of(b"secret").unwrap(), Credential::of(b"secret").unwrap());
        assert_ne!(one, other, "each has its own salt");
        assert!(one.as_str().starts_with("$argon2id$v=19$m=7168,t=5,p=1$"), "{}", one.as_str());
        assert!(one.verify(b"secret") && !one.verify(b"Secret") && !one.verify(b""));
        assert_eq!(Credential::parse(one.as_str()), Ok(one.clone()));
        assert!(Credential::parse(one.as_str()).unwrap().verify(b"secret"));
        assert!(!Credential::of_nobody().verify(b""));
        assert_eq!(format!("{one:?}"), "Credential(..)");
    }

    #[test]
    fn hashes_of_mosquitto_are_understood() {
        // Made by `mosquitto_passwd -b FILE sensor rain` of Mosquitto 2.0.11.
        let line = "$7$101$pTq/0/iu63eKgICY$aHu4h3vaTP1nQjlJK02E4/HJKdquf038qealqsOV1NNK3wD16hX+CfqV0MBN9rQXlRpO2R/BdQ/CQhLfhmqixQ==";
        let credential = Credential::parse(line).unwrap();
        assert!(credential.verify(b"rain") && !credential.verify(b"sun"));
    }

    #[test]
    fn what_is_no_hash_is_refused_in_words_without_repeating_it() {
        let good = Credential::of(b"x").unwrap();
        let table = [
            ("hunter2", "in clear"),
            ("", "in clear"),
            ("$6$salt$hash", "Mosquitto 1"),
            ("$2b$12$abc", "unknown kind"),
            ("$7$101$AAAA", "not a whole hash"),
            ("$argon2id$v=19$m=7168,t=5,p=1$AAAAAAAAAAAAAAAAAAAAAA", "not a whole hash"),
            (
                "$argon2i$v=19$m=7168,t=5,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                "argon2i;",
            ),
            (
                "$argon2id$v=19$m=4000000,t=5,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                "too expensive",
            ),
            (&good.as_str()[..40], "not a whole hash"),
        ];
        for (text, expected) in table {
            let error = Credential::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hunter2"));
        }
    }

    /// Time that this thread had a core, so that a busy machine does not count.
    fn cpu() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
    }

    #[test]
    #[ignore = "a measurement: says what a check costs on this machine"]
    fn what_a_check_costs() {
        for (memory, passes) in [(47_104, 1), (19_456, 2), (12_288, 3), (9_216, 4), (7_168, 5)] {
            let argon2 =
                Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(memory, passes, 1, None).unwrap());
            let begin = cpu();
            for _ in 0..10 {
                argon2.hash_password_into(b"secret", b"0123456789abcdef", &mut [0; 32]).unwrap();
            }
            eprintln!("m={memory:5} KiB t={passes}: {:?}", cpu().saturating_sub(begin) / 10);
        }
    }
}
