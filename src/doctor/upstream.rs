//! From a probe of an upstream to findings and advice: plain decisions on what was seen.

use std::io::ErrorKind;

use super::{
    certificates::{self, Age},
    disk::milliseconds,
};
use crate::{
    broker::{self, CertificateFacts},
    doctor::finding::{Check, Finding, Grade},
    message::QoS,
    units::short_size,
    uplink::{Error, Login, Probe, Settings, Step, Version},
};

/// A probe, and what bears on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) settings: &'a Settings,
    pub(super) probe: &'a Probe,
    /// Largest packet that a listener takes.
    pub(super) largest_packet: u32,
    /// The running gateway is connected to this address.
    pub(super) connected: bool,
    /// The probe used the gateway's own client id.
    pub(super) own: bool,
}

impl Case<'_> {
    fn finding(&self, step: &str, grade: Grade, found: impl Into<String>) -> Finding {
        let subject = format!("{} {}, {step}", self.settings.name, self.probe.url);
        Finding::new(Check::Uplinks, grade, subject, found)
    }
}

/// What there is to say of it, step by step.
pub(super) fn findings(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let probe = case.probe;
    if let Some((addresses, took)) = &probe.resolved {
        let listed: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
        if probe.url.host.parse::<std::net::IpAddr>().is_err() {
            let found = format!("{} is {}, looked up in {}", probe.url.host, listed.join(", "), milliseconds(*took));
            findings.push(case.finding("DNS", Grade::Ok, found));
        }
    }
    for (address, tried) in &probe.tried {
        findings.push(match tried {
            Ok(took) => case.finding("TCP", Grade::Ok, format!("{address} answered in {}", milliseconds(*took))),
            // The last one is what the probe ended with, and told of below.
            Err(_) if Some(address) == probe.tried.last().map(|(address, _)| address) => continue,
            Err(why) => {
                case.finding("TCP", Grade::Warning, why.clone()).advise("the next address of the host was tried")
            }
        });
    }
    if let Some(tls) = &probe.tls {
        let found = format!("{} in {}, and the server's certificate is trusted", tls.version, milliseconds(tls.took));
        findings.push(case.finding("TLS", Grade::Ok, found));
    }
    findings.extend(certificate(case));
    match (&probe.login, &probe.failed) {
        (Some(login), _) => findings.extend(logged_in(case, login)),
        (None, Some(error)) => findings.push(failure(case, error)),
        (None, None) => {}
    }
    findings
}

/// What the server's certificate says of itself, accepted or not.
fn certificate(case: &Case<'_>) -> Option<Finding> {
    let facts = broker::inspect_certificate(case.probe.shown.first()?).ok()?;
    let (found, theirs) = (about(&facts), "whoever runs the upstream has to renew it");
    Some(match certificates::age(&facts, certificates::unix_now()) {
        Age::Over(days) => {
            case.finding("certificate", Grade::Failed, format!("has expired {days} days ago: {found}")).advise(theirs)
        }
        Age::Early => {
            let found = format!("is not valid before {}: {found}", certificates::date(facts.not_before));
            case.finding("certificate", Grade::Failed, found).advise("is the clock of this machine right?")
        }
        Age::Days(days) if certificates::is_few(days) => {
            case.finding("certificate", Grade::Warning, format!("has {days} days left: {found}")).advise(theirs)
        }
        Age::Days(days) => case.finding("certificate", Grade::Ok, format!("has {days} days left: {found}")),
    })
}

fn about(facts: &CertificateFacts) -> String {
    let names = if facts.names.is_empty() { "no names".to_owned() } else { facts.names.join(", ") };
    format!("for {names}, issued by {}, {}", facts.issuer, certificates::until(facts))
}

