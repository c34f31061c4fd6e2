//! `[auth]`, and the two files it names: users with their passwords, and access rules.
//!
//! Both are read whole when the configuration is read, so that `tidegate check` tells everything that is wrong with them,
//! with their lines, and a reload takes all of it or nothing.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use std::cell::RefCell;

use super::{
    Reader, file,
    layers::about_file,
    nearest::nearest,
    origin::{Origin, Origins},
    problem::{Place, Problem, Refused, Severity},
    section::{Checks, Section},
    show,
};
use crate::broker::{
    AccessSettings, ListenerSettings,
    access::{Principal, Rule, Rules, TopicPattern, Users, Verdict, Who},
};

pub(super) const AUTH_KEYS: &[&str] = &["password_file", "acl_file"];
const ROOT_KEYS: &[&str] = &["rule"];
const RULE_KEYS: &[&str] = &["user", "allow", "deny", "topic"];

/// Largest password file: some 35 000 users.
const MAX_PASSWORD_FILE: u64 = 4 << 20;

/// What a file holds, with what is surely not meant; or why it cannot be used.
type Read<T> = Result<(T, Vec<Problem>), Trouble>;

/// Why a file cannot be used.
enum Trouble {
    /// It cannot be had.
    Unreadable(String),
    /// What is in it is wrong.
    Wrong(Vec<Problem>),
}

/// Reads `[auth]` with its files.
pub(super) fn read_access(section: &Section<'_>) -> AccessSettings {
    let password_file = section.path("password_file");
    let acl_file = section.path("acl_file");
    let users = password_file.as_deref().and_then(|path| keep(section, "password_file", path, read_users(path)));
    if users.as_ref().is_some_and(Users::is_empty) {
        section.warn("password_file", "has no users yet; `tidegate passwd FILE USER` adds one");
    }
    let rules = acl_file.as_deref().and_then(|path| keep(section, "acl_file", path, read_rules(path, users.as_ref())));
    AccessSettings { password_file, users: users.map(Arc::new), acl_file, rules: rules.map(Arc::new) }
}

/// Notes what is wrong with a file that a key names.
fn keep<T>(section: &Section<'_>, key: &str, path: &Path, read: Read<T>) -> Option<T> {
    match read {
        Ok((value, warnings)) => {
            for warning in warnings {
                section.checks.push(warning);
            }
            Some(value)
        }
        Err(Trouble::Unreadable(cause)) => {
            section.refuse_file(key, path, &cause);
            None
        }
        Err(Trouble::Wrong(problems)) => {
            for problem in problems {
                section.checks.push(problem);
            }
            None
        }
    }
}

/// Reads the files of a configuration again, and nothing else of it. On refusal, all problems; else also the warnings.
pub fn reread_access(current: &AccessSettings) -> Result<(AccessSettings, Vec<Problem>), Refused> {
    let mut problems = Vec::new();
    let AccessSettings { password_file, acl_file, .. } = current;
    let users = password_file.as_deref().and_then(|path| gather(&mut problems, path, read_users(path)));
    let rules = acl_file.as_deref().and_then(|path| gather(&mut problems, path, read_rules(path, users.as_ref())));
    problems.sort_by(Problem::order);
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(Refused(problems));
    }
    let (password_file, acl_file) = (password_file.clone(), acl_file.clone());
    let access = AccessSettings { password_file, users: users.map(Arc::new), acl_file, rules: rules.map(Arc::new) };
    Ok((access, problems))
}

fn gather<T>(problems: &mut Vec<Problem>, path: &Path, read: Read<T>) -> Option<T> {
    match read {
        Ok((value, warnings)) => {
            problems.extend(warnings);
            Some(value)
        }
        Err(Trouble::Unreadable(cause)) => {
            problems.push(about_file(path, format!("cannot be read: {cause}")));
            None
        }
        Err(Trouble::Wrong(more)) => {
            problems.extend(more);
            None
        }
    }
}

fn read_text(path: &Path, max: u64) -> Result<String, Trouble> {
    let read = || {
        // Before it is opened: opening a named pipe waits for somebody to write.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::other("is not a regular file"));
        }
        file::read_text(path, max)
    };
    read().map_err(|error| Trouble::Unreadable(error.to_string()))
}

fn read_users(path: &Path) -> Read<Users> {
    let text = read_text(path, MAX_PASSWORD_FILE)?;
    let at = |line| Some(Place { source: path.display().to_string(), line });
    let problem = |severity, line, expected| Problem { place: at(line), severity, ..about_file(path, expected) };
    let users = Users::parse(&text).map_err(|wrong| {
        let problems = wrong.into_iter().map(|wrong| problem(Severity::Error, Some(wrong.line), wrong.cause));
        Trouble::Wrong(problems.collect())
    })?;
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    let warning = (mode & 0o004 != 0).then(|| {
        let expected = "every user of this machine can read these password hashes (chmod o-r)";
        problem(Severity::Warning, None, expected.to_owned())
    });
    Ok((users, warning.into_iter().collect()))
}

