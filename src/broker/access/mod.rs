//! Access control: who may connect, publish and subscribe.
//!
//! | part | what it does |
//! | --- | --- |
//! | `rules`, `scope` | access rules and their decisions, pure |
//! | `users`, `hash` | the password file and its hashes |
//! | `verifier`, `verdicts`, `guesses` | checking passwords: off the event loop, remembered, limited |
//! | `policy`, `badge` | what is decided by; what a client carries |
//! | `password_file` | changing a password file on disk, for `tidegate passwd` |
//!
//! # Who a client is
//!
//! | it shows | on a listener | it is |
//! | --- | --- | --- |
//! | a certificate with a name | any | `cert:NAME`; a user name and password that it sends as well mean nothing (as with Mosquitto's `use_identity_as_username`) |
//! | a user name | with a password file | that user where the password is right, else refused (0x86), anonymous clients allowed or not |
//! | a user name | without a password file | anonymous where that is allowed: a name that nobody checks gives no rights |
//! | neither | any | anonymous where that is allowed, else refused (0x87) |
//!
//! # Where rules are asked
//!
//! | what | refused with |
//! | --- | --- |
//! | a will, in CONNECT | CONNACK 0x87 (3.1.1: 5); asked again when the connection ends, without an answer then |
//! | PUBLISH | MQTT 5: PUBACK or PUBREC 0x87. 3.1.1 has no such answer: acknowledged and dropped, as with Mosquitto, for a client that is cut off would come again and again. QoS 0: dropped. |
//! | SUBSCRIBE | SUBACK 0x87 (3.1.1: 0x80) where no message could ever come; see `rules` |
//! | a delivery | not delivered: before it is queued, so that it takes nobody's room, and again before it is sent, because rules may have changed, retained and queued messages included |
//!
//! All of it is counted in `tidegate_broker_refused_total` (deliveries that were queued when the rules changed:
//! `tidegate_broker_dropped_total`).
//!
//! # Reload
//!
//! `Access::apply` swaps the policy and judges every client that is connected, or away with a session, under one lock
//! that also stands before new badges, so that nobody slips in between under the old one. Rights change at once; whose user
//! is gone or has another password is disconnected (0x87). Files are read elsewhere (the `config` room): what
//! gets here is whole.
//!
//! Bounds: 512 clients that wait for a check of their password, 2 checks at a time, 16 384 and 1024 remembered verdicts,
//! 4096 addresses and names that guessed; badges as many as sessions. A crash loses all of it, and nothing needs to come back:
//! clients connect and are checked again.

mod badge;
mod guesses;
mod hash;
mod password_file;
mod policy;
mod rules;
mod scope;
mod users;
mod verdicts;
mod verifier;

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use bytestring::ByteString;
use tokio_util::sync::CancellationToken;

pub(crate) use badge::{Admission, Badge};
pub use hash::{Credential, NoHash};
pub use password_file::{EditError, Edited, delete_user, set_password};
use policy::Policy;
pub use rules::{Principal, Rule, Rules, TopicPattern, Verdict, Who};
pub use users::{Users, WrongLine, check_name};

use super::Settings;
use guesses::Origin;
use verifier::{Claimant, Verifier};

/// Who may do what, and everybody who was let in.
#[derive(Debug)]
pub(crate) struct Access {
    state: Mutex<State>,
    verifier: Verifier,
}

#[derive(Debug)]
struct State {
    policy: Arc<Policy>,
    badges: Vec<Weak<Badge>>,
    /// At this many badges those are cleared away that nobody carries any more.
    clear_at: usize,
}

/// Fewest badges at which it is worth looking for those that nobody carries any more.
const CLEAR_AT_MIN: usize = 64;

/// Somebody who wants to come in.
#[derive(Debug)]
pub(crate) struct Applicant<'a> {
    /// Name of the listener.
    pub(crate) listener: &'a str,
    /// Where it comes from.
    pub(crate) address: &'a str,
    /// The name in its certificate, which TLS has verified.
    pub(crate) certificate: Option<&'a ByteString>,
    pub(crate) username: Option<&'a ByteString>,
    pub(crate) password: Option<&'a [u8]>,
}

