//! Checks passwords: off the event loop, few at a time, and only as often as nobody could guess.
//!
//! ```text
//! remembered? ──yes──▶ in, or out
//!     │ no
//! guessed too often? ──yes──▶ out (0x9F)
//!     │ no
//! queue (512) ──full, or CONNECT_TIMEOUT──▶ out (0x89)
//!     │
//! one of 1 or 2 turns ──▶ remembered meanwhile? guessed too often meanwhile? ──▶ Argon2id on a thread of its own
//! ```
//!
//! - A check takes one core for tens of milliseconds (see `hash`), so on one or two cores one runs at a time, on more two.
//!   A fleet that shares one password costs one check, for whoever waits looks again when its turn comes.
//! - What is remembered goes before the limit on guesses: who has been in with a right password comes in again, however hard
//!   somebody guesses at its name. Only a client that was not here since the gateway's start, or for a day, can be held up.
//! - A name that is not in the file costs the same: a hash that no password has is checked in its place.
//! - A crash or restart forgets everything; nothing is written.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytestring::ByteString;
use tokio::{
    sync::{Semaphore, TryAcquireError},
    time::timeout_at,
};

use super::{
    guesses::{Guesses, Origin},
    hash::{Credential, NoHash},
    verdicts::{Tag, Verdicts},
};

/// Most clients that wait for their turn.
const WAITING_MAX: usize = 512;
/// Most checks at a time, however many cores there are.
const CHECKS_MAX: usize = 2;

/// Why a password was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is right.
    Right,
    /// It is wrong, or there is no such user.
    Wrong,
    /// Too many wrong ones came from this address or for this name.
    Guessing,
    /// Too many others wait.
    Busy,
}

/// Checks passwords and remembers verdicts.
#[derive(Debug)]
pub(super) struct Verifier {
    memory: Mutex<Memory>,
    waiting: Semaphore,
    turns: Arc<Semaphore>,
    nobody: Arc<Credential>,
}

#[derive(Debug)]
struct Memory {
    verdicts: Verdicts,
    guesses: Guesses<Tag>,
}

/// Somebody who says a password.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claimant<'a> {
    pub(super) origin: Origin,
    pub(super) name: &'a ByteString,
    pub(super) password: &'a [u8],
    /// What the password file has for this name.
    pub(super) credential: Option<&'a Arc<Credential>>,
}

impl Verifier {
    pub(super) fn new() -> Result<Self, NoHash> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            memory: Mutex::new(Memory { verdicts: Verdicts::new()?, guesses: Guesses::new() }),
            waiting: Semaphore::new(WAITING_MAX),
            turns: Arc::new(Semaphore::new((cores / 2).clamp(1, CHECKS_MAX))),
            nobody: Arc::new(Credential::of_nobody()),
        })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a password; waits for its turn until `deadline`.
    pub(super) async fn verify(&self, claimant: Claimant<'_>, deadline: Instant) -> Verdict {
        let (tag, name) = {
            let verdicts = &self.memory().verdicts;
            let credential = claimant.credential.map(|credential| &**credential);
            (verdicts.tag(claimant.name, claimant.password, credential), verdicts.tag(claimant.name, b"", None))
        };
        if let Some(known) = self.known(claimant.origin, name, tag) {
            return known;
        }
        let place = match self.waiting.try_acquire() {
            Ok(place) => place,
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => return Verdict::Busy,
        };
        let turn = timeout_at(deadline.into(), Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Verdict::Busy };
        drop(place);
        // Somebody with the same password may have had a turn before, and somebody who guesses, too.
        if let Some(known) = self.known(claimant.origin, name, tag) {
            return known;
        }
        let credential = Arc::clone(claimant.credential.unwrap_or(&self.nobody));
        let password = claimant.password.to_vec();
        let is_right = checked(move || {
            let is_right = credential.verify(&password);
            // Held until here, also when nobody waits any more: a check cannot be stopped.
            drop(turn);
            is_right
        })
        .await;
        let Some(is_right) = is_right else { return Verdict::Busy };
        let is_right = is_right && claimant.credential.is_some();
        let now = Instant::now();
        let mut memory = self.memory();
        memory.verdicts.set(tag, is_right, now);
        if is_right {
            return Verdict::Right;
        }
        memory.guesses.wrong(claimant.origin, name, now);
        Verdict::Wrong
    }

    /// What can be said without a check.
    fn known(&self, origin: Origin, name: Tag, tag: Tag) -> Option<Verdict> {
        let now = Instant::now();
        let mut memory = self.memory();
        match memory.verdicts.get(tag, now) {
            Some(true) => Some(Verdict::Right),
            Some(false) => Some(Verdict::Wrong),
            None if !memory.guesses.allow(origin, name, now) => Some(Verdict::Guessing),
            None => None,
        }
    }
}

