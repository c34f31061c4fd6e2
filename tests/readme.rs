//! What the README quotes is real: commands and their options, metrics, and the messages of the table of troubles.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

use std::{fs, path::Path};

/// What others say, and what is a form of words rather than a quotation.
const OF_OTHERS: [&str; 3] = ["Address already in use", "Permission denied", "error"];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All source files as one text, with texts that go over several lines in one piece.
fn source() -> String {
    let mut text = String::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut pieces = text.split("\\\n");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |whole, piece| whole + piece.trim_start())
}

/// The code spans of a text.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The lines of the code blocks of a text, without what they say besides.
fn commands(text: &str) -> impl Iterator<Item = &str> {
    let blocks = text.split("```").skip(1).step_by(2).filter(|block| block.starts_with("sh\n"));
    blocks.flat_map(|block| {
        block.lines().flat_map(|line| line.split(" && ")).map(|line| line.split(" #").next().unwrap_or_default().trim())
    })
}

#[test]
fn every_command_and_option_in_the_readme_is_one() {
    let readme = read("README.md");
    let mut seen = 0;
    for line in commands(&readme).chain(spans(&readme)) {
        let Some(words) = line.strip_prefix("tidegate ") else { continue };
        let mut words = words.split([' ', ',', '[', ']', '|', '<', '>']);
        let command = words.next().unwrap_or_default();
        if !command.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
            continue;
        }
        let help = read(&format!("tests/cli/golden/help-{command}.txt"));
        let deeper =
            ["list", "show", "retry", "purge"].map(|below| format!("tests/cli/golden/help-{command}-{below}.txt"));
        let all = deeper
            .iter()
            .filter(|path| Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists())
            .fold(help, |all, path| all + &read(path));
        for option in words.filter(|word| word.starts_with("--")) {
            assert!(all.contains(option), "`{line}`: there is no {option}");
        }
        seen += 1;
    }
    assert!(seen > 40, "only {seen} commands");
}

#[test]
fn every_metric_in_the_readme_is_one() {
    let (readme, source) = (read("README.md"), source());
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let mut seen = 0;
    for (at, _) in readme.match_indices("tidegate_") {
        let name = readme[at..].split(|c| !is_name(c)).next().unwrap_or_default();
        // The name of a package's file.
        if name == "tidegate_" {
            continue;
        }
        // Some are registered without the part that all have.
        let short = name.trim_start_matches("tidegate_");
        assert!(source.contains(name) || source.contains(&format!("\"{short}\"")), "there is no metric {name}");
        seen += 1;
    }
    assert!(seen > 25, "only {seen} metrics");
}

#[test]
fn every_message_in_the_table_of_troubles_is_said_by_the_program() {
    let (readme, source) = (read("README.md"), source());
    let (_, table) = readme.split_once("## Troubleshooting\n").unwrap();
    let table = table.split("\n## ").next().unwrap_or_default();
    let mut seen = 0;
    for row in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---")) {
        let symptom = row.split(" | ").next().unwrap_or_default();
        for quoted in spans(symptom).chain(symptom.split('"').skip(1).step_by(2)) {
            let text = quoted.strip_prefix("reason=").unwrap_or(quoted);
            let is_known = source.contains(text) || OF_OTHERS.contains(&text);
            assert!(is_known, "nobody says `{text}`: {row}");
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} messages");
}
