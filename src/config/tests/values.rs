//! Values that are wrong, do not fit together, or are surely not meant.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[test]
fn wrong_values_are_told_with_what_would_be_right() {
    let in_listener = |line: &str| format!("[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:0\"\n{line}\n");
    let in_uplink = |line: &str| format!("{STREAM}{UPLINK}{line}\n");
    let in_stream = |line: &str| format!("{UPLINK}{STREAM}{line}\n");
    let table = [
        (
            in_listener("max_packet = \"1KB\""),
            "listener[0].max_packet (l): \"1KB\": expected a size from 1KiB to 268435460B",
        ),
        (in_listener("max_inflight = 0"), "listener[0].max_inflight (l): 0: expected a whole number from 1 to 65535"),
        (
            in_listener("max_inflight = \"9\""),
            "listener[0].max_inflight (l): \"9\": expected a whole number from 1 to 65535; without quotes",
        ),
        (
            in_listener("anonymous = \"true\""),
            "listener[0].anonymous (l): \"true\": expected true or false; without quotes",
        ),
        (
            in_listener("transport = \"wss\""),
            "listener[0].transport (l): \"wss\": expected \"tcp\" or \"ws\"; did you mean \"ws\"?",
        ),
        (in_listener("origins = [\"*\"]"), "listener[0].origins (l): is of no use without `transport = \"ws\"`"),
        (
            in_listener("transport = \"ws\"\norigins = [\"https://dash.example/\"]"),
            "listener[0].origins[0] (l): \"https://dash.example/\": expected an origin such as \
             \"https://dash.example.com\" or \"http://10.0.0.7:3000\", or \"*\" for any; \
             without the path: \"https://dash.example\"",
        ),
        (
            in_listener("unix_mode = \"0660\""),
            "listener[0].unix_mode (l): \"0660\": is of no use without a unix socket in `bind`",
        ),
        (in_uplink("qos = 3"), "uplink[0].qos (cloud): 3: expected a whole number from 0 to 2"),
        (
            in_uplink("keep_alive = \"19h\""),
            "uplink[0].keep_alive (cloud): \"19h\": expected a duration from \"0s\" to \"18h12m15s\"",
        ),
        (
            in_uplink("keep_alive = \"1500ms\""),
            "uplink[0].keep_alive (cloud): \"1500ms\": expected whole seconds from \"1s\" to \"18h12m15s\", or \"0s\" for none",
        ),
        (
            in_uplink("backoff = { min = \"5s\", max = \"1s\" }"),
            "uplink[0].backoff.min (cloud): \"5s\": expected not more than `max`",
        ),
        (in_uplink("urls = [\"mqtt://b\"]"), "uplink[0].urls (cloud): there is a `url` too; expected one of the two"),
        (in_stream("priority = 101"), "stream[0].priority (all): 101: expected a whole number from -100 to 100"),
        (in_stream("ttl = \"0s\""), "stream[0].ttl (all): \"0s\": expected a duration from \"1s\" to \"36500d\""),
        (
            in_stream("retain_sent = \"7\""),
            "stream[0].retain_sent (all): \"7\": has no unit (right: `7s`, `7ms`, `7m`, `7h` or `7d`)",
        ),
        (in_stream("envelope = \"xml\""), "stream[0].envelope (all): \"xml\": expected \"none\" or \"json\""),
        (
            in_stream("topic = \"{rset}\""),
            "stream[0].topic (all): \"{rset}\": has the unknown placeholder `{rset}`; known are {topic} {gateway} {client} {rest} {1}..{9}",
        ),
        (in_stream("topic = \"{1}\""), "stream[0].topic (all): \"{1}\": uses {1}, but the filter `#` has only 0 `+`"),
        (
            "[log]\nlevel = \"inof\"".to_owned(),
            "log.level: \"inof\": `inof` is no level; expected a level (error, warn, info, debug, trace) or directives such as \"info,tidegate::uplink=debug\"",
        ),
        ("[auth]\nacl_file = \"x\"".to_owned(), "auth.acl_file: x: No such file or directory (os error 2)"),
        (
            "[listener]\nbind = \"x\"".to_owned(),
            "listener: a table: expected a list of tables: `[[listener]]` once for each; two brackets, not one",
        ),
        (
            "[store]\nmax_bytes = \"1KiB\"".to_owned(),
            "store.max_bytes: \"1KiB\": expected at least \"1MiB\", or 0 for no limit",
        ),
        ("store = 7".to_owned(), "store: 7: expected a table: `[store]` and its keys below it"),
        (
            "store.\"a.b\\u001b\" = 7".to_owned(),
            "store.a.b\\u{1b}: unknown key; known here: durability, commit_delay, max_bytes, min_free",
        ),
        ("[store]\nmin_free = 1979-05-27".to_owned(), "store.min_free: 1979-05-27: no key takes a date"),
        (
            "[store]\nmin_free = 99999999999999999999".to_owned(),
            "store.min_free: 99999999999999999999: the number is too large",
        ),
    ];
    for (text, expected) in table {
        check_alone(&text, expected);
    }
}

