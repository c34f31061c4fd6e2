//! Section 4.7: topic names and topic filters.

use super::offences;
use crate::{
    rig::Options,
    script::{v5, with},
};

/// A subscriber of `filter` gets what is published to the first topics, and not the others.
fn check(filter: &str, matching: &[&str], others: &[&str]) {
    let mut script = vec![format!("s: connect\ns: subscribe {filter} 00\np: connect")];
    for topic in others.iter().chain(matching) {
        script.push(format!("p> 30 (={topic} () 'x')"));
    }
    for topic in matching {
        script.push(format!("s< 30 (={topic} () 'x')"));
    }
    script.push("p: quiet\ns: quiet".to_owned());
    v5(&script.join("\n"));
}

/// Filters that are refused one by one.
fn refused(filters: &[&str]) {
    let mut script = vec!["a: connect".to_owned()];
    for filter in filters {
        script.push(format!("a> 82 (0001 () ={filter} 00)\na< 90 (0001 () 8F)"));
    }
    script.push("a: quiet".to_owned());
    v5(&script.join("\n"));
}

#[test]
fn mqtt_4_7_0_1_wildcards_are_for_filters_and_not_for_names() {
    offences(&[("30 (=# () 'x')", "90"), ("30 (=+ () 'x')", "90"), ("30 (=a/b# () 'x')", "90")]);
    check("a/+/#", &["a/b", "a/b/c", "a//"], &["a", "b/a"]);
}

#[test]
fn mqtt_4_7_1_1_the_multi_level_wildcard_is_alone_in_the_last_level() {
    refused(&["a#", "a/#/b", "#/a", "a/b#", "##", "a/#b", "#/"]);
    let players = ["sport/tennis/player1", "sport/tennis/player1/ranking", "sport/tennis/player1/score/wimbledon"];
    check("sport/tennis/player1/#", &players, &["sport/tennis/player10", "sport/tennis"]);
    check("sport/#", &["sport", "sport/", "sport/a"], &["sports"]);
    check("#", &["a", "/", "a/b/c"], &["$a"]);
}

#[test]
fn mqtt_4_7_1_2_the_single_level_wildcard_is_alone_in_its_level() {
    refused(&["a+", "+a", "a/b+/c", "a/++", "+#"]);
    check(
        "sport/tennis/+",
        &["sport/tennis/player1", "sport/tennis/"],
        &["sport/tennis/player1/ranking", "sport/tennis"],
    );
    check("sport/+", &["sport/"], &["sport"]);
    check("+/+", &["/finance", "a/b"], &["finance", "/a/b"]);
    check("/+", &["/finance"], &["finance"]);
    check("+", &["finance", "é"], &["/finance", "$finance"]);
    check("+/tennis/#", &["a/tennis", "a/tennis/b", "/tennis"], &["tennis"]);
}

#[test]
fn mqtt_4_7_2_1_a_wildcard_at_the_beginning_does_not_match_a_dollar() {
    check("#", &["a$/b"], &["$x/y", "$"]);
    check("+/y", &["x/y"], &["$x/y"]);
    check("$x/#", &["$x", "$x/y"], &["$y", "x"]);
    check("$x/+", &["$x/y"], &["$x/y/z"]);
    // Retained messages neither.
    v5("
        p: connect
        p> 33 (=$x/y 0001 () 'x')
        p< 40 (0001)
        s: connect
        s: subscribe # 00
        s: subscribe +/y 00
        s: quiet
        s: subscribe $x/+ 00
        s< 31 (=$x/y () 'x')
    ");
}

#[test]
fn mqtt_4_7_3_1_names_and_filters_have_at_least_one_character() {
    offences(&[("30 (0000 () 'x')", "82"), ("82 (0001 () 0000 00)", "82"), ("82 (0001 () =t 00 0000 00)", "82")]);
    check("/", &["/"], &["a"]);
}

#[test]
fn mqtt_4_7_3_2_names_and_filters_have_no_nul() {
    offences(&[
        ("30 (0001 00 ())", "81"),
        ("30 (0003 'a' 00 'b' ())", "81"),
        ("82 (0001 () 0003 'a' 00 'b' 00)", "81"),
        ("A2 (0001 () 0001 00)", "81"),
    ]);
}

#[test]
fn mqtt_4_7_3_3_names_and_filters_of_65535_bytes_are_whole() {
    let options = || Options { max_packet: 1 << 20, ..Options::default() };
    with(
        5,
        options(),
        "
        s: connect
        s> 82 (0001 () =x*65535 01 =y*65535 00)
        s< 90 (0001 () 01 00)
        p: connect
        p> 32 (=x*65535 0001 () 'x')
        p< 40 (0001)
        s< 32 (=x*65535 0001 () 'x')
        p> 33 (=y*65535 0001 () 'y')
        p< 40 (0001)
        s< 30 (=y*65535 () 'y')
        gateway: restart
        s: connect
        s: subscribe # 00
        s< 31 (=y*65535 () 'y')
    ",
    );
    // Levels without end are no match for the index.
    let deep = "/".repeat(65_535);
    with(
        5,
        options(),
        &format!(
            "p: connect\np> 32 (={deep} 0001 () 'x')\np< 40 (0001)\np> 82 (0001 () ={deep} 00)\np< 90 (0001 () 8F)"
        ),
    );
}

#[test]
fn mqtt_4_7_3_4_names_are_matched_as_they_are() {
    check("ACCOUNTS", &["ACCOUNTS"], &["Accounts", "accounts", "ACCOUNTS/", "/ACCOUNTS"]);
    // Composed and decomposed, and characters that other software drops.
    check("caf\u{e9}", &["caf\u{e9}"], &["cafe\u{301}", "cafe"]);
    check("a//b", &["a//b"], &["a/b", "a///b"]);
    check("a/../b", &["a/../b"], &["b", "a/b"]);
    v5("
        s: connect
        s> 82 (0001 () 0004 EFBBBF 'a' 00)
        s< 90 (0001 () 00)
        s> 30 (=a () 'x') 30 (0004 EFBBBF 'a' () 'y')
        s< 30 (0004 EFBBBF 'a' () 'y')
        s: quiet
    ");
}
