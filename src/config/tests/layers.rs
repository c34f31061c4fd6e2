//! Files, `conf.d` and the environment, one above the other.

use super::*;

#[test]
fn syntax_errors_of_all_files_are_told_with_line_and_column_and_nothing_else() {
    let folder = folder(&[
        ("tidegate.toml", "[store]\nnonsense = 1\n"),
        ("conf.d/10-a.toml", "[store\n"),
        ("conf.d/20-b.toml", "a = 1\na = 2\n"),
    ]);
    let problems = folder.problems();
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(problems[0].starts_with("error: conf.d/10-a.toml:1: column 7: not TOML: "), "{problems:#?}");
    assert!(problems[1].starts_with("error: conf.d/20-b.toml:2: column 1: not TOML: duplicate key"), "{problems:#?}");
}

#[test]
fn conf_d_is_merged_in_name_order_and_its_lists_are_added() {
    let folder = folder(&[
        (
            "tidegate.toml",
            "[store]\nmin_free = \"1MiB\"\ncommit_delay = \"1ms\"\n[[listener]]\nname = \"a\"\nbind = \"127.0.0.1:1\"\n",
        ),
        ("conf.d/20.toml", "[store]\nmin_free = \"3MiB\"\n[[listener]]\nname = \"c\"\nbind = \"127.0.0.1:3\"\n"),
        ("conf.d/10.toml", "[store]\nmin_free = \"2MiB\"\n[[listener]]\nname = \"b\"\nbind = \"127.0.0.1:2\"\n"),
        ("conf.d/.hidden.toml", "nonsense"),
        ("conf.d/30.toml.bak", "nonsense"),
    ]);
    let config = folder.load().unwrap();
    assert_eq!((config.store.min_free, config.store.commit_delay), (3 << 20, Duration::from_millis(1)));
    let names: Vec<&str> = config.broker.listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(config.files.len(), 3);
}

#[test]
fn a_name_used_twice_names_both_places() {
    let folder = folder(&[("tidegate.toml", &format!("{UPLINK}{STREAM}")), ("conf.d/10.toml", STREAM)]);
    let twice = "stream[1].name (all): \"all\": is the name of another stream at ";
    let problems = folder.problems();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].starts_with(&format!("error: conf.d/10.toml:2: {twice}")), "{problems:#?}");
    assert!(problems[0].contains("tidegate.toml:5; expected a name of its own"), "{problems:#?}");
}

#[test]
fn a_file_that_was_asked_for_must_be_there_and_the_default_one_not() {
    let mut folder = folder(&[]);
    folder.inputs.file = Some(folder.folder.path().join("absent.toml"));
    assert_eq!(folder.problems(), ["error: absent.toml: cannot be read: No such file or directory (os error 2)"]);
    folder.inputs.file = Some(folder.folder.path().to_owned());
    assert!(folder.load().is_err(), "a folder is no file");
    fs::write(folder.folder.path().join("latin1.toml"), b"# ok\n# \xe9\n").unwrap();
    folder.inputs.file = Some(folder.folder.path().join("latin1.toml"));
    assert_eq!(folder.problems(), ["error: latin1.toml: cannot be read: is not UTF-8 (line 2)"]);
}

