//! The users of a password file: one `name:hash` a line. Pure.

use std::{collections::HashMap, sync::Arc};

use bytestring::ByteString;

use super::hash::Credential;

/// Longest user name in bytes (MQTT 5, section 1.5.4).
const NAME_MAX: usize = 65_535;

/// All users with the hashes of their passwords.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users(HashMap<ByteString, Arc<Credential>>);

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongLine {
    /// Counted from 1.
    pub line: u32,
    /// In words; never what stands there.
    pub cause: String,
}

/// A line of a password file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'l> {
    /// Empty, or a comment.
    Nothing,
    /// A user, whatever stands behind the colon.
    User { name: &'l str, hash: &'l str },
    /// No user.
    Wrong,
}

impl<'l> Line<'l> {
    pub(super) fn read(line: &'l str) -> Self {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.trim().is_empty() || line.starts_with('#') {
            return Self::Nothing;
        }
        line.split_once(':').map_or(Self::Wrong, |(name, hash)| Self::User { name, hash: hash.trim_end() })
    }
}

/// Whether a text can be the name of a user; the error says why not.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err("a user name has 1 to 65535 bytes");
    }
    if name.contains(':') || name.chars().any(char::is_control) {
        return Err("a user name has no colon and no control characters");
    }
    if name.trim() != name || name.starts_with('#') {
        return Err("a user name does not begin or end with a space and does not begin with `#`");
    }
    if name == "*" || name == "anonymous" {
        return Err("`*` and `anonymous` have a meaning of their own in access rules");
    }
    Ok(())
}

impl Users {
    /// Reads the text of a password file. On error, everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Vec<WrongLine>> {
        let mut users = HashMap::new();
        let mut lines: HashMap<&str, u32> = HashMap::new();
        let mut wrong = Vec::new();
        for (line, text) in (1..).zip(text.split('\n')) {
            let mut refuse = |cause: String| wrong.push(WrongLine { line, cause });
            match Line::read(text) {
                Line::Nothing => {}
                Line::Wrong => {
                    refuse("has no colon; expected `name:hash`, made by `tidegate passwd`".to_owned());
                }
                Line::User { name, hash } => {
                    if let Err(cause) = check_name(name) {
                        refuse(cause.to_owned());
                    } else if let Some(first) = lines.insert(name, line) {
                        refuse(format!("the user {name:?} has a password in line {first} already"));
                    }
                    match Credential::parse(hash) {
                        Ok(credential) => {
                            users.insert(ByteString::from(name), Arc::new(credential));
                        }
                        Err(cause) => refuse(format!("what follows the name {cause}")),
                    }
                }
            }
        }
        if wrong.is_empty() { Ok(Self(users)) } else { Err(wrong) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is a user of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// All names, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|name| &**name)
    }

    pub(super) fn credential(&self, name: &str) -> Option<&Arc<Credential>> {
        self.0.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str =
        "$argon2id$v=19$m=7168,t=5,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    #[test]
    fn a_file_is_read_with_its_comments_and_blank_lines() {
        let users = Users::parse(&format!("# sensors\n\nprobe:{HASH}\r\nWärme 1:{HASH}\n#gone:{HASH}\n")).unwrap();
        let mut names: Vec<_> = users.names().collect();
        names.sort_unstable();
        assert_eq!(names, ["Wärme 1", "probe"]);
        assert!(Users::parse("").unwrap().is_empty());
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once_with_its_line() {
        let text = format!("a:{HASH}\nsecret\na:{HASH}\n:{HASH}\nanonymous:{HASH}\nb:hunter2\n b:{HASH}\n");
        let wrong = Users::parse(&text).unwrap_err();
        let lines: Vec<u32> = wrong.iter().map(|wrong| wrong.line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6, 7]);
        assert!(wrong[1].cause.contains("line 1 already"));
        assert!(wrong.iter().all(|wrong| !wrong.cause.contains("hunter2") && !wrong.cause.contains("secret")));
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in "(\\PC{0,8}[:$\n#]){0,8}") {
            let _ = Users::parse(&text);
        }
    }
}