/// Runs a check on a thread for things that take long; `None` when the runtime stops meanwhile.
fn checked(check: impl FnOnce() -> bool + Send + 'static) -> impl Future<Output = Option<bool>> {
    let check = tokio::task::spawn_blocking(check);
    async { check.await.ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Rig {
        verifier: Arc<Verifier>,
        credential: Arc<Credential>,
    }

    impl Rig {
        fn new() -> Self {
            let credential = Arc::new(Credential::of(b"secret").unwrap());
            Self { verifier: Arc::new(Verifier::new().unwrap()), credential }
        }

        /// New guesses until one is refused unseen; gives their number.
        async fn guesses(&self, address: &str, name: &str) -> usize {
            let mut count = 0;
            while self.says(address, name, &format!("{address} {count}")).await != Verdict::Guessing {
                count += 1;
            }
            count
        }

        async fn says(&self, address: &str, name: &str, password: &str) -> Verdict {
            let name = ByteString::from(name);
            let credential = (name == "probe").then_some(&self.credential);
            let origin = Origin::of(address);
            let claimant = Claimant { origin, name: &name, password: password.as_bytes(), credential };
            self.verifier.verify(claimant, Instant::now() + Duration::from_secs(60)).await
        }
    }

    #[tokio::test]
    async fn who_was_in_comes_in_again_however_hard_others_guess_at_the_name() {
        let rig = Rig::new();
        assert_eq!(rig.says("10.0.0.1:1", "probe", "secret").await, Verdict::Right);
        let tries = rig.guesses("10.6.6.6:1", "probe").await;
        assert!((20..40).contains(&tries), "{tries} guesses were allowed");
        assert_eq!(rig.says("10.6.6.6:1", "probe", "secret").await, Verdict::Right, "it is no guess");
        assert_eq!(rig.says("10.0.0.1:2", "probe", "secret").await, Verdict::Right);
        // One is allowed again in three seconds, so on a slow machine one or the other comes through.
        assert!(rig.guesses("10.0.0.1:2", "probe").await < 10, "the name is watched, from elsewhere too");
        assert!(rig.guesses("10.6.6.6:1", "other").await < 10, "and the address, whatever the name");
        assert_eq!(rig.says("10.0.0.1:2", "third", "guess").await, Verdict::Wrong, "nobody else is concerned");
    }

    #[tokio::test]
    async fn the_same_wrong_password_again_is_no_new_guess() {
        let rig = Rig::new();
        for _ in 0..100 {
            assert_eq!(rig.says("10.0.0.1:1", "probe", "old").await, Verdict::Wrong);
        }
        assert_eq!(rig.says("10.0.0.1:2", "probe", "secret").await, Verdict::Right);
    }

    #[tokio::test]
    async fn a_fleet_with_one_password_costs_one_check() {
        let rig = Arc::new(Rig::new());
        let begin = Instant::now();
        assert_eq!(rig.says("10.0.0.1:1", "nobody", "x").await, Verdict::Wrong);
        let one_check = begin.elapsed();
        let begin = Instant::now();
        let mut fleet = tokio::task::JoinSet::new();
        for number in 0..400 {
            let rig = Arc::clone(&rig);
            fleet.spawn(async move { rig.says(&format!("10.0.0.1:{number}"), "probe", "secret").await });
        }
        assert!(fleet.join_all().await.into_iter().all(|verdict| verdict == Verdict::Right));
        // Far from 400 times as long, however busy the machine is.
        assert!(begin.elapsed() < one_check * 100, "{:?} against {one_check:?}", begin.elapsed());
    }

    #[tokio::test]
    async fn those_who_wait_are_bounded_in_number_and_time() {
        let rig = Rig::new();
        let turns = Arc::clone(&rig.verifier.turns);
        let all = turns.acquire_many(u32::try_from(turns.available_permits()).unwrap()).await.unwrap();
        let name = ByteString::from("probe");
        let claimant = Claimant {
            origin: Origin::of("unix"),
            name: &name,
            password: b"secret",
            credential: Some(&rig.credential),
        };
        let soon = Instant::now() + Duration::from_millis(20);
        assert_eq!(rig.verifier.verify(claimant, soon).await, Verdict::Busy);
        let places = rig.verifier.waiting.try_acquire_many(u32::try_from(WAITING_MAX).unwrap()).unwrap();
        let late = Instant::now() + Duration::from_secs(600);
        assert_eq!(rig.verifier.verify(claimant, late).await, Verdict::Busy, "at once");
        drop((all, places));
        assert_eq!(rig.verifier.verify(claimant, late).await, Verdict::Right);
    }
}