fn read_rules(path: &Path, users: Option<&Users>) -> Read<Rules> {
    let text = read_text(path, file::MAX_FILE_BYTES)?;
    let mut origins = Origins::default();
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let source = origins.add(Origin { label: path.display().to_string(), folder, is_environment: false });
    let mut problems = Vec::new();
    let Some(layer) = file::parse(&text, source, &origins, &mut problems) else { return Err(Trouble::Wrong(problems)) };
    let sections = [("[[rule]]", RULE_KEYS)];
    let checks = Checks {
        origins: &origins,
        problems: RefCell::new(problems),
        sections: &sections,
        reader: Reader::Gateway,
        later: &[],
    };
    let root = Section::root(&checks, layer.content());
    root.check_keys(ROOT_KEYS);
    let entries = root.entries("rule", RULE_KEYS);
    let read: Vec<Option<Rule>> = entries.iter().map(|section| read_rule(section, users)).collect();
    let rules: Option<Vec<Rule>> = read.into_iter().collect();
    let rules = Rules::new(rules.unwrap_or_default());
    for (at, section) in entries.iter().enumerate().take(rules.len()) {
        if let Some(by) = rules.overruled_by(at) {
            let place = entries[by].place().map(|place| format!(" at {place}")).unwrap_or_default();
            section.warn("topic", format!("never decides anything: the rule{place} takes all of it before"));
        }
    }
    drop(entries);
    drop(root);
    let problems = checks.problems.into_inner();
    let wrong = problems.iter().any(|problem| problem.severity == Severity::Error);
    if wrong { Err(Trouble::Wrong(problems)) } else { Ok((rules, problems)) }
}

/// Reads one `[[rule]]`; `None` where something in it is wrong, which has been noted then.
fn read_rule(section: &Section<'_>, users: Option<&Users>) -> Option<Rule> {
    let who = read_who(section, users);
    let verdict = match (section.has("allow"), section.has("deny")) {
        (true, false) => Some(Verdict::Allow),
        (false, true) => Some(Verdict::Deny),
        (true, true) => {
            section.refuse_unsaid("deny", "expected either `allow` or `deny`, not both");
            None
        }
        (false, false) => {
            section.refuse("allow", "is missing; expected `allow` or `deny`, such as [\"publish\", \"subscribe\"]");
            None
        }
    };
    let actions: Vec<_> = ["allow", "deny"].iter().filter_map(|key| read_actions(section, key)).collect();
    let topic = read_topic(section);
    let [(publish, subscribe)] = actions[..] else { return None };
    Some(Rule { who: who?, verdict: verdict?, publish, subscribe, topic: topic? })
}

fn read_who(section: &Section<'_>, users: Option<&Users>) -> Option<Who> {
    let text = section.required_text("user", "a user name, \"anonymous\", \"cert:NAME\" or \"*\"")?;
    let only = match text.value.as_str() {
        "*" => return Some(Who::Everybody),
        "anonymous" => Principal::Anonymous,
        name => match name.strip_prefix("cert:") {
            Some("") => {
                section.refuse_text(&text, "expected the name in the certificate after `cert:`", None);
                return None;
            }
            Some(name) => Principal::Certificate(name.into()),
            None => {
                if users.is_some_and(|users| !users.contains(name)) {
                    let near = nearest(name, users.into_iter().flat_map(Users::names));
                    let hint = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
                    section.warn_text(&text, format!("there is no user of this name in the password file{hint}"));
                }
                Principal::User(name.into())
            }
        },
    };
    Some(Who::Only(only))
}

/// Whether the list has `publish`, and whether it has `subscribe`.
fn read_actions(section: &Section<'_>, key: &str) -> Option<(bool, bool)> {
    let texts = section.texts(key, "\"publish\" and \"subscribe\"")?;
    if texts.is_empty() {
        section.refuse(key, "expected \"publish\", \"subscribe\" or both");
        return None;
    }
    let (mut publish, mut subscribe, mut whole) = (false, false, true);
    for text in texts {
        match text.value.as_str() {
            "publish" => publish = true,
            "subscribe" => subscribe = true,
            other => {
                let meant = match other {
                    "write" => Some("publish"),
                    "read" => Some("subscribe"),
                    _ => nearest(other, ["publish", "subscribe"]),
                };
                let hint = meant.map(|meant| format!("did you mean {meant:?}?"));
                section.refuse_text(&text, "expected \"publish\" or \"subscribe\"", hint);
                whole = false;
            }
        }
    }
    whole.then_some((publish, subscribe))
}

fn read_topic(section: &Section<'_>) -> Option<TopicPattern> {
    let text = section.required_text("topic", "a topic filter such as \"sensors/%c/#\"")?;
    if text.value.starts_with("$share/") {
        section.refuse_text(&text, "expected the filter alone: rules are about topics, not about shares of them", None);
        return None;
    }
    let strange = text.value.match_indices('%').find(|(at, _)| !text.value[at + 1..].starts_with(['c', 'u']));
    if let Some((at, _)) = strange {
        let shown: String = text.value[at..].chars().take(2).collect();
        let shown = show::key(&shown);
        section
            .warn_text(&text, format!("`{shown}` is taken as it stands; known are %c (client id) and %u (user name)"));
    }
    match TopicPattern::parse(&text.value) {
        Ok(topic) => Some(topic),
        Err(error) => {
            section.refuse_text(&text, error.to_string(), None);
            None
        }
    }
}

/// Warns of listeners that nobody can come in through.
pub(super) fn reachable_listeners(listeners: &[(&Section<'_>, ListenerSettings)], access: &AccessSettings) {
    for (section, listener) in listeners {
        let by_certificate = listener.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if !listener.anonymous && access.password_file.is_none() && !by_certificate {
            let why = "this listener will refuse every client: there is no `auth.password_file` to know any by; \
                       `anonymous = true` lets everybody in";
            section.warn("anonymous", why);
        }
    }
}