#[test]
fn the_environment_wins_and_is_read_as_what_the_key_takes() {
    let text = format!("[[listener]]\nname = \"field-bus.1\"\nbind = \"127.0.0.1:1\"\n{UPLINK}{STREAM}");
    let config = folder(&[("tidegate.toml", &text)])
        .with_environment(&[
            ("TIDEGATE__STORE__DURABILITY", "process"),
            ("TIDEGATE__STORE__MIN_FREE", "4096"),
            ("TIDEGATE__STORE__COMMIT_DELAY", "5ms"),
            ("TIDEGATE__LISTENER__FIELD_BUS_1__ANONYMOUS", "TRUE"),
            ("TIDEGATE__LISTENER__0__MAX_INFLIGHT", "7"),
            ("TIDEGATE__UPLINK__CLOUD__BACKOFF__MAX", "2m"),
            ("TIDEGATE__STREAM__ALL__FROM", "a/#, b/+"),
            ("TIDEGATE__STREAM__ALL__EXCEPT", "[\"a/x,y\"]"),
            ("TIDEGATE__STREAM__1__NAME", "second"),
            ("TIDEGATE__STREAM__1__FROM", "c"),
            ("TIDEGATE_PORT", "tcp://10.0.0.1:1883"),
            ("STATE_DIRECTORY", "/var/lib/tidegate:/var/lib/more"),
        ])
        .load()
        .unwrap();
    assert_eq!(config.store.durability, Durability::Process);
    assert_eq!((config.store.min_free, config.store.commit_delay), (4096, Duration::from_millis(5)));
    assert_eq!((config.broker.listeners[0].anonymous, config.broker.listeners[0].max_inflight), (true, 7));
    assert_eq!(config.uplinks[0].backoff.max, Duration::from_secs(120));
    let filters = |stream: &Stream| stream.from.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(filters(&config.streams[0]), ["a/#", "b/+"]);
    assert_eq!(config.streams[0].except[0].as_str(), "a/x,y");
    assert_eq!(filters(&config.streams[1]), ["c"]);
    assert_eq!(config.store.data_dir, PathBuf::from("/var/lib/tidegate"));
}

#[test]
fn wrong_environment_variables_are_told_by_their_name() {
    let mut folder = folder(&[("tidegate.toml", &format!("{UPLINK}{STREAM}"))]).with_environment(&[
        ("TIDEGATE__STORE__DURABILTY", "full"),
        ("TIDEGATE__STORE__MIN_FREE", "lots"),
        ("TIDEGATE__STREAM__AL__TTL", "7d"),
        ("TIDEGATE__STREAM__7__TTL", "7d"),
        ("TIDEGATE__STORE____", "x"),
        ("TIDEGATE__LOG", "x"),
    ]);
    folder.inputs.environment.push(("TIDEGATE__LOG__LEVEL".into(), latin1()));
    assert_eq!(
        folder.problems(),
        [
            "error: environment variable TIDEGATE__LOG: log: \"x\": expected a table: `[log]` and its keys below it",
            "error: environment variable TIDEGATE__LOG__LEVEL: is not UTF-8",
            "error: environment variable TIDEGATE__STORE__DURABILTY: store.durabilty: unknown key; did you mean `durability`?",
            "error: environment variable TIDEGATE__STORE__MIN_FREE: store.min_free: \"lots\": \
             does not begin with a number (right: `64KiB`)",
            "error: environment variable TIDEGATE__STORE____: \
             expected names between the double underscores, as in TIDEGATE__STORE__DURABILITY",
            "error: environment variable TIDEGATE__STREAM__7__TTL: stream: \"7\": there are 1 entries, so the next is 1",
            "error: environment variable TIDEGATE__STREAM__AL__TTL: stream: \"al\": \
             there is no stream of this name; expected a name, or a number from 0; did you mean \"all\"?",
        ]
    );
}

fn latin1() -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(vec![0xe9])
}

#[test]
fn the_environment_alone_makes_a_gateway() {
    let config = folder(&[])
        .with_environment(&[
            ("TIDEGATE__GATEWAY__ID", "box-1"),
            ("TIDEGATE__UPLINK__0__NAME", "cloud"),
            ("TIDEGATE__UPLINK__0__URL", "mqtts://broker"),
            ("TIDEGATE__STREAM__0__NAME", "all"),
            ("TIDEGATE__STREAM__0__FROM", "#"),
            ("TIDEGATE__STREAM__0__TO", "cloud"),
        ])
        .load()
        .unwrap();
    assert_eq!((config.gateway_id.as_str(), config.uplinks[0].client_id.as_str()), ("box-1", "box-1"));
    assert_eq!(config.streams[0].to, Some(0));
}
