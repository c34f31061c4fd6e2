//! The badge of a client that was let in: who it is, what it may, and whether it may stay.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use bytestring::ByteString;
use tokio_util::sync::CancellationToken;

use super::{
    hash::Credential,
    policy::{Policy, Standing},
    rules::{Action, Principal, Rights},
};
use crate::topic::{TopicFilter, TopicName};

/// Who was let in, before it has a session.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    pub(crate) principal: Principal,
    /// Name of the listener it came through.
    pub(super) listener: String,
    /// What its password was checked against.
    pub(super) credential: Option<Arc<Credential>>,
}

/// A badge. Its connection carries it, and its session keeps it while the client is away, for what is queued then.
#[derive(Debug)]
pub(crate) struct Badge {
    admission: Admission,
    client_id: ByteString,
    /// `None`: there are no rules, and everything is allowed.
    rights: RwLock<Option<Arc<Rights>>>,
    revoked: AtomicBool,
    /// Ends the connection.
    kick: CancellationToken,
}

impl Badge {
    pub(super) fn new(admission: Admission, client_id: ByteString, kick: CancellationToken) -> Self {
        Self { admission, client_id, rights: RwLock::new(None), revoked: AtomicBool::new(false), kick }
    }

    fn has(&self, ask: impl FnOnce(&Rights) -> bool) -> bool {
        let rights = self.rights.read().unwrap_or_else(PoisonError::into_inner);
        rights.as_ref().is_none_or(|rights| ask(rights))
    }

    /// Who carries it.
    pub(crate) fn principal(&self) -> &Principal {
        &self.admission.principal
    }

    /// Whether the client may publish to this topic.
    pub(crate) fn may_publish(&self, topic: &TopicName) -> bool {
        self.has(|rights| rights.may(Action::Publish, topic))
    }

    /// Whether it may get messages of this topic.
    pub(crate) fn may_receive(&self, topic: &TopicName) -> bool {
        self.has(|rights| rights.may(Action::Subscribe, topic))
    }

    /// Whether a subscription to this filter could bring it anything.
    pub(crate) fn may_subscribe(&self, filter: &TopicFilter) -> bool {
        self.has(|rights| rights.may_subscribe(filter))
    }

    /// The connection ends: from now on the badge only says what is queued for the session.
    pub(crate) fn leave(&self) {
        self.kick.cancel();
    }

    /// Whether the client had to go because a reload took its access away.
    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// Judges the client anew; true when it has to go. What it may is changed at once either way.
    pub(super) fn judge(&self, policy: &Policy) -> bool {
        let standing = policy.standing(&self.admission);
        let rights = match standing {
            Standing::Good | Standing::PasswordChanged => {
                policy.rights_of(&self.admission.principal, &self.client_id).map(Arc::new)
            }
            Standing::Gone => Some(Arc::new(Rights::default())),
        };
        *self.rights.write().unwrap_or_else(PoisonError::into_inner) = rights;
        let must_go = standing != Standing::Good;
        if must_go && !self.kick.is_cancelled() {
            self.revoked.store(true, Ordering::Release);
            self.kick.cancel();
            return true;
        }
        false
    }
}
