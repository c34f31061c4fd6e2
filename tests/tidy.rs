//! The house rules that a compiler does not know: what each file says of itself, which crate lives in which room.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Longest file, in lines.
const MAX_FILE_LINES: usize = 500;
/// Longest function outside tests, in lines.
const MAX_FUNCTION_LINES: usize = 70;

/// Foreign crates that only some rooms know.
const CRATES: &[(&str, &[&str])] = &[
    ("rusqlite", &["src/store"]),
    ("rumqttd", &["src/broker", "src/demo"]),
    // In the broker it is the second opinion of the fuzzer, and nothing else.
    ("rumqttc", &["src/uplink", "src/demo", "src/broker/packet/fuzz"]),
    ("axum", &["src/admin"]),
    ("argon2", &["src/broker/access"]),
    ("clap", &["src/cli"]),
    ("sd_notify", &["src/systemd.rs"]),
    ("config", &["src/config"]),
    ("tokio_rustls", &["src/broker/transport", "src/uplink"]),
    ("tungstenite", &["src/broker/transport"]),
    ("x509_parser", &["src/broker/transport"]),
];

/// Rooms that never import each other; what joins them are the stations.
const SHORES: [&str; 4] = ["broker", "store", "uplink", "admin"];

/// Files that decide without a clock, a socket or a log: time and chance are arguments there.
const PURE: [&str; 26] = [
    "src/broker/access/guesses.rs",
    "src/broker/access/policy.rs",
    "src/broker/access/rules.rs",
    "src/broker/access/scope.rs",
    "src/broker/access/users.rs",
    "src/broker/access/verdicts.rs",
    "src/broker/sys/load.rs",
    "src/bucket.rs",
    "src/message.rs",
    "src/topic.rs",
    "src/units.rs",
    "src/admin/alarms.rs",
    "src/admin/history/ring.rs",
    "src/admin/latency.rs",
    "src/admin/rates.rs",
    "src/config/nearest.rs",
    "src/config/url.rs",
    "src/downlink/desk.rs",
    "src/forward/backoff.rs",
    "src/forward/envelope.rs",
    "src/forward/failback.rs",
    "src/forward/ledger.rs",
    "src/forward/pacing.rs",
    "src/forward/suspects.rs",
    "src/forward/suspects/case.rs",
    "src/forward/turns.rs",
];

/// What fields of log lines are not called, for the name beside it is the one in the table of `src/log/mod.rs`. Some would be taken for what
/// every line has of its own.
const FIELD_NAMES: [(&str, &str); 16] = [
    ("client_id", "client"),
    ("cause", "error"),
    ("story", "error"),
    ("detail", "error"),
    ("failure", "error"),
    ("err", "error"),
    ("warning", "problem"),
    ("addr", "address"),
    ("peer", "address"),
    ("payload", "nothing: payloads are no business of the log"),
    ("password", "nothing: secrets are no business of the log"),
    ("time", "what it is the time of"),
    ("level", "what it is the level of"),
    ("target", "what it is the target of"),
    ("repeated", "what is repeated"),
    ("over_s", "for_s"),
];

/// Names that say nothing.
const FORBIDDEN_NAMES: [&str; 7] = ["utils", "util", "common", "helpers", "helper", "types", "misc"];

struct Source {
    /// From the package's folder, such as `src/config/mod.rs`.
    path: String,
    text: String,
}

impl Source {
    /// The code without its comments.
    fn code(&self) -> String {
        self.text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
    }

