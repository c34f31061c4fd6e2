//! Access rules: who may publish and subscribe what. Pure.
//!
//! Rules are tried in order, the first that matches decides, and where none matches the answer is no (contract, section 3.1).
//! [`Rules::rights_of`] picks the rules of one client once, fills in its names, and leaves [`Rights`]: a short list that is
//! asked for every message. 1000 rules of which three concern a client cost it three comparisons.
//!
//! **Names never widen a rule.** A client id is what a client says it is, so `%c` and `%u` are filled in only with names that
//! stay within their level: not empty, no `+`, `#` or `/`, and no `$` at the beginning of the topic (CVE-2017-7650 of
//! Mosquitto was exactly that). With any other name a rule that allows does not apply, and one that denies denies everything
//! from the level on in which the name would stand.
//!
//! **Subscriptions.** A filter is granted when it could bring anything at all: when it has topics in common with a rule that
//! allows, and no earlier rule denies all of those. What it brings is decided for every message: `#` under the rule
//! `sensors/#` is granted and brings `sensors/...`, as with Mosquitto; `alarms/#` is refused, rather than silently bringing
//! nothing for ever.

use std::fmt;

use bytestring::ByteString;

use super::scope::{common, covers};
use crate::topic::{TopicError, TopicFilter, TopicName};

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Nobody knows.
    Anonymous,
    /// Somebody who gave this user's password.
    User(ByteString),
    /// The owner of a certificate with this name in it.
    Certificate(ByteString),
}

/// Whom a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Every client, anonymous ones too.
    Everybody,
    /// These alone.
    Only(Principal),
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Allow,
    /// No.
    Deny,
}

/// What a client may want to do with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Publish a message to it; wills too.
    Publish,
    /// Get its messages.
    Subscribe,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whom it is for.
    pub who: Who,
    /// What it says ...
    pub verdict: Verdict,
    /// ... of publishing ...
    pub publish: bool,
    /// ... and of subscribing ...
    pub subscribe: bool,
    /// ... to these topics.
    pub topic: TopicPattern,
}

/// A topic filter with `%c` (client id) and `%u` (user name) in it, or without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPattern {
    text: String,
    /// The filter, where there is nothing to fill in.
    plain: Option<TopicFilter>,
}

/// All rules, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules(Vec<Rule>);

/// What one client may.
#[derive(Debug, Default)]
pub(crate) struct Rights(Vec<Grant>);

/// A rule that is for this client, its names filled in.
#[derive(Debug)]
struct Grant {
    verdict: Verdict,
    publish: bool,
    subscribe: bool,
    scope: Scope,
}

#[derive(Debug)]
enum Scope {
    Filter(TopicFilter),
    /// Everything there is, topics that begin with `$` too; only for rules that deny.
    Everything,
}

impl Principal {
    /// What stands for `%u`; `None` for anonymous clients.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Anonymous => None,
            Self::User(name) | Self::Certificate(name) => Some(name),
        }
    }
}

impl fmt::Display for Principal {
    /// As `user = "..."` of a rule says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::User(name) => f.write_str(name),
            Self::Certificate(name) => write!(f, "cert:{name}"),
        }
    }
}

impl TopicPattern {
    /// Checks a pattern; what will be filled in cannot make it wrong.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        let (filled, has_placeholder) = match fill_in(text, |_| Some("x")) {
            Some(filled) => (filled.text, filled.placeholders > 0),
            None => (text.to_owned(), false),
        };
        let filter = TopicFilter::new(filled)?;
        Ok(Self { text: text.to_owned(), plain: (!has_placeholder).then_some(filter) })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `%c` or `%u` is in it.
    pub fn has_placeholder(&self) -> bool {
        self.plain.is_none()
    }

    /// Where the rule applies to a client; `None` where it does not.
    fn scope(&self, verdict: Verdict, principal: &Principal, client_id: &str) -> Option<Scope> {
        if let Some(filter) = &self.plain {
            return Some(Scope::Filter(filter.clone()));
        }
        let name = |placeholder: Placeholder| match placeholder.kind {
            'c' => Some(client_id).filter(|name| stays_in_its_level(name, placeholder)),
            _ => principal.name().filter(|name| stays_in_its_level(name, placeholder)),
        };
        let filled = fill_in(&self.text, name).and_then(|filled| TopicFilter::new(filled.text).ok());
        match (filled, verdict) {
            (Some(filter), _) => Some(Scope::Filter(filter)),
            (None, Verdict::Allow) => None,
            (None, Verdict::Deny) => Some(self.whole_branch()),
        }
    }

    /// Everything from the level of the first placeholder on.
    fn whole_branch(&self) -> Scope {
        let first = self.text.match_indices('%').find(|(at, _)| self.text[at + 1..].starts_with(['c', 'u']));
        let before = first.and_then(|(at, _)| self.text[..at].rfind('/'));
        let filter = before.and_then(|slash| TopicFilter::new(format!("{}/#", &self.text[..slash])).ok());
        filter.map_or(Scope::Everything, Scope::Filter)
    }
}

