//! `[auth]` and its files.

use super::*;
use crate::broker::access::Credential;

pub(super) const HASH: &str =
    "$argon2id$v=19$m=7168,t=5,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const AUTH: &str = "[auth]\npassword_file = \"passwd\"\nacl_file = \"acl.toml\"\n";

#[track_caller]
fn check_files(passwd: &str, acl: &str, expected: &[&str]) {
    let folder = folder(&[("tidegate.toml", AUTH), ("passwd", passwd), ("acl.toml", acl)]);
    assert_eq!(folder.problems(), expected, "{acl}");
}

#[test]
fn users_and_rules_are_read_with_the_configuration() {
    let acl = "[[rule]]\nuser = \"*\"\nallow = [\"publish\", \"subscribe\"]\ntopic = \"sensors/%c/#\"\n\
               [[rule]]\nuser = \"cert:gw\"\ndeny = [\"publish\"]\ntopic = \"#\"\n";
    let config = folder(&[("tidegate.toml", AUTH), ("passwd", &format!("probe:{HASH}\n")), ("acl.toml", acl)]);
    let config = config.load().unwrap();
    let access = &config.broker.access;
    assert!(access.users.as_ref().unwrap().contains("probe") && config.warnings.is_empty());
    assert_eq!(access.rules.as_ref().unwrap().len(), 2);
    assert_eq!(reread_access(access).unwrap(), (access.clone(), vec![]));
    let none = load("");
    assert_eq!((&none.broker.access.users, &none.broker.access.rules), (&None, &None));
}