    /// The code before the tests at the end of the file; nothing of a file that is all tests.
    fn code_without_tests(&self) -> String {
        let code = self.code();
        let is_test = self.path.ends_with("tests.rs") || self.path.contains("/tests/");
        if is_test {
            String::new()
        } else {
            code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
        }
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            // Folders with a manifest are packages of their own, and what they build is not ours to judge.
            if path.is_dir() && !path.join("Cargo.toml").exists() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source { path: path.strip_prefix(root).unwrap().display().to_string(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "nothing in {folder}");
    found
}

fn all_sources() -> impl Iterator<Item = Source> {
    sources("src").into_iter().chain(sources("tests"))
}

#[track_caller]
fn none(offences: &[String]) {
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn every_file_says_in_its_first_line_what_it_is_for() {
    let silent = all_sources().filter(|source| !source.text.starts_with("//! "));
    none(&silent.map(|source| format!("{}: does not begin with `//! `", source.path)).collect::<Vec<_>>());
}

#[test]
fn no_file_and_no_function_is_too_long() {
    let mut offences = Vec::new();
    for source in all_sources() {
        let lines = source.text.lines().count();
        if lines > MAX_FILE_LINES {
            offences.push(format!("{}: {lines} lines", source.path));
        }
        for (name, lines) in functions(&source.code_without_tests()) {
            if lines > MAX_FUNCTION_LINES {
                offences.push(format!("{}: `{name}` has {lines} lines", source.path));
            }
        }
    }
    none(&offences);
}

/// Names and lengths of the functions in formatted code: each ends at the first `}` that is as far in as its beginning.
fn functions(code: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(at) = words.iter().position(|word| *word == "fn") else { continue };
        let qualifier =
            |word: &&str| ["pub", "const", "async", "unsafe", "extern"].contains(word) || word.starts_with("pub(");
        if !words[..at].iter().all(qualifier) || words.len() == at + 1 {
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = lines[start..].iter().position(|line| *line == format!("{indent}}}"));
        let name = words[at + 1].split(['(', '<']).next().unwrap_or_default().to_owned();
        // A one-liner, or a declaration in a trait, has no such end of its own.
        if !line.ends_with('}') && !line.ends_with(';') {
            found.extend(end.map(|lines| (name, lines + 1)));
        }
    }
    found
}

#[test]
fn foreign_crates_stay_in_their_rooms() {
    let mut offences = Vec::new();
    for source in sources("src") {
        let code = source.code_without_tests();
        for (name, rooms) in CRATES {
            let is_home = rooms.iter().any(|room| source.path.starts_with(room));
            // Our own room `config` has the name of its crate, which is therefore always written `::config`.
            let forms = if *name == "config" {
                vec!["use ::config::".to_owned(), " ::config::".to_owned(), "use config::".to_owned()]
            } else {
                vec![format!("use {name}::"), format!("{name}::"), format!("use {name};")]
            };
            let uses = |line: &&str| {
                !line.contains("crate::")
                    && forms.iter().any(|form| line.match_indices(form.as_str()).any(|(at, _)| starts_word(line, at)))
            };
            if !is_home && let Some(line) = code.lines().find(uses) {
                offences.push(format!("{}: knows {name}: {}", source.path, line.trim()));
            }
        }
    }
    none(&offences);
}

#[test]
fn unsafe_code_is_one_call_in_one_file() {
    let with = |source: &Source| source.code_without_tests().lines().filter(|line| line.contains("unsafe ")).count();
    let found: Vec<_> =
        sources("src").iter().map(|source| (source.path.clone(), with(source))).filter(|(_, n)| *n > 0).collect();
    assert_eq!(found, [("src/memory.rs".to_owned(), 1)]);
}

fn starts_word(line: &str, at: usize) -> bool {
    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

#[test]
fn pure_files_read_no_clock_wait_for_nothing_and_log_nothing() {
    let mut offences = Vec::new();
    let sources = sources("src");
    for path in PURE {
        let Some(source) = sources.iter().find(|source| source.path == path) else {
            offences.push(format!("{path}: is not there any more"));
            continue;
        };
        let code = source.code_without_tests();
        let impure =
            ["::now()", ".await", "async ", "tracing::", "fastrand::", "thread::sleep", "std::fs", "std::net::Tcp"];
        offences.extend(impure.iter().filter(|word| code.contains(**word)).map(|word| format!("{path}: has `{word}`")));
    }
    none(&offences);
}

#[test]
fn shores_never_import_each_other() {
    let mut offences = Vec::new();
    for source in sources("src") {
        let Some(own) = SHORES.iter().find(|shore| source.path.starts_with(&format!("src/{shore}/"))) else { continue };
        for room in imported_rooms(&source.code_without_tests()) {
            if room != *own && SHORES.contains(&room.as_str()) {
                offences.push(format!("{}: imports crate::{room}", source.path));
            }
        }
    }
    none(&offences);
}

/// First names after `crate::`, also in groups.
fn imported_rooms(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            rooms.insert(identifier(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        // A `use` ends with a semicolon, and has none within.
        for (at, c) in group.char_indices().take_while(|(_, c)| *c != ';') {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    rooms.insert(identifier(group[start..at].trim_start()));
                    start = at + 1;
                }
                _ => {}
            }
        }
    }
    rooms.remove("");
    rooms
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn no_module_has_a_name_that_says_nothing() {
    let named = |source: &Source| {
        Path::new(&source.path).iter().any(|part| {
            let part = part.to_string_lossy();
            FORBIDDEN_NAMES.contains(&part.strip_suffix(".rs").unwrap_or(&part))
        })
    };
    none(&all_sources().filter(named).map(|source| source.path).collect::<Vec<_>>());
}

/// The words of `tidegate_broker_refused_total` are a closed set, documented in one table.
#[test]
fn every_word_of_a_refusal_by_the_broker_is_in_its_table() {
    let sources: Vec<Source> = sources("src").into_iter().filter(|source| source.path.contains("/broker/")).collect();
    let metrics = sources.iter().find(|source| source.path.ends_with("/metrics.rs")).unwrap();
    let table = metrics.text.split_once("const REFUSED").unwrap().1.split_once("];").unwrap().0;
    let mut offences = Vec::new();
    for source in &sources {
        let code = source.code_without_tests();
        for word in refusal_words(&code) {
            if !table.contains(&format!("\"{word}\",")) {
                offences.push(format!("{}: `{word}` is not in the table of src/broker/metrics.rs", source.path));
            }
        }
    }
    none(&offences);
}

/// Kebab-case literals in the arguments of `refused(...)` and `Refusal::new(...)`.
fn refusal_words(code: &str) -> Vec<String> {
    let calls = ["refused(", "Refusal::new("].into_iter().flat_map(|call| code.match_indices(call));
    let word = |literal: &&str| !literal.is_empty() && literal.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let words = calls.flat_map(|(at, _)| {
        let statement = code[at..].split([';', '{']).next().unwrap_or_default();
        statement.split('"').skip(1).step_by(2).filter(word).take(1)
    });
    words.map(str::to_owned).collect()
}

/// A constant message is one that can be searched for, counted, and compared with others.
#[test]
fn log_lines_have_a_constant_message_and_fields_of_the_usual_names() {
    let mut offences = Vec::new();
    for source in sources("src").iter().filter(|source| !source.path.starts_with("src/log/")) {
        for call in log_calls(&source.code_without_tests()) {
            let (fields, message) = call.rsplit_once('"').map_or(("", ""), |(before, _)| {
                before.rsplit_once('"').map_or(("", before), |(fields, message)| (fields, message))
            });
            if message.is_empty() || message.contains('{') {
                offences.push(format!("{}: no constant message: {call}", source.path));
            }
            for name in fields.split(',').map(|field| identifier(field.trim().trim_start_matches(['%', '?']))) {
                if let Some((_, right)) = FIELD_NAMES.iter().find(|(wrong, _)| *wrong == name) {
                    offences.push(format!("{}: `{name}` is called {right}: {call}", source.path));
                }
            }
        }
    }
    none(&offences);
}

/// The arguments of the calls that log.
fn log_calls(code: &str) -> Vec<String> {
    let starts = ["trace!(", "debug!(", "info!(", "warn!(", "error!("].into_iter();
    let calls = starts.flat_map(|call| code.match_indices(call).map(move |(at, _)| (at, at + call.len())));
    let mut found = Vec::new();
    for (_, begin) in calls.filter(|(at, _)| starts_word(code, *at)) {
        let (mut depth, mut quoted, mut escaped) = (1, false, false);
        let end = code[begin..].find(|c: char| {
            match c {
                '"' if !escaped => quoted = !quoted,
                '(' if !quoted => depth += 1,
                ')' if !quoted => depth -= 1,
                _ => {}
            }
            escaped = c == '\\' && !escaped;
            depth == 0
        });
        found.extend(end.map(|end| code[begin..begin + end].split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    found
}

#[test]
fn the_rules_see_what_they_look_for() {
    let refusals =
        "hub.refused(\n    who,\n    \"too-many\",\n    format!(\"at {x}\"));\nRefusal::new(R::X, \"b\", \"c\");";
    assert_eq!(refusal_words(refusals), ["too-many", "b"]);
    let rooms = imported_rooms(
        "use crate::{\n    store::{self, X},\n    topic::Y,\n};\nfn f() -> crate::uplink::Z {}\nuse crate::intake;",
    );
    assert_eq!(rooms.into_iter().collect::<Vec<_>>(), ["intake", "store", "topic", "uplink"]);
    let calls = "fn f() { warn!(a, %b = (c), \n\"said (twice)\"); my_info!(1) }";
    assert_eq!(log_calls(calls), ["a, %b = (c), \"said (twice)\""]);
    let code = "impl X {\n    pub(crate) async fn a(\n        b: u8,\n    ) {\n        c();\n    }\n}\nfn d() {}\n";
    assert_eq!(functions(code), [("a".to_owned(), 5)]);
}
