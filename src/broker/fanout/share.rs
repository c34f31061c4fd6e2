//! Shared subscriptions (MQTT 5, section 4.8.2): `$share/{name}/{filter}`, one member per message. Pure.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytestring::ByteString;

use crate::topic::{TopicError, TopicFilter};

const PREFIX: &str = "$share/";
/// Members that are asked before the best of them gets the message; groups of clients that are all away can be huge.
const ASKED_MAX: usize = 64;

/// Whether a filter, as the client wrote it, is that of a shared subscription.
pub(crate) fn is_shared(filter: &TopicFilter) -> bool {
    filter.as_str().starts_with(PREFIX)
}

/// Takes the share name off: the filter that topics are matched with, or the whole filter where it is not shared.
pub(crate) fn bare(filter: &TopicFilter) -> TopicFilter {
    let shared = filter.as_str().strip_prefix(PREFIX).and_then(|rest| rest.split_once('/'));
    let bare = shared.and_then(|(_, bare)| TopicFilter::new(bare).ok());
    bare.unwrap_or_else(|| filter.clone())
}

/// Checks a filter as a client wrote it. Errors with `None` where only the share is wrong: the name is empty or holds a
/// wildcard, or no filter follows [MQTT-4.8.2-1] [MQTT-4.8.2-2].
pub(crate) fn check(filter: ByteString) -> Result<TopicFilter, Option<TopicError>> {
    if let Some(rest) = filter.strip_prefix(PREFIX) {
        let (name, bare) = rest.split_once('/').ok_or(None)?;
        if name.is_empty() || name.contains(['+', '#']) || TopicFilter::new(bare).is_err() {
            return Err(None);
        }
    } else if *filter == *"$share" {
        return Err(None);
    }
    TopicFilter::new(filter).map_err(Some)
}

/// How willing a member is to take a message; the lowest takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Readiness {
    /// Connected, and it could be sent at once.
    Ready,
    /// Connected, and it can wait there.
    Busy,
    /// Its queue outlives the connection.
    Keeps,
    /// Connected, and it would be dropped.
    Full,
    /// Nobody there.
    Absent,
}

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turns(AtomicUsize);

impl Turns {
    /// The member who takes the next message: the most willing, and of those in turn. `None` where nobody is there.
    pub(super) fn choose<T>(&self, members: &[T], readiness: impl Fn(&T) -> Readiness) -> Option<usize> {
        let len = members.len();
        if len == 0 {
            return None;
        }
        let first = self.0.load(Ordering::Relaxed) % len;
        let mut best: Option<(Readiness, usize)> = None;
        for (count, at) in (first..len).chain(0..first).enumerate() {
            if count >= ASKED_MAX && best.is_some() {
                break;
            }
            let found = readiness(&members[at]);
            if found != Readiness::Absent && best.is_none_or(|(readiness, _)| found < readiness) {
                best = Some((found, at));
                if found == Readiness::Ready {
                    break;
                }
            }
        }
        let (_, at) = best?;
        self.0.store(at + 1, Ordering::Relaxed);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn share_names_are_checked_and_taken_off() {
        for (text, found) in
            [("$share/g/a/+", Some("a/+")), ("$share/g//", Some("/")), ("$share/g/#", Some("#")), ("a/b", Some("a/b"))]
        {
            let filter = check(text.into()).ok();
            assert_eq!(filter.as_ref().map(bare), found.map(|bare| TopicFilter::new(bare).unwrap()), "{text}");
            assert_eq!(filter.is_some_and(|filter| is_shared(&filter)), text != "a/b");
        }
        for wrong in
            ["$share", "$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/g#/a", "$share/g/a#"]
        {
            assert_eq!(check(wrong.into()), Err(None), "{wrong}");
        }
        assert_eq!(check("".into()), Err(Some(TopicError::Empty)));
    }

    fn any_readiness() -> impl Strategy<Value = Readiness> {
        prop_oneof![
            Just(Readiness::Ready),
            Just(Readiness::Busy),
            Just(Readiness::Keeps),
            Just(Readiness::Full),
            Just(Readiness::Absent)
        ]
    }

    proptest! {
        #[test]
        fn the_most_willing_member_is_chosen_and_equals_in_turn(
            members in proptest::collection::vec(any_readiness(), 0..8),
            rounds in 1..4usize,
        ) {
            let turns = Turns::default();
            let best = members.iter().copied().filter(|found| *found != Readiness::Absent).min();
            let Some(best) = best else {
                prop_assert_eq!(turns.choose(&members, |found| *found), None);
                return Ok(());
            };
            let equals = members.iter().filter(|found| **found == best).count();
            let mut counts = vec![0; members.len()];
            for _ in 0..rounds * equals {
                counts[turns.choose(&members, |found| *found).unwrap()] += 1;
            }
            for (count, found) in counts.iter().zip(&members) {
                prop_assert_eq!(*count, if *found == best { rounds } else { 0 });
            }
        }
    }
}
