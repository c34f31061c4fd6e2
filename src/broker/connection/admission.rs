//! Who may come in: the client's certificate, user name and password, and its will.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::handshake::{Door, Refusal};
use crate::broker::{
    CONNECT_TIMEOUT,
    access::{Admission, Applicant, Badge, Denial},
    hub::Hub,
    packet::{Connect, Reason},
};

impl Door {
    /// Says who the client is, or why it may not come in.
    pub(super) async fn authenticate(&mut self, connect: &Connect) -> Result<Admission, Refusal> {
        let applicant = Applicant {
            listener: &self.listener.settings.name,
            address: &self.address,
            certificate: self.certificate_name.as_ref(),
            username: connect.username.as_ref(),
            password: connect.password.as_ref().map(|password| &*password.0),
        };
        tokio::select! {
            biased;
            admitted = self.hub.access.admit(applicant, self.began + CONNECT_TIMEOUT) => admitted.map_err(refusal),
            () = self.listener.leaving.cancelled() => {
                Err(Refusal::new(Reason::SHUTTING_DOWN, "stopping", "the gateway stops, or this listener"))
            }
        }
    }

    /// The client's badge: what it may from now on. Refused where it may not even send its own will.
    pub(super) fn make_badge(
        &self,
        admission: Admission,
        connect: &Connect,
        kick: &CancellationToken,
    ) -> Result<Arc<Badge>, Refusal> {
        let client_id = &connect.client_id;
        if self.hub.access.has_unfit_names(&admission, client_id) {
            Hub::unfit_names(self.who(client_id), &admission.principal);
        }
        let refused = |cause: &str| Refusal::new(Reason::NOT_AUTHORIZED, "not-authorized", cause);
        let badge = self.hub.access.badge(admission, client_id, kick);
        let badge = badge.ok_or_else(|| refused("lost its access while it was connecting"))?;
        match &connect.will {
            Some(will) if !badge.may_publish(&will.message.topic) => {
                let cause = format!("may not publish its will to {}", will.message.topic);
                Err(Refusal::new(Reason::NOT_AUTHORIZED, "acl-will", &cause))
            }
            Some(_) | None => Ok(badge),
        }
    }
}

fn refusal(denial: Denial) -> Refusal {
    let (reason, word, cause) = match denial {
        Denial::Nameless => (Reason::NOT_AUTHORIZED, "not-authorized", "the listener takes no anonymous clients"),
        Denial::BadCredentials => {
            (Reason::BAD_CREDENTIALS, "bad-credentials", "the listener knows no user of this name and password")
        }
        Denial::Guessing => {
            (Reason::CONNECTION_RATE, "guessing", "too many wrong passwords from this address or for this user name")
        }
        Denial::Busy => (Reason::BUSY, "busy", "too many clients wait for their passwords to be checked"),
    };
    Refusal::new(reason, word, cause)
}
