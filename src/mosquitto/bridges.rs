//! Bridges of a mosquitto.conf into uplinks, streams and downlinks.
//!
//! A line `topic PATTERN out QOS LOCAL REMOTE` is a subscription to LOCAL + PATTERN whose messages go up as REMOTE + what PATTERN matched; `in` is the
//! reverse. Lines of a bridge whose topics change in the same way become one stream, so that their messages stay in order.

use std::{fmt::Write as _, path::Path};

use super::{
    notes::{
        Became::{Carried, Differs, Lost, NotNeeded},
        Book,
    },
    reader::beside,
    render,
    sections::Section,
};
use crate::topic::TopicFilter;

/// Longest keep alive of an uplink.
const KEEP_ALIVE_MAX_S: u64 = 3600;

/// All bridges, rendered.
#[derive(Debug, Default)]
pub(super) struct Bridges {
    pub(super) toml: String,
    /// Files of passwords: name and content.
    pub(super) secrets: Vec<(String, String)>,
    pub(super) uplinks: usize,
}

/// Topics that go the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    template: String,
    filters: Vec<String>,
    qos: u8,
    lines: Vec<usize>,
}

/// What the `topic` lines of a bridge make.
#[derive(Debug, Default, PartialEq, Eq)]
struct Topics {
    out: Vec<Group>,
    down: Vec<Group>,
    /// Something goes both ways under the same topic.
    both: bool,
}

/// `host_name` of this machine: Mosquitto makes client ids of it.
pub(super) fn convert(book: &mut Book, bridges: &[Section], config: &Path, host_name: &str) -> Bridges {
    let mut all = Bridges::default();
    let mut names = Vec::new();
    for bridge in bridges {
        let Some(start) = bridge.start else { continue };
        let name = render::name(book.value(start), &names);
        names.push(name.clone());
        let topics = topics(book, bridge);
        let Some(urls) = urls(book, bridge, start) else { continue };
        let mut toml =
            format!("\n[[uplink]] # {}: connection {}\n", book.place(start), render::comment(book.value(start)));
        let _ = writeln!(toml, "name = {}", render::text(&name));
        toml.push_str(&urls);
        toml.push_str(&version(book, bridge, start, topics.both));
        toml.push_str(&identity(book, bridge, start, host_name, &name, &mut all.secrets));
        toml.push_str(&tls(book, bridge, config));
        let qos = topics.out.iter().map(|group| group.qos).max().unwrap_or(1).max(1);
        let _ = writeln!(toml, "qos = {qos}");
        told_of_qos(book, &topics, qos);
        toml.push_str(&timing(book, bridge));
        notifications(book, bridge, start);
        toml.push_str(&flows(book, &name, &topics));
        book.say(start, Carried, "an `[[uplink]]`, with a `[[stream]]` or `[[downlink]]` for its topics");
        all.toml.push_str(&toml);
        all.uplinks += 1;
    }
    all
}

fn urls(book: &mut Book, bridge: &Section, start: usize) -> Option<String> {
    let lines = [bridge.all(book, "address"), bridge.all(book, "addresses")].concat();
    let scheme = if uses_tls(book, bridge) { "mqtts" } else { "mqtt" };
    let mut urls = Vec::new();
    for line in &lines {
        for address in book.value(*line).split_whitespace() {
            urls.push(url(scheme, address));
        }
    }
    if urls.is_empty() {
        book.say(start, Lost, "has no `address`; the bridge is left out");
        for line in bridge.all(book, "topic") {
            book.say(line, Lost, "belongs to a bridge that is left out");
        }
        return None;
    }
    for line in lines {
        book.say(line, Carried, "`urls` of the uplink");
    }
    match bridge.value(book, "round_robin") {
        Some("true") => {
            let said =
                "addresses are tried in order, and the first is returned to when it is back; there is no other way";
            bridge.say(book, "round_robin", Lost, said);
        }
        _ => bridge.say(
            book,
            "round_robin",
            Carried,
            "addresses are tried in order, and the first is returned to when it is back",
        ),
    }
    Some(format!("urls = {}\n", render::list(&urls)))
}

