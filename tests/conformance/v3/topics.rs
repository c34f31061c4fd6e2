//! Section 4.7: topic names and filters.

use std::fmt::Write as _;

use super::closed_after;
use crate::script::v3;

/// Which of these topics a filter lets through.
fn matches(filter: &str, topics: &[(&str, bool)]) {
    let mut script = format!("a: connect\na: subscribe {filter} 00\np: connect\n");
    for (topic, _) in topics {
        writeln!(script, "p> 30 (={topic} 'x')").unwrap();
    }
    for (topic, _) in topics.iter().filter(|(_, matches)| *matches) {
        writeln!(script, "a< 30 (={topic} 'x')").unwrap();
    }
    v3(&format!("{script}p: quiet\na: quiet"));
}

#[test]
fn mqtt_4_7_1_1_wildcards_are_not_for_topic_names() {
    closed_after(&["30 (=a/# 'x')", "30 (=+/a 'x')", "30 (=# 'x')", "34 (=a+b 0001 'x')"]);
}

#[test]
fn mqtt_4_7_1_2_the_multi_level_wildcard_is_the_last_level() {
    v3("
        a: connect
        a> 82 (0001 =# 00 =sport/# 00 =sport/tennis# 00 =sport/#/ranking 00 =#/ 00 =## 00)
        a< 90 (0001 00 00 80 80 80 80)
    ");
    matches(
        "sport/tennis/#",
        &[
            ("sport/tennis", true),
            ("sport/tennis/", true),
            ("sport/tennis/player1", true),
            ("sport/tennis/player1/score/wimbledon", true),
            ("sport/tennis2", false),
            ("sport", false),
        ],
    );
    matches("#", &[("a", true), ("/", true), ("a/b/c", true)]);
}

#[test]
fn mqtt_4_7_1_3_the_single_level_wildcard_is_a_whole_level() {
    v3("
        a: connect
        a> 82 (0001 =+ 00 =+/tennis/# 00 =sport+ 00 =sport/+/player1 00 =sp+rt 00 =++ 00 =/+ 00)
        a< 90 (0001 00 00 80 00 80 80 00)
    ");
    matches("sport/+", &[("sport", false), ("sport/", true), ("sport/tennis", true), ("sport/tennis/player1", false)]);
    matches("+/+", &[("/finance", true), ("finance", false), ("a/b", true), ("a/b/c", false)]);
    matches("+", &[("/finance", false), ("finance", true)]);
    matches("/+", &[("/finance", true), ("finance", false)]);
}

#[test]
fn mqtt_4_7_2_1_leading_wildcards_do_not_match_topics_that_begin_with_a_dollar() {
    matches("#", &[("$dollar/a", false), ("dollar/$a", true)]);
    matches("+/a", &[("$dollar/a", false), ("dollar/a", true)]);
    matches("$dollar/#", &[("$dollar/a", true), ("dollar/a", false)]);
    matches("$dollar/+", &[("$dollar/a", true)]);
    // Nor retained ones.
    v3("
        a: connect
        a> 31 (=$dollar/a 'x')
        a: quiet
        a: subscribe # 00
        a: subscribe +/a 00
        a: quiet
        a: subscribe $dollar/# 00
        a< 31 (=$dollar/a 'x')
    ");
}

#[test]
fn mqtt_4_7_3_1_topics_and_filters_have_at_least_one_character() {
    closed_after(&["30 (0000 'x')", "82 (0001 0000 00)", "A2 (0001 0000)", "A2 (0001 =t 0000)"]);
    matches("/", &[("/", true), ("//", false), ("a", false)]);
}

#[test]
fn mqtt_4_7_3_2_topics_and_filters_have_no_nul() {
    closed_after(&["30 (0003 'a' 00 'b' 'x')", "82 (0001 0003 'a' 00 'b' 00)", "A2 (0001 0001 00)"]);
}

#[test]
fn mqtt_4_7_3_3_topics_and_filters_have_up_to_65_535_bytes() {
    let filter = "x".repeat(65_535);
    let options = crate::rig::Options { max_packet: 1 << 20, ..Default::default() };
    crate::script::with(
        4,
        options,
        &format!(
            "
        a: connect
        a: subscribe {filter} 01
        a> 32 (={filter} 0001 'x')
        a< 40 (0001)
        a< 32 (={filter} _ _ 'x')
        "
        ),
    );
}

#[test]
fn mqtt_4_7_3_4_nothing_is_normalized() {
    matches("accounts", &[("ACCOUNTS", false), ("accounts", true), ("accounts/", false), ("/accounts", false)]);
    matches("a//b", &[("a/b", false), ("a//b", true)]);
    matches("a~b", &[("a~b", true), ("a~~b", false), ("a%20b", false)]);
    // The same letter to the eye, as one code point and as two.
    v3("
        a: connect
        a> 82 (0001 0002 C3A9 00)
        a< 90 (0001 00)
        a> 30 (0003 65CC81 'x') 30 (0002 C3A9 'y')
        a< 30 (0002 C3A9 'y')
        a: quiet
    ");
}