/// Why somebody may not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// It says no name, and the listener takes no anonymous clients.
    Nameless,
    /// No user of this name and password.
    BadCredentials,
    /// Too many wrong passwords from its address or for its name.
    Guessing,
    /// Too many clients wait for their passwords to be checked.
    Busy,
}

/// What a reload did to the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Clients that had to go.
    pub disconnected: usize,
}

impl Access {
    /// Access as the settings say.
    pub(crate) fn new(settings: &Settings) -> Result<Self, NoHash> {
        let policy = Arc::new(Policy::new(settings));
        let state = State { policy, badges: Vec::new(), clear_at: CLEAR_AT_MIN };
        Ok(Self { state: Mutex::new(state), verifier: Verifier::new()? })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.state().policy)
    }

    /// Whether there are rules.
    pub(crate) fn has_rules(&self) -> bool {
        self.policy().has_rules()
    }

    /// Says who somebody is, or why it may not come in; a password is checked until `deadline` at the latest.
    pub(crate) async fn admit(&self, applicant: Applicant<'_>, deadline: Instant) -> Result<Admission, Denial> {
        let policy = self.policy();
        let admission =
            |principal, credential| Admission { principal, listener: applicant.listener.to_owned(), credential };
        if let Some(name) = applicant.certificate {
            return Ok(admission(Principal::Certificate(name.clone()), None));
        }
        let is_open = policy.is_open(applicant.listener);
        let (name, users) = match (applicant.username, &policy.users) {
            (Some(name), Some(users)) => (name, users),
            (None, _) | (_, None) if is_open => return Ok(admission(Principal::Anonymous, None)),
            (Some(_), None) => return Err(Denial::BadCredentials),
            (None, _) => return Err(Denial::Nameless),
        };
        let credential = users.credential(name);
        let claimant = Claimant {
            origin: Origin::of(applicant.address),
            name,
            password: applicant.password.unwrap_or_default(),
            credential,
        };
        match self.verifier.verify(claimant, deadline).await {
            verifier::Verdict::Right => Ok(admission(Principal::User(name.clone()), credential.cloned())),
            verifier::Verdict::Wrong => Err(Denial::BadCredentials),
            verifier::Verdict::Guessing => Err(Denial::Guessing),
            verifier::Verdict::Busy => Err(Denial::Busy),
        }
    }

    /// The badge of somebody who was let in; `kick` ends its connection. `None` when it may not come in any more.
    pub(crate) fn badge(
        &self,
        admission: Admission,
        client_id: &ByteString,
        kick: &CancellationToken,
    ) -> Option<Arc<Badge>> {
        let badge = Arc::new(Badge::new(admission, client_id.clone(), kick.clone()));
        let mut state = self.state();
        if badge.judge(&state.policy) {
            return None;
        }
        if state.badges.len() >= state.clear_at {
            state.badges.retain(|badge| badge.strong_count() > 0);
            state.clear_at = (state.badges.len() * 2).max(CLEAR_AT_MIN);
        }
        state.badges.push(Arc::downgrade(&badge));
        Some(badge)
    }

    /// Whether rules that are meant for a client cannot be filled in with its names, so that they give it nothing.
    pub(crate) fn has_unfit_names(&self, admission: &Admission, client_id: &str) -> bool {
        self.policy().has_unfit_names(&admission.principal, client_id)
    }

    /// From now on these settings hold, for those who are in as well.
    pub(crate) fn apply(&self, settings: &Settings) -> Applied {
        let mut state = self.state();
        state.policy = Arc::new(Policy::new(settings));
        let badges = state.badges.iter().filter_map(Weak::upgrade);
        let disconnected = badges.filter(|badge| badge.judge(&state.policy)).count();
        Applied { disconnected }
    }
}