fn logged_in(case: &Case<'_>, login: &Login) -> Vec<Finding> {
    let settings = case.settings;
    let found = format!("the upstream let {:?} in, after {}", case.probe.client_id, milliseconds(login.took));
    let mut findings = vec![case.finding("login", Grade::Ok, found)];
    let mut say = |grade, found: String, advice: &str| {
        let finding = case.finding("limits", grade, found);
        findings.push(if advice.is_empty() { finding } else { finding.advise(advice) });
    };
    if let Some(most) = login.receive_maximum
        && most < settings.max_inflight
    {
        let rate = f64::from(most) / login.took.as_secs_f64().max(1e-4);
        let found = format!(
            "takes {most} unacknowledged messages (Receive Maximum), less than `max_inflight` ({}): at this distance \
             some {rate:.0} messages/s at most",
            settings.max_inflight
        );
        say(Grade::Note, found, "where that is too few, have the upstream's limit raised");
    }
    if let Some(most) = login.maximum_qos
        && most < settings.qos
    {
        let found = format!("takes QoS {} at most, `qos` is {}", most.number(), settings.qos.number());
        let grade = if most == QoS::AtMostOnce { Grade::Warning } else { Grade::Note };
        say(
            grade,
            found,
            "at QoS 0 a message counts as forwarded when it is written: the last ones before a break can be lost",
        );
    }
    if let Some(most) = login.maximum_packet_bytes
        && most < case.largest_packet
    {
        let (most, ours) = (short_size(most.into()), short_size(case.largest_packet.into()));
        let found =
            format!("takes packets of {most} at most, a listener takes {ours}: what lies between becomes dead letters");
        say(Grade::Warning, found, "lower `max_packet` of the listeners, so that publishers learn of it");
    }
    if !login.retain_available {
        say(Grade::Note, "keeps no retained messages: they go there as ordinary ones".to_owned(), "");
    }
    if let Some(seconds) = login.keep_alive_s.filter(|seconds| u64::from(*seconds) != settings.keep_alive.as_secs()) {
        say(Grade::Note, format!("wants a keep alive of {seconds} s, which is then used"), "");
    }
    if settings.version == Version::V311 {
        say(Grade::Note, "speaks MQTT 3.1.1 with us, which can say no limits".to_owned(), "");
    }
    findings
}

/// The step that failed, and what to do.
fn failure(case: &Case<'_>, error: &Error) -> Finding {
    let (step, advice) = advice(case, error);
    let finding = case.finding(step, Grade::Failed, bare(&error.to_string(), &case.probe.url.to_string(), error));
    if step == "login" && case.connected && !case.own {
        let found = format!("{}, as a guest; the running gateway itself is connected", finding.found);
        let advice = "the upstream lets in known client ids only: nothing is wrong";
        return Finding { grade: Grade::Note, found, ..finding }.advise(advice);
    }
    finding.advise(advice)
}

/// Address and step stand before it already.
fn bare(text: &str, url: &str, error: &Error) -> String {
    let text = text.strip_prefix(url).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text);
    let steps = [Step::Dns, Step::Tcp, Step::Tls].map(|step| format!("{step}: "));
    let text = steps.iter().find_map(|step| text.strip_prefix(step.as_str())).unwrap_or(text);
    let address = if let Error::Tcp { .. } = error { "no connection: " } else { "" };
    format!("{address}{text}")
}

/// The step, and what to do about its failure.
fn advice(case: &Case<'_>, error: &Error) -> (&'static str, String) {
    let port = case.probe.url.port;
    match error {
        Error::File { .. } => ("files", "correct the file; the gateway reads it again at its next try".to_owned()),
        Error::Dns { .. } => (
            "DNS",
            "is the name spelt right? Else the resolver: `resolvectl status` or /etc/resolv.conf, and whether its server answers".to_owned(),
        ),
        Error::Tcp { cause, .. } => ("TCP", tcp_advice(cause.kind(), port)),
        Error::Tls { cause, .. } => ("TLS", tls_advice(cause)),
        Error::Refused { code, .. } => ("login", login_advice(case, *code)),
        Error::Timeout { step, .. } => timeout_advice(*step, port),
        Error::Closed { step, .. } | Error::Io { step, .. } if *step == Step::Connect => (
            "login",
            format!(
                "the upstream hangs up instead of answering: it wants TLS (mqtts://), a client certificate, or another client id{}",
                own_id_advice(case)
            ),
        ),
        Error::Protocol { .. } => ("login", "is this port MQTT's? A web server or a TLS port answers like that".to_owned()),
        Error::Closed { .. } | Error::Io { .. } | Error::Disconnected { .. } | Error::KeepAlive { .. } => {
            ("login", "look into the upstream's log".to_owned())
        }
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "a few kinds have an advice of their own")]
fn tcp_advice(kind: ErrorKind, port: u16) -> String {
    match kind {
        ErrorKind::ConnectionRefused => {
            format!(
                "the machine is there, but nothing listens on port {port}: is the upstream down, or the port wrong?"
            )
        }
        ErrorKind::NetworkUnreachable => "this device has no way out: cable, modem, `ip route`".to_owned(),
        ErrorKind::HostUnreachable => "a router on the way says that the machine is not there".to_owned(),
        ErrorKind::PermissionDenied => "a firewall of this device forbids it".to_owned(),
        _ => "look at the network of this device: `ip address`, `ip route`".to_owned(),
    }
}

