//! What rules decide.

use super::*;
use proptest::prelude::*;

fn rule(who: &str, verdict: Verdict, actions: &str, topic: &str) -> Rule {
    let who = match who {
        "*" => Who::Everybody,
        "anonymous" => Who::Only(Principal::Anonymous),
        _ => Who::Only(match who.strip_prefix("cert:") {
            Some(name) => Principal::Certificate(name.into()),
            None => Principal::User(who.into()),
        }),
    };
    let (publish, subscribe) = (actions.contains('p'), actions.contains('s'));
    Rule { who, verdict, publish, subscribe, topic: TopicPattern::parse(topic).unwrap() }
}

fn allow(who: &str, actions: &str, topic: &str) -> Rule {
    rule(who, Verdict::Allow, actions, topic)
}

fn deny(who: &str, actions: &str, topic: &str) -> Rule {
    rule(who, Verdict::Deny, actions, topic)
}

fn user(name: &'static str) -> Principal {
    Principal::User(ByteString::from_static(name))
}

fn may(rules: &[Rule], principal: &Principal, client_id: &str, action: Action, topic: &str) -> bool {
    Rules::new(rules.to_vec()).rights_of(principal, client_id).may(action, &TopicName::new(topic).unwrap())
}

#[test]
fn the_first_rule_that_matches_decides_and_none_denies() {
    let rules = [deny("anne", "p", "plant/secret/#"), allow("anne", "ps", "plant/#"), allow("*", "s", "public/+")];
    let table = [
        (user("anne"), Action::Publish, "plant/a", true),
        (user("anne"), Action::Publish, "plant/secret/x", false),
        (user("anne"), Action::Subscribe, "plant/secret/x", true),
        (user("bert"), Action::Publish, "plant/a", false),
        (user("bert"), Action::Subscribe, "public/a", true),
        (Principal::Anonymous, Action::Subscribe, "public/a", true),
        (Principal::Anonymous, Action::Publish, "public/a", false),
        (Principal::Certificate("anne".into()), Action::Publish, "plant/a", false),
    ];
    for (principal, action, topic, expected) in table {
        assert_eq!(may(&rules, &principal, "c", action, topic), expected, "{principal} {action:?} {topic}");
    }
    assert!(!may(&[], &user("anne"), "c", Action::Publish, "a"), "no rule at all denies");
}

#[test]
fn names_are_filled_in_once_and_a_name_that_looks_like_a_placeholder_stays_a_name() {
    let rules = [allow("*", "p", "s/%c/%u"), allow("cert:gw", "p", "by/%u-%c/#"), allow("*", "p", "100%/%x")];
    let table = [
        (user("anne"), "probe", "s/probe/anne", true),
        (user("anne"), "probe", "s/other/anne", false),
        (user("anne"), "%u", "s/%u/anne", true),
        (user("anne"), "%u", "s/anne/anne", false),
        (user("%c"), "probe", "s/probe/%c", true),
        (Principal::Certificate("gw".into()), "1", "by/gw-1/x", true),
        (Principal::Anonymous, "probe", "s/probe/", false),
        (Principal::Anonymous, "probe", "s/probe/%u", false),
        (Principal::Anonymous, "probe", "100%/%x", true),
    ];
    for (principal, client_id, topic, expected) in table {
        assert_eq!(may(&rules, &principal, client_id, Action::Publish, topic), expected, "{principal} {topic}");
    }
}

#[test]
fn names_with_wildcards_or_slashes_never_widen_a_rule() {
    let rules = [allow("*", "ps", "s/%c/#"), allow("*", "ps", "%c/#"), allow("*", "ps", "u/%u")];
    for name in ["+", "#", "a/b", "", "+/+", "a/#", "$SYS"] {
        for topic in ["s/a/x", "s/+/x", "s/a/b/x", "s//x", "other/x", "a/b", "$SYS/x", "u/a", "u/b/c"] {
            let Ok(topic_name) = TopicName::new(topic) else { continue };
            let rights = Rules::new(rules.to_vec()).rights_of(&Principal::User(name.into()), name);
            let own = name == "$SYS" && topic.starts_with("s/$SYS");
            assert_eq!(rights.may(Action::Publish, &topic_name), own, "{name:?} {topic}");
        }
        let rights = Rules::new(rules.to_vec()).rights_of(&user("u"), name);
        assert!(!rights.may_subscribe(&TopicFilter::new("$SYS/#").unwrap()), "{name:?}");
        assert!(!rights.may_subscribe(&TopicFilter::new("s/other/#").unwrap()), "{name:?}");
        assert!(Rules::new(rules.to_vec()).has_unfit_names(&user("u"), name), "{name:?}");
    }
    assert!(!Rules::new(rules.to_vec()).has_unfit_names(&Principal::Anonymous, "probe"));
}

#[test]
fn a_denial_whose_name_cannot_be_filled_in_denies_the_whole_branch() {
    let rules = [deny("*", "p", "s/own-%c/x"), allow("*", "p", "#"), allow("*", "p", "$SYS/#")];
    assert!(may(&rules, &user("u"), "a", Action::Publish, "s/own-b/x"));
    assert!(!may(&rules, &user("u"), "a", Action::Publish, "s/own-a/x"));
    for topic in ["s", "s/own-a/b/x", "s/anything"] {
        assert!(!may(&rules, &user("u"), "a/b", Action::Publish, topic), "{topic}");
    }
    assert!(may(&rules, &user("u"), "a/b", Action::Publish, "t"));
    let rules = [deny("*", "p", "%c/x"), allow("*", "p", "#"), allow("*", "p", "$SYS/#")];
    for topic in ["t", "$SYS/x"] {
        assert!(may(&rules, &user("u"), "a", Action::Publish, topic), "{topic}");
        assert!(!may(&rules, &user("u"), "a/b", Action::Publish, topic), "{topic}");
    }
}

