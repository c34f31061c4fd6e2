//! The plan, from pairs of configurations: by hand, and from dice.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use proptest::prelude::*;

use super::*;
use crate::config::{self, Inputs};

fn load(toml: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tidegate.toml");
    fs::write(&file, format!("[gateway]\nid = \"g\"\ndata_dir = \"/nonexistent/data\"\n{toml}")).unwrap();
    config::load_from(&Inputs { file: Some(file), ..Inputs::default() }).unwrap()
}

fn plan(old: &str, new: &str) -> Plan {
    Plan::new(&load(old), &load(new))
}

/// `added / removed / changed`.
fn words(changed: &Changed) -> String {
    format!("{} / {} / {}", changed.added.join(" "), changed.removed.join(" "), changed.changed.join(" "))
}

const UPLINKS: &str =
    "[[uplink]]\nname = \"u\"\nurl = \"mqtt://one\"\n[[uplink]]\nname = \"v\"\nurl = \"mqtt://two\"\n";

fn stream(name: &str, to: &str, more: &str) -> String {
    format!("[[stream]]\nname = \"{name}\"\nfrom = [\"{name}/#\"]\nto = \"{to}\"\n{more}\n")
}

fn downlink(name: &str, from: &str) -> String {
    format!("[[downlink]]\nname = \"{name}\"\nfrom = \"{from}\"\nfilter = [\"{name}/#\"]\n")
}

#[test]
fn both_forwarders_of_a_stream_that_moves_are_renewed_and_others_are_not() {
    let three =
        |to: &str| format!("{UPLINKS}[[uplink]]\nname = \"w\"\nurl = \"mqtt://three\"\n{}", stream("a", to, ""));
    let moved = plan(&three("u"), &three("v"));
    assert_eq!(words(&moved.streams), " /  / a");
    assert_eq!(moved.renewed, BTreeSet::from(["u".to_owned(), "v".to_owned()]));
    assert_eq!(words(&moved.uplinks), " /  / ");
}

#[test]
fn what_a_forwarder_does_not_go_by_leaves_its_connection_alone() {
    let with = |more: &str| format!("{UPLINKS}{}", stream("a", "u", more));
    for more in [
        "max_messages = 5",
        "when_full = \"drop-oldest\"",
        "retain_sent = \"1h\"",
        "qos0 = \"live-only\"",
        "except = [\"a/x\"]",
    ] {
        let plan = plan(&with(""), &with(more));
        assert_eq!((words(&plan.streams), plan.renewed.len()), (" /  / a".to_owned(), 0), "{more}");
    }
    for more in ["ttl = \"1h\"", "priority = 3", "topic = \"x/{topic}\"", "envelope = \"json\""] {
        assert_eq!(plan(&with(""), &with(more)).renewed.len(), 1, "{more}");
    }
}

#[test]
fn what_can_be_tuned_leaves_the_connection_alone() {
    let with = |more: &str| format!("[[uplink]]\nname = \"u\"\nurl = \"mqtt://one\"\n{more}\n{}", stream("a", "u", ""));
    let renewed = |more: &str| {
        let plan = plan(&with(""), &with(more));
        assert_eq!(words(&plan.uplinks), " /  / u", "{more}");
        plan.renewed.len()
    };
    assert_eq!((renewed("rate = { bytes_per_s = \"1KiB\" }"), renewed("progress_timeout = \"9s\"")), (0, 0));
    assert_eq!((renewed("qos = 2"), renewed("keep_alive = \"9s\""), renewed("backoff = { min = \"1s\" }")), (1, 1, 1));
}

#[test]
fn places_in_the_file_mean_nothing() {
    let swapped = "[[uplink]]\nname = \"v\"\nurl = \"mqtt://two\"\n[[uplink]]\nname = \"u\"\nurl = \"mqtt://one\"\n";
    let rest = [stream("a", "u", ""), stream("b", "v", ""), downlink("d", "u")];
    let again = [stream("b", "v", ""), stream("a", "u", ""), downlink("d", "u")];
    let plan = plan(&format!("{UPLINKS}{}", rest.concat()), &format!("{swapped}{}", again.concat()));
    assert!(plan.is_empty() && plan.renewed.is_empty() && !plan.renews_downlinks, "{plan:?}");
}

#[test]
fn other_downlinks_renew_only_the_uplinks_that_have_any() {
    let streams = stream("a", "u", "") + &stream("b", "v", "");
    let with = |downlinks: &str| format!("{UPLINKS}{streams}{downlinks}");
    let added = plan(&with(""), &with(&downlink("d", "u")));
    assert_eq!((words(&added.downlinks), added.renews_downlinks), ("d /  / ".to_owned(), true));
    assert_eq!(added.renewed, BTreeSet::from(["u".to_owned()]));
    let moved = plan(&with(&downlink("d", "u")), &with(&downlink("d", "v")));
    assert_eq!((words(&moved.downlinks), moved.renewed.len()), (" /  / d".to_owned(), 2));
    // The first that matches takes a message.
    let two = [downlink("d", "u"), downlink("e", "u")];
    let turned = plan(&with(&two.concat()), &with(&[&*two[1], &*two[0]].concat()));
    assert!(turned.renews_downlinks && turned.is_empty());
}

