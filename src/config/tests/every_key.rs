//! `edge-config/tidegate.toml`: has every key and nothing else, every key at its default, and changes nothing as it stands.

use std::collections::BTreeSet;

use super::{examples::Secrets, *};

const EVERY_KEY: &str = include_str!("../../../edge-config/tidegate.toml");

/// What takes the place of a line that cannot stand beside others, and those that make room for it.
const APART: &[(&str, &[(&str, &str)])] = &[
    ("urls", &[("url", "")]),
    ("origins", &[("transport", "transport = \"ws\"")]),
    ("unix_mode", &[("bind", "bind = \"unix:/run/tidegate/mqtt.sock\""), ("tls", "")]),
];

/// A line that is a key or a header once its `#` is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    section: &'static str,
    key: &'static str,
    text: &'static str,
    is_example: bool,
}

fn lines() -> Vec<Line> {
    let mut section = "";
    let mut lines = Vec::new();
    for line in EVERY_KEY.lines().filter(|line| !line.is_empty()) {
        let text = line.strip_prefix('#').unwrap_or_else(|| panic!("not commented out: {line}"));
        if text.starts_with('[') {
            section = text;
        } else if text.starts_with(|c: char| c.is_ascii_lowercase()) {
            let (key, _) = text.split_once(" = ").unwrap();
            lines.push(Line { section, key, text, is_example: text.ends_with("# example") });
        } else {
            assert!(text.is_empty() || text.starts_with(' '), "neither text nor key: {line}");
        }
    }
    lines
}

/// The whole file with these lines active, each section once.
fn text_of<'a>(lines: impl IntoIterator<Item = (&'a Line, &'a str)>) -> String {
    let (mut section, mut out) = ("", Vec::new());
    for (line, text) in lines {
        if line.section != section {
            section = line.section;
            out.push(section);
        }
        out.push(text);
    }
    out.join("\n")
}

#[track_caller]
fn plain(secrets: &Secrets, text: &str) -> String {
    let config = secrets.accepted(&[("tidegate.toml", text)]);
    // Its place is another one each time.
    format!("{:?}", Config { files: Vec::new(), ..config }).replace(&secrets.folder().display().to_string(), "")
}

#[test]
fn as_it_stands_it_changes_nothing() {
    let secrets = Secrets::new();
    assert_eq!(plain(&secrets, EVERY_KEY), plain(&secrets, ""));
}

#[test]
fn it_has_every_key_and_no_other() {
    let lines = lines();
    for (header, keys) in SECTIONS {
        let known: BTreeSet<&str> = keys.iter().copied().collect();
        let mut there: Vec<&str> = if header.starts_with('[') {
            lines.iter().filter(|line| line.section == *header).map(|line| line.key).collect()
        } else {
            let tables: Vec<&Line> = lines.iter().filter(|line| line.key == *header).collect();
            let [table] = tables.as_slice() else { panic!("{header} is there {} times", tables.len()) };
            let (_, inside) = table.text.split_once('{').unwrap();
            let (inside, _) = inside.split_once('}').unwrap();
            inside.split(", ").map(|part| part.split_once(" = ").unwrap().0.trim()).collect()
        };
        there.sort_unstable();
        assert_eq!(there, known.into_iter().collect::<Vec<_>>(), "{header}");
    }
    let sections: BTreeSet<&str> = lines.iter().map(|line| line.section).collect();
    assert!(sections.iter().all(|section| SECTIONS.iter().any(|(header, _)| header == section)), "{sections:?}");
}

#[test]
fn every_line_is_accepted_and_every_one_that_is_no_example_is_the_default() {
    let secrets = Secrets::new();
    let lines = lines();
    let apart = |key: &str| APART.iter().find(|(it, _)| *it == key).map(|(_, changes)| *changes);
    let mut compared = 0;
    let mut check = |key: Option<&Line>, changes: &[(&str, &str)]| {
        let chosen = |without: Option<&Line>| {
            let active = lines.iter().filter(|line| Some(*line) != without);
            let active = active.filter(|line| apart(line.key).is_none() || Some(*line) == key);
            text_of(active.map(|line| {
                let is_meant = |it: &str| it == line.key && (it == "url" || line.section == "[[listener]]");
                let change = changes.iter().find(|(it, _)| is_meant(it));
                (line, change.map_or(line.text, |(_, text)| *text))
            }))
        };
        let whole = plain(&secrets, &chosen(None));
        let those = lines.iter().filter(|line| !line.is_example && (key.is_none() || Some(*line) == key));
        for line in those.filter(|line| apart(line.key).is_none() || Some(*line) == key) {
            assert_eq!(plain(&secrets, &chosen(Some(line))), whole, "not the default: {}", line.text);
            compared += 1;
        }
    };
    check(None, &[]);
    for line in &lines {
        if let Some(changes) = apart(line.key) {
            check(Some(line), changes);
        }
    }
    assert!(compared >= 35, "only {compared} keys compared");
}

#[test]
fn every_key_is_explained() {
    let all: Vec<&str> = EVERY_KEY.lines().collect();
    for (number, line) in all.iter().enumerate() {
        let is_key = line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase());
        let is_explained =
            |line: &str| line.starts_with("# ") || line[1..].starts_with(|c: char| c.is_ascii_lowercase());
        assert!(!is_key || is_explained(all[number - 1]), "without a word: {line}");
    }
    for line in lines().iter().filter(|line| line.is_example) {
        let required =
            [("[[listener]]", "name"), ("[[listener]]", "bind"), ("[[stream]]", "from"), ("[[stream]]", "name")];
        let required = required.contains(&(line.section, line.key))
            || line.section == "[[uplink]]" && ["name", "url", "urls"].contains(&line.key)
            || line.section == "[[downlink]]";
        let (before, _) = EVERY_KEY.split_once(&format!("\n#{}\n", line.text)).unwrap();
        let words = before.rsplit("\n\n").next().unwrap();
        assert!(required || words.contains("Default:") || words.contains("default:"), "what without it? {}", line.text);
    }
}