/// This text is refused for this alone.
fn check_alone(text: &str, expected: &str) {
    let folder = folder(&[("tidegate.toml", text)]);
    let root = format!("{}/", folder.folder.path().display());
    let Err(Refused(problems)) = folder.load() else { panic!("accepted: {text}") };
    let [problem] = problems.as_slice() else { panic!("{text}: {problems:#?}") };
    let told = Problem { place: None, ..problem.clone() }.to_string().replace(&root, "");
    assert_eq!(told, format!("error: {expected}"), "{text}");
}

#[test]
fn wrong_values_of_a_downlink_are_told_too() {
    let downlink = |rest: &str| format!("{UPLINK}[[downlink]]\nname = \"c\"\nfrom = \"cloud\"\n{rest}\n");
    let in_downlink = |line: &str| downlink(&format!("filter = [\"cmd/+/#\"]\n{line}"));
    let table = [
        (in_downlink("qos = 3"), "downlink[0].qos (c): 3: expected a whole number from 0 to 2"),
        (in_downlink("ttl = \"0s\""), "downlink[0].ttl (c): \"0s\": expected a duration from \"1s\" to \"36500d\""),
        (
            in_downlink("topic = \"{2}\""),
            "downlink[0].topic (c): \"{2}\": uses {2}, but the filter `cmd/+/#` has only 1 `+`",
        ),
        (
            in_downlink("topic = \"{client}\""),
            "downlink[0].topic (c): \"{client}\": {client} has no meaning here: what comes from an upstream has no client",
        ),
        (
            downlink("filter = [\"$share/g/a\"]"),
            "downlink[0].filter[0] (c): \"$share/g/a\": a shared subscription has no place here: each gateway has a session of its own",
        ),
        (
            downlink(""),
            "downlink[0].filter (c): expected at least one topic filter, such as [\"plants/plant-7/cmd/#\"]",
        ),
        (
            "[[downlink]]\nname = \"c\"\nfilter = [\"a\"]".to_owned(),
            "downlink[0].from (c): is missing; expected the name of an uplink",
        ),
    ];
    for (text, expected) in table {
        check_alone(&text, expected);
    }
}

#[test]
fn names_of_the_http_interface_are_names_alone() {
    let hosts = |list: &str| format!("[admin]\nhosts = {list}");
    assert_eq!(load(&hosts("[\"gw.plant.example\", \"gw_7\"]")).admin.hosts, ["gw.plant.example", "gw_7"]);
    let expected = "expected a host name such as \"gateway.plant.example\", without scheme and port";
    for (wrong, hint) in
        [("http://gw.example:9883/", Some("gw.example")), ("gw:9883", Some("gw")), ("", None), ("a b", None)]
    {
        let problem = folder(&[("tidegate.toml", &hosts(&format!("[{wrong:?}]")))]).problems().remove(0);
        assert!(problem.contains(expected), "{problem}");
        assert_eq!(hint.is_some_and(|hint| problem.contains(&format!("{hint:?}"))), hint.is_some(), "{problem}");
    }
}

