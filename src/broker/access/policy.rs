//! What access is decided by: users, rules, and which listeners take anonymous clients. Pure.

use std::{collections::HashSet, sync::Arc};

use super::{
    badge::Admission,
    hash::Credential,
    rules::{Principal, Rights, Rules},
    users::Users,
};
use crate::broker::Settings;

/// Everything that access depends on, as it was last read.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) users: Option<Arc<Users>>,
    rules: Option<Arc<Rules>>,
    /// Names of the listeners that take anonymous clients.
    open: HashSet<String>,
}

/// Whether somebody who was let in would be let in again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Yes.
    Good,
    /// Yes, but not with the password that it gave.
    PasswordChanged,
    /// No.
    Gone,
}

impl Policy {
    pub(super) fn new(settings: &Settings) -> Self {
        let open = settings.listeners.iter().filter(|listener| listener.anonymous);
        Self {
            users: settings.access.users.clone(),
            rules: settings.access.rules.clone(),
            open: open.map(|listener| listener.name.clone()).collect(),
        }
    }

    pub(super) fn is_open(&self, listener: &str) -> bool {
        self.open.contains(listener)
    }

    pub(super) fn has_rules(&self) -> bool {
        self.rules.is_some()
    }

    /// What a client may; `None` = everything.
    pub(super) fn rights_of(&self, principal: &Principal, client_id: &str) -> Option<Rights> {
        self.rules.as_ref().map(|rules| rules.rights_of(principal, client_id))
    }

    /// Whether rules that are meant for a client cannot be filled in with its names.
    pub(super) fn has_unfit_names(&self, principal: &Principal, client_id: &str) -> bool {
        self.rules.as_ref().is_some_and(|rules| rules.has_unfit_names(principal, client_id))
    }

    pub(super) fn standing(&self, admission: &Admission) -> Standing {
        match &admission.principal {
            Principal::Anonymous if self.is_open(&admission.listener) => Standing::Good,
            Principal::Anonymous => Standing::Gone,
            // Whether a certificate is good was decided by TLS, and it stays good until its connection ends.
            Principal::Certificate(_) => Standing::Good,
            Principal::User(name) => {
                let now: Option<&Credential> =
                    self.users.as_ref().and_then(|users| users.credential(name)).map(|credential| &**credential);
                match now {
                    None => Standing::Gone,
                    now if now == admission.credential.as_deref() => Standing::Good,
                    Some(_) => Standing::PasswordChanged,
                }
            }
        }
    }
}
