//! The table of statements in the crate documentation, held to the tests that it names.
//!
//! A row is `| number | what it says | how it is kept |`. The last column names the test in this suite whose name begins
//! with the number, or other tests as `` `file.rs`: `test` ``, or begins with `client:` (says nothing about a server) or `none:`
//! (and why).

use std::{collections::BTreeSet, fs, path::Path};

const TABLE: &str = include_str!("../../src/broker/conformance.md");

struct Row {
    /// `MQTT-3.1.2-24`.
    id: String,
    how: String,
}

/// The rows below a heading.
fn rows(heading: &str) -> Vec<Row> {
    let (_, rest) = TABLE.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let section = rest.split("\n## ").next().unwrap_or(rest);
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows = section.lines().filter(|line| line.starts_with("| MQTT-")).map(cells);
    rows.map(|row| {
        let [id, what, how] = <[String; 3]>::try_from(row).unwrap_or_else(|row| panic!("not three cells: {row:?}"));
        assert!(!what.is_empty() && !how.is_empty(), "{id} has an empty cell");
        Row { id, how }
    })
    .collect()
}

/// Names of the test functions in a folder of this suite.
fn tests(folder: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance").join(folder);
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files.flat_map(|file| functions(&fs::read_to_string(file).unwrap())).collect()
}

fn functions(source: &str) -> Vec<String> {
    let lines = source.lines().map(|line| line.trim_start().trim_start_matches("async "));
    let names = lines.filter_map(|line| line.strip_prefix("fn ")?.split(['(', '<']).next());
    names.map(str::to_owned).collect()
}

/// `mqtt_3_1_2_24_`.
fn prefix(id: &str) -> String {
    format!("{}_", id.to_lowercase().replace(['-', '.'], "_"))
}

fn check(heading: &str, folder: &str) {
    let (rows, tests) = (rows(heading), tests(folder));
    let mut ids = BTreeSet::new();
    for Row { id, how } in &rows {
        assert!(ids.insert(prefix(id)), "{id} is there twice");
        let named: Vec<&str> = how.split('`').skip(1).step_by(2).collect();
        match named.as_slice() {
            [] => assert!(how.starts_with("client:") || how.starts_with("none:"), "{id} says neither test nor reason"),
            [test] => assert!(test.starts_with(&prefix(id)) && tests.contains(*test), "{id} has no test `{test}`"),
            elsewhere => {
                for pair in elsewhere.chunks(2) {
                    let [file, test] = pair else { panic!("{id} names no file and test: {how}") };
                    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
                    let source = source.unwrap_or_else(|error| panic!("{id}: {file}: {error}"));
                    assert!(functions(&source).iter().any(|name| name == test), "{id}: {file} has no test `{test}`");
                }
            }
        }
    }
    let listed: BTreeSet<&str> = rows.iter().flat_map(|row| row.how.split('`').skip(1).step_by(2)).collect();
    for test in tests.iter().filter(|test| test.starts_with("mqtt_")) {
        assert!(listed.contains(test.as_str()), "the test `{test}` is not in the table");
    }
}

#[test]
fn every_statement_of_mqtt_5_has_its_test_and_every_test_its_statement() {
    check("MQTT 5", "v5");
    assert_eq!(rows("MQTT 5").len(), 251, "appendix B has that many");
}

#[test]
fn every_statement_of_mqtt_3_1_1_has_its_test_and_every_test_its_statement() {
    check("MQTT 3.1.1", "v3");
}
