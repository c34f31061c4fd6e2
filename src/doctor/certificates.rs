//! Certificates and keys on this machine: whether they fit, what names they carry, how many days they have left.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    broker::{self, Bind, CertificateFacts},
    config::Config,
    doctor::finding::{Check, Notebook},
    uplink,
};

const DAY_S: i64 = 24 * 3600;
/// Fewer days than this are a warning.
const DAYS_FEW: i64 = 30;

/// How a certificate stands in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// It is not valid yet.
    Early,
    /// It is valid for so many more days.
    Days(i64),
    /// It ended so many days ago.
    Over(i64),
}

pub(super) fn look(config: &Config) -> Notebook {
    let mut notebook = Notebook::new(Check::Tls);
    let now = unix_now();
    let mut seen: Vec<PathBuf> = Vec::new();
    for listener in &config.broker.listeners {
        let Some(tls) = &listener.tls else { continue };
        let subject = format!("listener {}", listener.name);
        let problems = broker::check_tls(tls);
        // Dates are told below.
        let problems =
            problems.iter().filter(|problem| !problem.is_warning || problem.text.contains("read this secret"));
        for problem in problems {
            let name = problem.path.display().to_string();
            if problem.is_warning {
                notebook.warn(&name, problem.text.clone(), "chmod o-r");
            } else {
                notebook.fail(&name, format!("{}: {}", problem.key, problem.text), "put in the right file");
            }
        }
        if broker::check_tls(tls).iter().all(|problem| problem.is_warning) {
            notebook.ok(&subject, "certificate and key belong together");
        }
        if let Some(own) = dates(&tls.cert, now, &mut seen, &mut notebook) {
            names(&subject, &tls.cert, &own, &listener.bind, &mut notebook);
        }
        if let Some(ca) = &tls.client_ca {
            dates(ca, now, &mut seen, &mut notebook);
        }
    }
    for uplink in &config.uplinks {
        let subject = format!("uplink {}", uplink.name);
        if !uplink.urls.iter().any(|url| url.tls) {
            continue;
        }
        match uplink::check_files(uplink) {
            Ok(()) => {
                let roots = if uplink.ca.is_some() { "`ca`" } else { "the system's authorities" };
                let own = if uplink.identity.is_some() { ", and certificate and key belong together" } else { "" };
                notebook.ok(&subject, format!("{roots} can be used{own}"));
            }
            Err(error) => {
                notebook.fail(&subject, error.to_string(), "put in the right file");
            }
        }
        let files = uplink.ca.iter().chain(uplink.identity.iter().map(|(cert, _)| cert));
        for file in files {
            dates(file, now, &mut seen, &mut notebook);
        }
    }
    if notebook.findings.is_empty() {
        notebook.note("certificates", "none are configured");
    }
    notebook
}

/// Tells of the dates of a file once; gives its first certificate.
fn dates(path: &Path, now: i64, seen: &mut Vec<PathBuf>, notebook: &mut Notebook) -> Option<CertificateFacts> {
    // What cannot be read was told of by whoever wanted to use it.
    let certificates = broker::inspect_certificates(path).ok()?;
    let first = certificates.first()?.clone();
    if seen.iter().any(|known| known == path) {
        return Some(first);
    }
    seen.push(path.to_owned());
    let subject = path.display().to_string();
    // Of a bundle of authorities the next to end is what matters.
    let next = certificates.iter().min_by_key(|certificate| certificate.not_after)?;
    let advice = "renew it; the gateway takes a new file up by itself";
    let named = format!("{} ({})", next.subject, until(next));
    match age(next, now) {
        Age::Over(days) => notebook.fail(&subject, format!("has expired {days} days ago: {named}"), advice),
        Age::Early => {
            let found = format!("is not valid before {}: {}", date(next.not_before), next.subject);
            notebook.fail(&subject, found, "is the clock of this machine right? If so, wait, or issue it anew")
        }
        Age::Days(days) if days < DAYS_FEW => notebook.warn(&subject, format!("has {days} days left: {named}"), advice),
        Age::Days(days) => notebook.ok(&subject, format!("has {days} days left: {named}")),
    };
    Some(first)
}

fn names(subject: &str, cert: &Path, certificate: &CertificateFacts, bind: &Bind, notebook: &mut Notebook) {
    if certificate.names.is_empty() {
        let found = format!("{} carries no name (subjectAltName): most clients refuse it", cert.display());
        notebook.warn(subject, found, "issue it with the host name that clients dial as a DNS name");
        return;
    }
    let listed = certificate.names.join(", ");
    let address = match bind {
        Bind::Tcp(address) if !address.ip().is_unspecified() => Some(address.ip().to_string()),
        Bind::Tcp(_) | Bind::Unix(_) => None,
    };
    let is_address = |name: &String| name.parse::<std::net::IpAddr>().is_ok();
    if certificate.names.iter().all(is_address) && address.is_some_and(|ip| !certificate.names.contains(&ip)) {
        let found = format!("its certificate is for {listed}, and it listens on another address");
        notebook.warn(subject, found, "issue it with the name or address that clients dial");
    } else {
        notebook.ok(subject, format!("clients have to dial one of: {listed}"));
    }
}

/// Seconds since 1970.
pub(super) fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// How a certificate stands at `now`.
pub(super) fn age(certificate: &CertificateFacts, now: i64) -> Age {
    if now < certificate.not_before {
        Age::Early
    } else if now > certificate.not_after {
        Age::Over((now - certificate.not_after) / DAY_S)
    } else {
        Age::Days((certificate.not_after - now) / DAY_S)
    }
}

/// Whether it ends soon.
pub(super) const fn is_few(days: i64) -> bool {
    days < DAYS_FEW
}

/// Until when it is valid.
pub(super) fn until(certificate: &CertificateFacts) -> String {
    format!("until {}", date(certificate.not_after))
}

/// A moment for people.
pub(super) fn date(unix_s: i64) -> String {
    let text = OffsetDateTime::from_unix_timestamp(unix_s).ok().and_then(|moment| moment.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{unix_s} s after 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_ones() {
        let certificate = CertificateFacts {
            subject: String::new(),
            issuer: String::new(),
            names: Vec::new(),
            not_before: 10 * DAY_S,
            not_after: 40 * DAY_S,
        };
        assert_eq!(age(&certificate, 10 * DAY_S - 1), Age::Early);
        assert_eq!(age(&certificate, 10 * DAY_S), Age::Days(30));
        assert_eq!(age(&certificate, 10 * DAY_S + 1), Age::Days(29));
        assert_eq!(age(&certificate, 40 * DAY_S), Age::Days(0));
        assert_eq!(age(&certificate, 42 * DAY_S + 5), Age::Over(2));
    }
}