#[test]
fn everything_that_is_wrong_with_both_files_is_told_at_once_with_its_line() {
    let acl = "\
[[rule]]
user = \"prob\"
allow = [\"publish\"]
topic = \"a/%d/#\"
[[rule]]
users = \"probe\"
allow = [\"read\", \"publsh\"]
deny = []
topic = \"a/#/b\"
[[rule]]
user = \"cert:\"
topic = \"$share/g/a\"
[[rule]]
user = \"*\"
deny = []
topic = \"a\"
[[rul]]
";
    check_files(
        &format!("probe:{HASH}\nother:hunter2\n"),
        &acl.replace("\"prob\"", "\"*\""),
        &[
            "warning: acl.toml:4: rule[0].topic: \"a/%d/#\": `%d` is taken as it stands; known are %c (client id) and %u (user name)",
            "error: acl.toml:5: rule[1].user: is missing; expected a user name, \"anonymous\", \"cert:NAME\" or \"*\"",
            "error: acl.toml:6: rule[1].users: unknown key; did you mean `user`?",
            "error: acl.toml:7: rule[1].allow[0]: \"read\": expected \"publish\" or \"subscribe\"; did you mean \"subscribe\"?",
            "error: acl.toml:7: rule[1].allow[1]: \"publsh\": expected \"publish\" or \"subscribe\"; did you mean \"publish\"?",
            "error: acl.toml:8: rule[1].deny: expected either `allow` or `deny`, not both",
            "error: acl.toml:8: rule[1].deny: a list of 0: expected \"publish\", \"subscribe\" or both",
            "error: acl.toml:9: rule[1].topic: \"a/#/b\": has a `#` that is not alone in the last level (right: `a/#`)",
            "error: acl.toml:10: rule[2].allow: is missing; expected `allow` or `deny`, such as [\"publish\", \"subscribe\"]",
            "error: acl.toml:11: rule[2].user: \"cert:\": expected the name in the certificate after `cert:`",
            "error: acl.toml:12: rule[2].topic: \"$share/g/a\": expected the filter alone: rules are about topics, not about shares of them",
            "error: acl.toml:15: rule[3].deny: a list of 0: expected \"publish\", \"subscribe\" or both",
            "error: acl.toml:17: rul: unknown key; did you mean `rule`?",
            "error: passwd:2: what follows the name is no hash (a password in clear?); expected `$argon2id$...`, made by `tidegate passwd`",
        ],
    );
}

#[test]
fn what_surely_is_not_meant_is_a_warning() {
    let rule =
        |user: &str, topic: &str| format!("[[rule]]\nuser = \"{user}\"\nallow = [\"publish\"]\ntopic = \"{topic}\"\n");
    let acl = format!("{}{}", rule("prob", "a/#"), rule("prob", "a/b"));
    check_files(
        &format!("probe:{HASH}\n"),
        &acl,
        &[
            "warning: acl.toml:2: rule[0].user: \"prob\": there is no user of this name in the password file; did you mean \"probe\"?",
            "warning: acl.toml:6: rule[1].user: \"prob\": there is no user of this name in the password file; did you mean \"probe\"?",
            "warning: acl.toml:8: rule[1].topic: never decides anything: the rule at acl.toml:1 takes all of it before",
        ],
    );
    check_files(
        "",
        "",
        &["warning: tidegate.toml:2: auth.password_file: has no users yet; `tidegate passwd FILE USER` adds one"],
    );
    let open = folder(&[("tidegate.toml", "[auth]\npassword_file = \"passwd\"\n"), ("passwd", &format!("a:{HASH}"))]);
    fs::set_permissions(open.folder.path().join("passwd"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        open.problems(),
        ["warning: passwd: every user of this machine can read these password hashes (chmod o-r)"]
    );
}

#[test]
fn files_that_cannot_be_read_are_refused_with_the_key_that_names_them() {
    let missing = folder(&[("tidegate.toml", AUTH)]);
    let problems = missing.problems();
    assert_eq!(problems.len(), 2);
    assert!(
        problems[0].starts_with("error: tidegate.toml:2: auth.password_file: passwd: No such file"),
        "{problems:?}"
    );
    assert!(problems[1].starts_with("error: tidegate.toml:3: auth.acl_file: acl.toml: No such file"), "{problems:?}");
    let pipe = folder(&[("tidegate.toml", "[auth]\nacl_file = \"/dev/null\"\n")]);
    assert_eq!(pipe.problems(), ["error: tidegate.toml:2: auth.acl_file: /dev/null: is not a regular file"]);
    check_files(
        &format!("a:{HASH}"),
        "[[rule]\n",
        &["error: acl.toml:1: column 8: not TOML: unclosed array table, expected `]`"],
    );
}

#[test]
fn reading_the_files_again_takes_all_or_nothing() {
    let files = folder(&[("tidegate.toml", AUTH), ("passwd", &format!("probe:{HASH}\n")), ("acl.toml", "")]);
    let access = files.load().unwrap().broker.access;
    let path = files.folder.path().join("passwd");
    fs::write(&path, format!("probe:{}\nnew:{HASH}\n", Credential::of(b"x").unwrap().as_str())).unwrap();
    let (again, warnings) = reread_access(&access).unwrap();
    assert!(again.users.unwrap().contains("new") && again.rules == access.rules && warnings.is_empty());
    fs::write(&path, "probe\n").unwrap();
    fs::remove_file(files.folder.path().join("acl.toml")).unwrap();
    let Refused(problems) = reread_access(&access).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
}

#[test]
fn a_listener_that_nobody_can_come_in_through_is_told() {
    let listener = "[[listener]]\nname = \"a\"\nbind = \"127.0.0.1:0\"\nanonymous = false\n";
    let with_users = format!("{listener}[auth]\npassword_file = \"passwd\"\n");
    let files = folder(&[("tidegate.toml", &with_users), ("passwd", &format!("probe:{HASH}\n"))]);
    assert_eq!(files.problems(), Vec::<String>::new());
}

proptest! {
    #[test]
    fn no_rules_file_makes_reading_panic(text in "(\\[\\[rule\\]\\]\n|user = |allow = |topic = |\"[*a-z:%#/+]{0,4}\"\n|\\[\"publish\"\\]\n){0,12}") {
        let _ = folder(&[("tidegate.toml", "[auth]\nacl_file = \"acl.toml\"\n"), ("acl.toml", &text)]).load();
    }
}