#[derive(Debug, Clone, Copy)]
struct Placeholder {
    /// `c` or `u`.
    kind: char,
    /// Nothing stands before it.
    is_first: bool,
}

struct Filled {
    text: String,
    placeholders: usize,
}

/// Replaces placeholders in one pass, so that a name which looks like a placeholder stays a name; `None` where `name` has none.
fn fill_in<'n>(text: &str, name: impl Fn(Placeholder) -> Option<&'n str>) -> Option<Filled> {
    let mut filled = Filled { text: String::with_capacity(text.len() + 16), placeholders: 0 };
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        filled.text.push_str(&rest[..at]);
        let kind = rest[at + 1..].chars().next().filter(|kind| matches!(kind, 'c' | 'u'));
        if let Some(kind) = kind {
            filled.text.push_str(name(Placeholder { kind, is_first: filled.text.is_empty() })?);
            filled.placeholders += 1;
            rest = &rest[at + 2..];
        } else {
            filled.text.push('%');
            rest = &rest[at + 1..];
        }
    }
    filled.text.push_str(rest);
    Some(filled)
}

fn stays_in_its_level(name: &str, placeholder: Placeholder) -> bool {
    let is_special = placeholder.is_first && name.starts_with('$');
    !(name.is_empty() || is_special || name.contains(['+', '#', '/', '\0']))
}

impl Rules {
    /// Rules in the order in which they are tried.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none, so that nobody may anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything that concerns one client.
    pub(crate) fn rights_of(&self, principal: &Principal, client_id: &str) -> Rights {
        let concerns = |rule: &&Rule| match &rule.who {
            Who::Everybody => true,
            Who::Only(only) => only == principal,
        };
        let grant = |rule: &Rule| {
            let scope = rule.topic.scope(rule.verdict, principal, client_id)?;
            Some(Grant { verdict: rule.verdict, publish: rule.publish, subscribe: rule.subscribe, scope })
        };
        Rights(self.0.iter().filter(concerns).filter_map(grant).collect())
    }

    /// Whether a rule that would be for this client cannot be filled in with its names.
    pub(crate) fn has_unfit_names(&self, principal: &Principal, client_id: &str) -> bool {
        let unfit = |rule: &Rule| {
            let concerns = rule.who == Who::Everybody || rule.who == Who::Only(principal.clone());
            // Anonymous clients have no user name, which surprises nobody.
            let by_name = rule.topic.text.contains("%c") || *principal != Principal::Anonymous;
            concerns && by_name && rule.topic.scope(Verdict::Allow, principal, client_id).is_none()
        };
        self.0.iter().any(unfit)
    }

    /// The place of the first rule before `at` that leaves nothing for the rule at `at` to decide.
    pub fn overruled_by(&self, at: usize) -> Option<usize> {
        let rule = &self.0[at];
        let filter = rule.topic.plain.as_ref()?;
        self.0[..at].iter().position(|earlier| {
            (earlier.who == Who::Everybody || earlier.who == rule.who)
                && earlier.publish >= rule.publish
                && earlier.subscribe >= rule.subscribe
                && earlier.topic.plain.as_ref().is_some_and(|whole| covers(whole, filter))
        })
    }
}

impl Rights {
    /// Whether the client may do this with this topic.
    pub(crate) fn may(&self, action: Action, topic: &TopicName) -> bool {
        let decides = |grant: &&Grant| grant.is_about(action) && grant.scope.matches(topic);
        self.0.iter().find(decides).is_some_and(|grant| grant.verdict == Verdict::Allow)
    }

    /// Whether a subscription could bring anything.
    pub(crate) fn may_subscribe(&self, filter: &TopicFilter) -> bool {
        let about: Vec<&Grant> = self.0.iter().filter(|grant| grant.is_about(Action::Subscribe)).collect();
        about.iter().enumerate().filter(|(_, grant)| grant.verdict == Verdict::Allow).any(|(at, grant)| {
            let Scope::Filter(allowed) = &grant.scope else { return false };
            let denied = |both: &TopicFilter| {
                about[..at].iter().any(|earlier| earlier.verdict == Verdict::Deny && earlier.scope.covers(both))
            };
            common(allowed, filter).is_some_and(|both| !denied(&both))
        })
    }
}

impl Grant {
    fn is_about(&self, action: Action) -> bool {
        match action {
            Action::Publish => self.publish,
            Action::Subscribe => self.subscribe,
        }
    }
}

impl Scope {
    fn matches(&self, topic: &TopicName) -> bool {
        match self {
            Self::Filter(filter) => filter.matches(topic),
            Self::Everything => true,
        }
    }

    fn covers(&self, part: &TopicFilter) -> bool {
        match self {
            Self::Filter(whole) => covers(whole, part),
            Self::Everything => true,
        }
    }
}

#[cfg(test)]
mod tests;