/// Mosquitto takes 1883 where no port is said, with TLS too.
fn url(scheme: &str, address: &str) -> String {
    let has_port = address.rsplit_once(':').is_some_and(|(host, port)| {
        port.bytes().all(|b| b.is_ascii_digit()) && !port.is_empty() && (!host.contains(':') || host.ends_with(']'))
    });
    let host = if address.matches(':').count() > 1 && !address.contains('[') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    if has_port { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:1883") }
}

fn uses_tls(book: &Book, bridge: &Section) -> bool {
    ["bridge_cafile", "bridge_capath", "bridge_psk", "bridge_certfile"]
        .iter()
        .any(|key| bridge.line(book, key).is_some())
}

fn version(book: &mut Book, bridge: &Section, start: usize, both: bool) -> String {
    let line = bridge.line(book, "bridge_protocol_version");
    let said = line.map(|line| book.value(line).to_owned());
    let is_five = said.as_deref() == Some("mqttv50");
    if both && !is_five {
        let why = "MQTT 5 is used, for only there an upstream can be told not to send back what went up; if it knows 3.1.1 only, give what \
                   goes up and what comes down topics of their own";
        book.say(line.unwrap_or(start), Differs, why);
        return "version = \"5\"\n".to_owned();
    }
    match (line, said.as_deref()) {
        (Some(line), Some("mqttv50" | "mqttv311")) => book.say(line, Carried, "`version` of the uplink"),
        (Some(line), Some("mqttv31")) => book.say(line, Differs, "3.1.1 is spoken; 3.1 is not known"),
        (Some(line), _) => {
            book.say(line, Lost, "expected `mqttv50` or `mqttv311`; 3.1.1, Mosquitto's default, is taken");
        }
        (None, _) => {}
    }
    if is_five {
        "version = \"5\"\n".to_owned()
    } else {
        "version = \"3.1.1\" # \"5\" where the upstream knows it: with properties, limits and ids of messages\n"
            .to_owned()
    }
}

/// Client id, user name, password.
fn identity(
    book: &mut Book,
    bridge: &Section,
    start: usize,
    host_name: &str,
    name: &str,
    secrets: &mut Vec<(String, String)>,
) -> String {
    let either = |book: &Book, keys: [&str; 2]| keys.iter().find_map(|key| bridge.line(book, key));
    let mut out = String::new();
    if let Some(line) = either(book, ["remote_clientid", "clientid"]) {
        let _ = writeln!(out, "client_id = {}", render::text(book.value(line)));
        book.say(line, Carried, "`client_id` of the uplink");
    } else {
        let made = format!("{host_name}.{}", book.value(start));
        let _ = writeln!(out, "client_id = {} # as Mosquitto makes it on this machine", render::text(&made));
    }
    let user = either(book, ["remote_username", "username"]);
    if let Some(line) = user {
        let _ = writeln!(out, "username = {}", render::text(book.value(line)));
        book.say(line, Carried, "`username` of the uplink");
    }
    if let Some(line) = either(book, ["remote_password", "password"]) {
        if user.is_none() {
            book.say(line, Lost, "is of no use without a `remote_username`");
        } else {
            let file = format!("{name}.password");
            let _ = writeln!(out, "password_file = {}", render::text(&file));
            secrets.push((file.clone(), format!("{}\n", book.value(line))));
            book.say(line, Carried, format!("in the file {file}, which only its owner can read"));
        }
    }
    out
}

fn tls(book: &mut Book, bridge: &Section, config: &Path) -> String {
    let mut out = String::new();
    let (cert, key) = (bridge.line(book, "bridge_certfile"), bridge.line(book, "bridge_keyfile"));
    let pair = cert.is_some() && key.is_some();
    for (theirs, ours) in [("bridge_cafile", "ca"), ("bridge_certfile", "cert"), ("bridge_keyfile", "key")] {
        let Some(line) = bridge.line(book, theirs) else { continue };
        if ours != "ca" && !pair {
            book.say(line, Lost, "`bridge_certfile` and `bridge_keyfile` need each other");
            continue;
        }
        let path = beside(config, Path::new(book.value(line))).display().to_string();
        let _ = writeln!(out, "{ours} = {}", render::text(&path));
        book.say(line, Carried, format!("`{ours}` of the uplink"));
    }
    match bridge.line(book, "bridge_alpn") {
        Some(line) if uses_tls(book, bridge) => {
            let _ = writeln!(out, "alpn = {}", render::text(book.value(line)));
            book.say(line, Carried, "`alpn` of the uplink");
        }
        Some(line) => book.say(line, NotNeeded, "names the protocol in a TLS handshake, and there is none"),
        None => {}
    }
    if let Some(line) = bridge.line(book, "bridge_capath") {
        let is_systems = ["/etc/ssl/certs", "/etc/ssl/certs/"].contains(&book.value(line));
        if is_systems {
            book.say(line, Carried, "the system's authorities are trusted where no `ca` is named");
        } else {
            book.say(line, Lost, "put the certificates of that folder into one file and name it in `ca`; the system's are trusted until then");
        }
    }
    for key in ["bridge_psk", "bridge_identity"] {
        bridge.say(
            book,
            key,
            Lost,
            "there are no pre-shared keys; the upstream has to be reached with certificates or a password over TLS",
        );
    }
    match bridge.value(book, "bridge_insecure") {
        Some("true") => {
            bridge.say(
                book,
                "bridge_insecure",
                Lost,
                "the server's certificate must carry the name that is dialled; issue it so, or dial its name",
            );
        }
        _ => bridge.say(book, "bridge_insecure", NotNeeded, "the server's name is always checked"),
    }
    bridge.say(book, "bridge_require_certificate", NotNeeded, "the server's certificate is always checked");
    out
}

fn timing(book: &mut Book, bridge: &Section) -> String {
    let mut out = String::new();
    if let Some(line) = bridge.line(book, "keepalive_interval") {
        match book.value(line).parse::<u64>() {
            Ok(seconds) if seconds > 0 => {
                let _ = writeln!(out, "keep_alive = \"{}s\"", seconds.min(KEEP_ALIVE_MAX_S));
                let became = if seconds > KEEP_ALIVE_MAX_S { Differs } else { Carried };
                book.say(line, became, "`keep_alive` of the uplink, an hour at most");
            }
            Ok(_) | Err(_) => book.say(line, Lost, "expected a number of seconds; 30 s are taken"),
        }
    }
    if let Some(line) = bridge.line(book, "restart_timeout") {
        let numbers: Result<Vec<u64>, _> = book.value(line).split_whitespace().map(str::parse).collect();
        match numbers.as_deref() {
            Ok([base @ 1..=86_400]) => {
                let _ = writeln!(out, "backoff = {{ min = \"{base}s\", max = \"{base}s\" }}");
                book.say(line, Carried, "`backoff` of the uplink; waits are a random part of it");
            }
            Ok([base @ 1..=86_400, cap]) if base <= cap => {
                let cap = (*cap).min(86_400);
                let _ = writeln!(out, "backoff = {{ min = \"{base}s\", max = \"{cap}s\" }}");
                book.say(line, Carried, "`backoff` of the uplink; waits are a random part of it");
            }
            Ok(_) | Err(_) => book.say(line, Lost, "expected one or two numbers of seconds; 0.5 s to 60 s are taken"),
        }
    }
    out
}

fn notifications(book: &mut Book, bridge: &Section, start: usize) {
    let said = "the state of an uplink is in `$SYS/broker/connection/NAME/state` here and in the metrics; upstream nothing is told of it";
    match bridge.value(book, "notifications") {
        Some("false") => bridge.say(book, "notifications", NotNeeded, "nothing is told upstream"),
        Some(_) => bridge.say(book, "notifications", Differs, said),
        None => book.say(start, Differs, said),
    }
}

fn told_of_qos(book: &mut Book, topics: &Topics, qos: u8) {
    for group in &topics.out {
        for line in &group.lines {
            if group.qos < qos {
                let said = format!(
                    "goes up at QoS {qos}, as all of this uplink: what is on its way when the link breaks is not lost"
                );
                book.say(*line, Differs, said);
            }
        }
    }
}

/// `[[stream]]` and `[[downlink]]`.
fn flows(book: &Book, uplink: &str, topics: &Topics) -> String {
    let mut out = String::new();
    let kinds = [("stream", "out", &topics.out), ("downlink", "in", &topics.down)];
    for (section, suffix, groups) in kinds {
        for (number, group) in (1..).zip(groups) {
            let number = if number == 1 { String::new() } else { format!("-{number}") };
            let places: Vec<String> = group.lines.iter().map(|line| book.place(*line)).collect();
            let _ = writeln!(out, "\n[[{section}]] # {}", places.join(", "));
            let _ = writeln!(out, "name = {}", render::text(&format!("{uplink}-{suffix}{number}")));
            if section == "stream" {
                let _ = writeln!(out, "from = {}\nto = {}", render::list(&group.filters), render::text(uplink));
            } else {
                let _ = writeln!(out, "from = {}\nfilter = {}", render::text(uplink), render::list(&group.filters));
                let _ = writeln!(out, "qos = {}", group.qos);
            }
            if group.template != "{topic}" {
                let _ = writeln!(out, "topic = {}", render::text(&group.template));
            }
        }
    }
    out
}

fn topics(book: &mut Book, bridge: &Section) -> Topics {
    let mut topics = Topics::default();
    for line in bridge.all(book, "topic") {
        match topic(book.value(line)) {
            Err(why) => book.say(line, Lost, why),
            Ok(Topic { out, down, qos }) => {
                topics.both |= out.is_some() && down.is_some();
                let words = match (&out, &down) {
                    (Some(_), Some(_)) => "a stream and a downlink",
                    (Some(_), None) => "a stream",
                    (None, _) => "a downlink",
                };
                book.say(line, Carried, words);
                for (way, groups) in [(out, &mut topics.out), (down, &mut topics.down)] {
                    let Some((filter, template)) = way else { continue };
                    let place = groups.iter_mut().find(|group| group.template == template && group.qos == qos);
                    match place {
                        Some(group) => {
                            group.filters.push(filter);
                            group.lines.push(line);
                        }
                        None => groups.push(Group { template, filters: vec![filter], qos, lines: vec![line] }),
                    }
                }
            }
        }
    }
    // Order matters more than the QoS they had: what goes up is one for the whole uplink anyway.
    topics.out = merged(std::mem::take(&mut topics.out));
    topics
}

fn merged(groups: Vec<Group>) -> Vec<Group> {
    let mut merged: Vec<Group> = Vec::new();
    for group in groups {
        match merged.iter_mut().find(|known| known.template == group.template) {
            Some(known) => {
                known.filters.extend(group.filters);
                known.lines.extend(group.lines);
                known.qos = known.qos.max(group.qos);
            }
            None => merged.push(group),
        }
    }
    merged
}

/// One `topic` line: filter and template of each direction.
#[derive(Debug, PartialEq, Eq)]
struct Topic {
    out: Option<(String, String)>,
    down: Option<(String, String)>,
    qos: u8,
}

fn topic(text: &str) -> Result<Topic, String> {
    let words: Vec<&str> = text.split_whitespace().map(|word| if word == "\"\"" { "" } else { word }).collect();
    let [pattern, rest @ ..] = &words[..] else { return Err("has no topic".to_owned()) };
    let direction = rest.first().copied().unwrap_or("out");
    let qos = match rest.get(1).copied().unwrap_or("0") {
        "0" => 0,
        "1" => 1,
        "2" => 2,
        other => return Err(format!("expected a QoS of 0, 1 or 2 instead of {other:?}")),
    };
    let (local, remote) = (rest.get(2).copied().unwrap_or(""), rest.get(3).copied().unwrap_or(""));
    if rest.len() > 4 {
        return Err("expected at most a direction, a QoS and two prefixes behind the topic".to_owned());
    }
    let out = || mapping(pattern, local, remote).map(Some);
    let down = || mapping(pattern, remote, local).map(Some);
    Ok(match direction {
        "out" => Topic { out: out()?, down: None, qos },
        "in" => Topic { out: None, down: down()?, qos },
        "both" => Topic { out: out()?, down: down()?, qos },
        other => return Err(format!("expected `out`, `in` or `both` instead of {other:?}")),
    })
}

/// The filter of what is taken, and the template of what it becomes.
fn mapping(pattern: &str, from: &str, to: &str) -> Result<(String, String), String> {
    let filter = format!("{from}{pattern}");
    TopicFilter::new(filter.as_str()).map_err(|error| format!("{filter:?} {error}"))?;
    if from.contains(['+', '#']) || to.contains(['+', '#']) {
        return Err("a prefix with a wildcard cannot be taken off or put on".to_owned());
    }
    if from == to {
        return Ok((filter, "{topic}".to_owned()));
    }
    if format!("{to}{pattern}").contains(['{', '}']) {
        return Err("a topic with braces in it cannot be changed".to_owned());
    }
    if from.is_empty() {
        return Ok((filter, format!("{to}{{topic}}")));
    }
    let mut number = 0;
    let levels = pattern.split('/').map(|level| match level {
        "+" => {
            number += 1;
            format!("{{{number}}}")
        }
        "#" => "{rest}".to_owned(),
        other => other.to_owned(),
    });
    let body: Vec<String> = levels.collect();
    if number > 9 {
        return Err("more than nine `+` cannot be carried into another topic".to_owned());
    }
    let template = format!("{to}{}", body.join("/"));
    if template.is_empty() { Err("the topic would be empty".to_owned()) } else { Ok((filter, template)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_lines_become_filters_and_templates() {
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        let table = [
            ("#", pair("#", "{topic}"), None, 0),
            ("a/+ out 1", pair("a/+", "{topic}"), None, 1),
            ("a/# both 2", pair("a/#", "{topic}"), pair("a/#", "{topic}"), 2),
            ("a/# out 1 \"\" site7/", pair("a/#", "site7/{topic}"), None, 1),
            ("# out 1 local/ site7/x/", pair("local/#", "site7/x/{rest}"), None, 1),
            ("+/t/+/# in 0 l/ r/", None, pair("r/+/t/+/#", "l/{1}/t/{2}/{rest}"), 0),
            ("cmd/# in 1 \"\" r/", None, pair("r/cmd/#", "cmd/{rest}"), 1),
            ("\"\" out 1 here there", pair("here", "there"), None, 1),
        ];
        for (text, out, down, qos) in table {
            assert_eq!(topic(text), Ok(Topic { out, down, qos }), "{text}");
        }
        for wrong in
            ["", "a/#/b", "a out 3", "a sideways", "a out 1 x y z", "# out 1 a{ b", "\"\" out 1", "a out 0 +/ b/"]
        {
            assert!(topic(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn addresses_have_the_port_that_mosquitto_takes() {
        let table = [
            ("h", "mqtt://h:1883"),
            ("h:8883", "mqtt://h:8883"),
            ("10.0.0.1:1", "mqtt://10.0.0.1:1"),
            ("fe80::1", "mqtt://[fe80::1]:1883"),
            ("[fe80::1]:99", "mqtt://[fe80::1]:99"),
        ];
        assert!(table.iter().all(|(address, expected)| url("mqtt", address) == *expected));
    }
}