#[test]
fn addresses_to_listen_on_are_read_or_refused_with_the_right_form() {
    let bind =
        |text: &str| load(&format!("[[listener]]\nname = \"l\"\nbind = \"{text}\"\n")).broker.listeners.remove(0).bind;
    assert_eq!(bind("127.0.0.1:0"), Bind::Tcp("127.0.0.1:0".parse().unwrap()));
    assert_eq!(bind("[::1]:1883"), Bind::Tcp("[::1]:1883".parse().unwrap()));
    assert!(matches!(bind("localhost:1883"), Bind::Tcp(address) if address.ip().is_loopback()));
    assert_eq!(bind("unix:/run/tidegate/mqtt.sock"), Bind::Unix("/run/tidegate/mqtt.sock".into()));
    let table = [
        ("1883", "\"0.0.0.0:1883\" or \"127.0.0.1:1883\""),
        ("*:1883", "for all addresses: \"0.0.0.0:1883\""),
        (":1883", "for all addresses: \"0.0.0.0:1883\""),
        ("::1", "\"[::1]:1883\""),
        ("10.0.0.1", "the port is missing: \"10.0.0.1:1883\""),
        ("10.0.0.1:99999", "the port is a number from 0 to 65535"),
    ];
    for (text, hint) in table {
        let expected = format!(
            "error: tidegate.toml:3: listener[0].bind (l): \"{text}\": expected an address such as \"127.0.0.1:1883\", \
             or \"unix:/run/tidegate/mqtt.sock\"; {hint}"
        );
        check(&format!("[[listener]]\nname = \"l\"\nbind = \"{text}\"\n"), &[&expected]);
    }
    let relative = "error: tidegate.toml:3: listener[0].bind (l): \"unix:mqtt.sock\": \
                    expected an absolute path of at most 107 bytes after `unix:`";
    check("[[listener]]\nname = \"l\"\nbind = \"unix:mqtt.sock\"\n", &[relative]);
}

#[test]
fn named_files_are_relative_to_the_file_that_names_them_and_looked_into() {
    let certificate = "-----BEGIN CERTIFICATE-----\n";
    let key = "-----BEGIN PRIVATE KEY-----\n";
    let uplink = |lines: &str| format!("{STREAM}[[uplink]]\nname = \"cloud\"\nurl = \"mqtts://broker\"\n{lines}");
    let good = folder(&[
        ("tidegate.toml", STREAM),
        ("conf.d/10.toml", &uplink("ca = \"ca.pem\"\ncert = \"../c.pem\"\nkey = \"../k.pem\"").replace(STREAM, "")),
        ("conf.d/ca.pem", certificate),
        ("c.pem", certificate),
        ("k.pem", key),
    ]);
    assert_eq!(good.problems(), Vec::<String>::new());
    assert_eq!(good.load().unwrap().uplinks[0].ca, Some(good.folder.path().join("conf.d/ca.pem")));

    let table = [
        ("cert = \"k.pem\"\nkey = \"k.pem\"", "cert (cloud): k.pem: holds a private key; expected a certificate (PEM)"),
        ("cert = \"c.pem\"\nkey = \"c.pem\"", "key (cloud): c.pem: holds a certificate; expected a private key (PEM)"),
        ("ca = \"absent\"", "ca (cloud): absent: No such file or directory (os error 2)"),
        ("cert = \"c.pem\"", "key (cloud): is missing; expected the private key that belongs to `cert`"),
        (
            "ca = \"tidegate.toml\"",
            "ca (cloud): tidegate.toml: holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
        ),
        (
            "password_file = \"empty\"",
            "password_file (cloud): empty: its first line is empty; expected the secret there",
        ),
        ("password_file = \".\"", "password_file (cloud): .: is not a regular file"),
    ];
    for (lines, expected) in table {
        let folder =
            folder(&[("tidegate.toml", &uplink(lines)), ("c.pem", certificate), ("k.pem", key), ("empty", "\nx")]);
        let problems = folder.problems();
        assert_eq!(problems.len(), 1, "{lines}: {problems:#?}");
        assert!(problems[0].ends_with(&format!("uplink[0].{expected}")), "{lines}: {problems:#?}");
    }
}