#[test]
fn what_takes_a_restart_is_named_and_kept() {
    let old = load("[store]\ncommit_delay = \"1ms\"\n");
    let new = "[store]\ndurability = \"process\"\nmin_free = 1\n[admin]\nbind = \"off\"\n[log]\nlevel = \"warn\"\nformat = \"json\"\n";
    let new = Config { gateway_id: "other".to_owned(), ..load(new) };
    let plan = Plan::new(&old, &new);
    assert_eq!(plan.restart_required, ["gateway.id", "store.durability", "admin.bind", "log.format"]);
    assert_eq!(plan.settings, ["[store]", "[log]"]);
    let kept = keep(&old, new.clone());
    assert_eq!((&*kept.gateway_id, kept.store.durability, kept.store.min_free), ("g", old.store.durability, 1));
    assert_eq!((kept.admin == old.admin, &*kept.log.level), (true, "warn"));
    // It goes on waiting, and nothing else is left to do.
    let again = Plan::new(&kept, &new);
    assert_eq!(again.restart_required, plan.restart_required);
    assert!(again.is_empty() && again.renewed.is_empty());
}

#[test]
fn listeners_are_told_by_name() {
    let listener =
        |name: &str, more: &str| format!("[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\n{more}\n");
    let old = listener("a", "") + &listener("b", "") + &listener("c", "");
    let new = listener("b", "max_connections = 7") + &listener("d", "") + &listener("c", "");
    assert_eq!(words(&plan(&old, &new).listeners), "d / a / b");
}

/// Some uplinks, streams and downlinks: small, so that pairs have much in common.
fn some() -> impl Strategy<Value = Config> {
    let uplinks = proptest::sample::subsequence(vec!["u", "v", "w"], 1..=3).prop_shuffle();
    let inflight = proptest::collection::vec(1..3_u16, 3);
    let streams = proptest::collection::btree_map("[a-d]", (0..4_usize, 0..2_i8, 0..2_u8), 0..4);
    let downlinks = proptest::collection::btree_map("[x-z]", 0..3_usize, 0..3);
    (uplinks, inflight, streams, downlinks).prop_map(|(uplinks, inflight, streams, downlinks)| {
        let mut toml = String::new();
        for (uplink, inflight) in uplinks.iter().zip(inflight) {
            let _ =
                write!(toml, "[[uplink]]\nname = \"{uplink}\"\nurl = \"mqtt://{uplink}\"\nmax_inflight = {inflight}\n");
            let _ = writeln!(toml, "rate = {{ messages_per_s = {inflight} }}");
        }
        for (name, (to, priority, limit)) in streams {
            // One more than there are goes nowhere.
            let to = uplinks.get(to).map_or(String::new(), |to| format!("to = \"{to}\"\npriority = {priority}\n"));
            let _ = write!(toml, "[[stream]]\nname = \"{name}\"\nfrom = [\"{name}\"]\nmax_messages = {limit}\n{to}");
        }
        for (name, from) in downlinks {
            toml += &downlink(&name, uplinks[from % uplinks.len()]);
        }
        load(&toml)
    })
}

/// What each stream is forwarded by, and how.
fn forwarding(config: &Config) -> BTreeMap<(String, String), String> {
    let of = |uplink: &crate::uplink::Settings| {
        let goings = goings(config, &uplink.name);
        let down = config.downlinks.iter().filter(|it| config.uplinks[it.from].name == uplink.name);
        let down: Vec<_> = down.map(|it| (&it.name, &it.filters)).collect();
        let name = uplink.name.clone();
        let mut tuned = uplink.clone();
        tuned.tune(&crate::uplink::Settings { messages_per_s: 0, ..uplink.clone() });
        let settings = format!("{tuned:?} {down:?}");
        let mut all: Vec<_> =
            goings.iter().map(|going| ((name.clone(), going.0.to_owned()), format!("{settings} {going:?}"))).collect();
        all.push(((name.clone(), String::new()), settings.clone()));
        all
    };
    config.uplinks.iter().flat_map(of).collect()
}

proptest! {
    #[test]
    fn from_anything_to_itself_there_is_nothing_to_do(config in some()) {
        let plan = Plan::new(&config, &config);
        prop_assert!(plan.is_empty() && plan.renewed.is_empty() && !plan.renews_downlinks);
    }

    /// The running forwarders, changed as the plan says, are those of the new configuration; a stream never has two.
    #[test]
    fn a_forwarder_that_stays_is_as_it_would_be_made_anew((old, new) in (some(), some())) {
        let plan = Plan::new(&old, &new);
        let gone = |name: &String| plan.uplinks.removed.contains(name) || plan.renewed.contains(name);
        let stays: BTreeMap<_, _> = forwarding(&old).into_iter().filter(|((uplink, _), _)| !gone(uplink)).collect();
        let begins = |name: &String| plan.uplinks.added.contains(name) || plan.renewed.contains(name);
        let mut all: BTreeMap<_, _> = forwarding(&new).into_iter().filter(|((uplink, _), _)| begins(uplink)).collect();
        for (key, how) in stays {
            prop_assert!(all.insert(key, how).is_none(), "two forwarders");
        }
        prop_assert_eq!(all, forwarding(&new));
        // Downlinks that are not renewed go on by what they have.
        prop_assert!(plan.renews_downlinks || plan.downlinks.is_empty());
    }
}
