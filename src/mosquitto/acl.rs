//! Mosquitto's access rules into ours, with the same answers.
//!
//! Mosquitto looks at what a user is denied, then at what it is allowed, then at the patterns denied and those allowed, and says no where nothing matches.
//! With us the first rule that matches decides. So the rules are written in that order: all of users, denials first, then all
//! patterns, denials first; a rule of one user never concerns another. What is said before the first `user` is for anonymous clients.
//!
//! Subscriptions are a difference: Mosquitto grants all of them and checks what they bring; here one that could bring nothing at all is refused.

use std::fmt::Write as _;

use crate::broker::access::{TopicPattern, check_name};

/// A rule, as it goes into `acl.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// As our rules write it.
    user: String,
    is_pattern: bool,
    access: Access,
    topic: String,
    line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Deny,
    Read,
    Write,
    ReadWrite,
}

/// What was read of an access file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Acl {
    rules: Vec<Rule>,
    /// Lines that could not be carried over: number, and why.
    pub(super) lost: Vec<(usize, String)>,
}

/// Reads an access file. `certificates`: some listener takes its clients' names from certificates.
pub(super) fn read(text: &str, certificates: bool) -> Acl {
    let mut acl = Acl::default();
    // `None`: a user that we cannot have.
    let mut user: Option<String> = Some("anonymous".to_owned());
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match word {
            "user" => {
                user = match check_name(rest) {
                    Ok(()) => Some(rest.to_owned()),
                    Err(why) => {
                        acl.lost.push((number, format!("{why}; its rules are left out, so it may nothing")));
                        None
                    }
                };
            }
            "topic" => match (&user, rule(rest, false)) {
                (None, _) => acl.lost.push((number, "belongs to a user that cannot be carried over".to_owned())),
                (Some(user), Ok((access, topic))) => {
                    let mut add = |user: String| {
                        acl.rules.push(Rule { user, is_pattern: false, access, topic: topic.clone(), line: number });
                    };
                    add(user.clone());
                    if certificates && user != "anonymous" {
                        add(format!("cert:{user}"));
                    }
                }
                (Some(_), Err(why)) => acl.lost.push((number, why)),
            },
            "pattern" => match rule(rest, true) {
                Ok((access, topic)) => {
                    acl.rules.push(Rule { user: "*".to_owned(), is_pattern: true, access, topic, line: number });
                }
                Err(why) => acl.lost.push((number, why)),
            },
            _ => acl.lost.push((number, "expected `user`, `topic` or `pattern`".to_owned())),
        }
    }
    acl.rules.sort_by_key(|rule| (rule.is_pattern, rule.access != Access::Deny));
    acl
}

/// `[read|write|readwrite|deny] TOPIC`.
fn rule(text: &str, is_pattern: bool) -> Result<(Access, String), String> {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let access = match word {
        "deny" => Some(Access::Deny),
        "read" => Some(Access::Read),
        "write" => Some(Access::Write),
        "readwrite" => Some(Access::ReadWrite),
        _ => None,
    };
    let (access, topic) = match access {
        Some(access) if !rest.trim().is_empty() => (access, rest.trim()),
        Some(_) | None => (Access::ReadWrite, text),
    };
    let parsed = TopicPattern::parse(topic).map_err(|error| format!("the topic {error}"))?;
    if parsed.has_placeholder() && !is_pattern {
        let why = "Mosquitto takes %c and %u in `topic` as they stand, here they would be filled in; it is left out. \
                   Was `pattern` meant?";
        return Err(why.to_owned());
    }
    Ok((access, topic.to_owned()))
}

impl Acl {
    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }

    /// As `acl.toml`; `source` is the file it was.
    pub(super) fn to_toml(&self, source: &str) -> String {
        let mut out = format!(
            "# Made by `tidegate import-mosquitto` from {}.\n\
             # The first rule that matches decides; where none does the answer is no. In Mosquitto's order: what users are denied, then\n\
             # allowed, then patterns.\n",
            super::render::comment(source)
        );
        for Rule { user, access, topic, line, .. } in &self.rules {
            let (key, actions) = match access {
                Access::Deny => ("deny", "\"publish\", \"subscribe\""),
                Access::Read => ("allow", "\"subscribe\""),
                Access::Write => ("allow", "\"publish\""),
                Access::ReadWrite => ("allow", "\"publish\", \"subscribe\""),
            };
            let (user, topic) = (super::render::text(user), super::render::text(topic));
            // Writing to a String cannot fail.
            let _ = write!(out, "\n[[rule]] # line {line}\nuser = {user}\n{key} = [{actions}]\ntopic = {topic}\n");
        }
        for (line, why) in &self.lost {
            let _ = write!(out, "\n# line {line} could not be carried over: {}\n", super::render::comment(why));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_in_the_order_in_which_mosquitto_asks_them() {
        let text = "topic read a/#\npattern write p/%c/#\nuser bob smith\ntopic readwrite b/#\ntopic deny b/secret\npattern deny p/x\n\
                    topic c d\nuser bad:name\ntopic e\ntopic read +x\n# user c\nfrob\nuser z\ntopic read s/%c\n";
        let acl = read(text, false);
        let shown: Vec<_> = acl.rules.iter().map(|r| (r.user.as_str(), r.access, r.topic.as_str(), r.line)).collect();
        assert_eq!(
            shown,
            [
                ("bob smith", Access::Deny, "b/secret", 5),
                ("anonymous", Access::Read, "a/#", 1),
                ("bob smith", Access::ReadWrite, "b/#", 4),
                ("bob smith", Access::ReadWrite, "c d", 7),
                ("*", Access::Deny, "p/x", 6),
                ("*", Access::Write, "p/%c/#", 2),
            ]
        );
        assert_eq!(acl.lost.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [8, 9, 10, 12, 14]);
    }

    #[test]
    fn users_of_certificates_have_the_same_rules() {
        let acl = read("topic a\nuser plc\ntopic b\n", true);
        let users: Vec<_> = acl.rules.iter().map(|rule| rule.user.as_str()).collect();
        assert_eq!(users, ["anonymous", "plc", "cert:plc"]);
    }
}