fn tls_advice(cause: &str) -> String {
    let has = |words: &[&str]| words.iter().any(|word| cause.contains(word));
    let advice = if has(&["UnknownIssuer"]) {
        "who issued it is not trusted here: put the authority's certificate into a file and name it in `ca`"
    } else if has(&["NotValidForName", "not valid for name"]) {
        "the certificate is for another name: dial one of its names in `url`"
    } else if has(&["expired", "Expired"]) {
        "renew the server's certificate; if its dates look right, the clock of this device is wrong"
    } else if has(&["NotValidYet", "not valid yet"]) {
        "the clock of this device is probably wrong"
    } else if has(&["CertificateRequired", "BadCertificate", "CertificateUnknown", "UnknownCA", "CertificateExpired"]) {
        "the upstream wants another client certificate: see `cert` and `key`"
    } else if has(&["corrupt message", "InvalidContentType", "InvalidMessage"]) {
        "what answers does not speak TLS: is it a plain port (mqtt://)?"
    } else if has(&["authorities"]) {
        "install ca-certificates, or name the upstream's authority in `ca`"
    } else if has(&["eof", "reset", "closed"]) {
        "the upstream hangs up during the handshake: is it a plain port (mqtt://), or does a firewall cut TLS?"
    } else {
        "ask whoever runs the upstream which TLS versions and certificates it wants"
    };
    advice.to_owned()
}

fn login_advice(case: &Case<'_>, code: u8) -> String {
    match code {
        0x01 | 0x84 => "set `version = \"3.1.1\"` (or \"5\")".to_owned(),
        0x02 | 0x85 => format!("the upstream does not take this client id{}", own_id_advice(case)),
        0x04 | 0x86 => "correct `username` and the first line of `password_file`".to_owned(),
        0x05 | 0x87 => format!("ask whoever runs the upstream to let this user in{}", own_id_advice(case)),
        0x03 | 0x88 | 0x89 => "the upstream is there and busy; the gateway tries again by itself".to_owned(),
        0x8a => "this client id or address is banned: ask whoever runs the upstream".to_owned(),
        _ => "look into the upstream's log".to_owned(),
    }
}

fn own_id_advice(case: &Case<'_>) -> String {
    if case.own {
        String::new()
    } else {
        format!(
            ". This probe said it was {:?}; where only {:?} is let in, stop the gateway and ask with --own-client-id",
            case.probe.client_id, case.settings.client_id
        )
    }
}

fn timeout_advice(step: Step, port: u16) -> (&'static str, String) {
    match step {
        Step::Dns => (
            "DNS",
            "the name server does not answer: `resolvectl status` or /etc/resolv.conf; the way to it".to_owned(),
        ),
        Step::Tcp => (
            "TCP",
            format!("silence: a firewall on the way throws packets to port {port} away, or the address is wrong"),
        ),
        Step::Tls => (
            "TLS",
            "connected, then silence: a proxy or firewall in between, or a port that does not speak TLS".to_owned(),
        ),
        Step::Connect | Step::Session => (
            "login",
            "connected, but no answer to CONNECT: the upstream hangs, or the port is not MQTT's (TLS: mqtts://)"
                .to_owned(),
        ),
    }
}