#[test]
fn a_secret_that_everybody_can_read_is_a_warning() {
    let folder =
        folder(&[("tidegate.toml", "[admin]\nbind = \"127.0.0.1:0\"\ntoken_file = \"token\""), ("token", "secret")]);
    assert_eq!(folder.problems(), Vec::<String>::new());
    fs::set_permissions(folder.folder.path().join("token"), fs::Permissions::from_mode(0o644)).unwrap();
    let open = "warning: tidegate.toml:3: admin.token_file: token: every user of this machine can read this secret (chmod o-r)";
    assert_eq!(folder.problems(), [open]);
    assert!(folder.load().is_ok());
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let listener =
        |name: &str, bind: &str| format!("[[listener]]\nname = \"{name}\"\nbind = \"{bind}\"\nanonymous = true\n");
    check(
        "[admin]\nbind = \"0.0.0.0:9883\"\n",
        &["error: tidegate.toml:1: admin.token_file: is missing; \
        expected a file with a token, for `bind` is not a loopback address"],
    );
    check(
        &format!("{}{}", listener("a", "0.0.0.0:1883"), listener("b", "127.0.0.1:1883")),
        &["error: tidegate.toml:7: listener[1].bind (b): \"127.0.0.1:1883\": listener \"a\" has this address already"],
    );
    check(&format!("{}{}", listener("a", "127.0.0.1:0"), listener("b", "127.0.0.1:0")), &[]);
    check(
        &listener("a", "127.0.0.1:9883"),
        &["error: admin.bind: 127.0.0.1:9883: listener \"a\" has this address already"],
    );
    let secret = "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://me:secret@broker\"\n";
    check(
        &format!("{secret}{STREAM}"),
        &["error: tidegate.toml:3: uplink[0].url (cloud): \
           no user name or password here: write them as `username` and `password_file`"],
    );
    check(
        &format!("{STREAM}[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://localhost\"\n"),
        &["error: tidegate.toml:7: uplink[0].url (cloud): \"mqtt://localhost\": \
           leads back to the listener \"local\" of this gateway"],
    );
    check(
        "[[stream]]\nname = \"all\"\nfrom = [\"#\"]\nqos0 = \"live-only\"\n",
        &[
            "error: tidegate.toml:4: stream[0].qos0 (all): \"live-only\": needs a `to`: without an uplink nothing is ever live",
        ],
    );
}

#[test]
fn what_is_allowed_but_surely_not_meant_is_a_warning() {
    check(
        "[[listener]]\nname = \"a\"\nbind = \"0.0.0.0:1\"\n",
        &["warning: tidegate.toml:1: listener[0].anonymous (a): this listener will refuse every client: \
           there is no `auth.password_file` to know any by; `anonymous = true` lets everybody in"],
    );
    check(
        &format!("{UPLINK}{STREAM}except = [\"#\"]\n"),
        &[
            "warning: tidegate.toml:6: stream[0].from[0] (all): \"#\": takes nothing: `except` has \"#\", which matches all of it",
        ],
    );
    check(
        &format!("{UPLINK}{STREAM}max_bytes = \"8GiB\"\nwhen_full = \"drop-oldest\"\n"),
        &["warning: tidegate.toml:8: stream[0].max_bytes (all): \
           more than `store.max_bytes`: the whole store is full first, and then everything is refused"],
    );
    check(
        &format!("{UPLINK}{STREAM}max_bytes = \"1KiB\"\n"),
        &["warning: tidegate.toml:8: stream[0].max_bytes (all): \
           less than a listener's `max_packet`: a large message will never fit"],
    );
    let twice =
        format!("{UPLINK}{STREAM}{}{}", UPLINK.replace("cloud", "b"), STREAM.replace("all", "b").replace("cloud", "b"));
    check(
        &twice,
        &[
            "warning: tidegate.toml:8: uplink[1].client_id (b): the same as that of the uplink \"cloud\" to the same broker, \
           which will disconnect one for the other; expected a `client_id` of its own",
        ],
    );
}