#[test]
fn a_filter_that_could_bring_something_is_granted_and_one_that_never_could_is_not() {
    let rules = [deny("*", "s", "sensors/secret/#"), allow("*", "s", "sensors/#"), allow("*", "p", "alarms/#")];
    let rights = Rules::new(rules.to_vec()).rights_of(&Principal::Anonymous, "c");
    let table = [
        ("#", true),
        ("sensors/#", true),
        ("+/+/x", true),
        ("sensors/a", true),
        ("sensors/secret/#", false),
        ("sensors/secret/+/x", false),
        ("sensors/secret", false),
        ("sensors/+", true),
        ("alarms/#", false),
        ("$SYS/#", false),
    ];
    for (filter, expected) in table {
        assert_eq!(rights.may_subscribe(&TopicFilter::new(filter).unwrap()), expected, "{filter}");
    }
}

#[test]
fn a_rule_that_can_never_decide_is_found() {
    let rules = Rules::new(vec![
        allow("*", "ps", "a/#"),
        deny("anne", "p", "a/b"),
        deny("anne", "p", "+/b"),
        allow("*", "s", "b/%c"),
        deny("*", "s", "b/x"),
    ]);
    let overruled: Vec<_> = (0..rules.len()).map(|at| rules.overruled_by(at)).collect();
    assert_eq!(overruled, [None, Some(0), None, None, None]);
}

#[test]
fn wrong_patterns_are_refused() {
    for text in ["", "a/#/b", "a+", "+%c", "%c#", "a\0"] {
        assert!(TopicPattern::parse(text).is_err(), "{text:?}");
    }
    assert!(TopicPattern::parse("a/%c/+/#").unwrap().has_placeholder());
    assert!(!TopicPattern::parse("100%/%x").unwrap().has_placeholder());
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let topic = "(\\$x|[ab+]|%c)(/[ab+]|/%c|/%u|/x%c){0,2}(/#)?|#";
    (any::<bool>(), "[ps]{1,2}", topic).prop_filter_map("a wrong filter", |(yes, actions, topic)| {
        let verdict = if yes { Verdict::Allow } else { Verdict::Deny };
        TopicPattern::parse(&topic).ok().map(|_| rule("*", verdict, &actions, &topic))
    })
}

const LEVELS: [&str; 5] = ["a", "b", "$x", "xa", ""];

fn any_topic() -> impl Strategy<Value = TopicName> {
    proptest::collection::vec(proptest::sample::select(&LEVELS[..]), 1..4)
        .prop_filter_map("empty", |levels| TopicName::new(levels.join("/")).ok())
}

proptest! {
    /// What the compiled rights say is what the contract says, read word for word.
    #[test]
    fn decisions_are_those_of_the_first_matching_rule(
        rules in proptest::collection::vec(any_rule(), 0..6), topic in any_topic(), publish in any::<bool>(),
    ) {
        let action = if publish { Action::Publish } else { Action::Subscribe };
        let expected = rules.iter().find(|rule| {
            let filter = rule.topic.as_str().replace("%c", "a").replace("%u", "b");
            (if publish { rule.publish } else { rule.subscribe }) && TopicFilter::new(filter).unwrap().matches(&topic)
        });
        let rights = Rules::new(rules.clone()).rights_of(&user("b"), "a");
        prop_assert_eq!(rights.may(action, &topic), expected.is_some_and(|rule| rule.verdict == Verdict::Allow));
    }

    /// Whatever a subscription would bring, it can be had.
    #[test]
    fn no_filter_is_refused_that_matches_an_allowed_topic(
        rules in proptest::collection::vec(any_rule(), 0..6), topic in any_topic(),
        filter in "(\\$x|[ab+])(/[ab+]){0,2}(/#)?|#",
    ) {
        let Ok(filter) = TopicFilter::new(filter) else { return Ok(()) };
        let rights = Rules::new(rules).rights_of(&user("b"), "a");
        if filter.matches(&topic) && rights.may(Action::Subscribe, &topic) {
            prop_assert!(rights.may_subscribe(&filter), "{} brings {}", filter, topic);
        }
    }

    /// A filter without wildcards is a topic, and what holds for the one holds for the other.
    #[test]
    fn a_plain_filter_is_decided_as_its_topic(rules in proptest::collection::vec(any_rule(), 0..6), topic in any_topic()) {
        let rights = Rules::new(rules).rights_of(&user("b"), "a");
        let filter = TopicFilter::new(topic.as_str()).unwrap();
        prop_assert_eq!(rights.may_subscribe(&filter), rights.may(Action::Subscribe, &topic));
    }

    /// Whatever a client calls itself, rules that only allow give it nothing outside of its own level.
    #[test]
    fn no_client_id_reaches_another_level(id in "[a+#/$%cu]{0,4}", topic in any_topic()) {
        let rights = Rules::new(vec![allow("*", "ps", "s/%c/#")]).rights_of(&Principal::Anonymous, &id);
        let full = TopicName::new(format!("s/{topic}")).unwrap();
        if rights.may(Action::Publish, &full) {
            prop_assert_eq!(full.as_str().split('/').nth(1), Some(id.as_str()));
        }
    }
}
