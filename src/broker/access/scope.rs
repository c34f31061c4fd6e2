//! What topic filters have to do with each other: what two have in common, and whether one takes in the other. Pure.
//!
//! Both are exact, because the topics that two filters have in common are again those of one filter (or none): level by level
//! a name goes before `+`, and `#` gives way to whatever the other filter has there.

use crate::topic::TopicFilter;

/// The filter of the topics that both filters match; `None` where no topic matches both.
pub(super) fn common(one: &TopicFilter, other: &TopicFilter) -> Option<TopicFilter> {
    if begins_with_wildcard(one) && is_dollar(other) || begins_with_wildcard(other) && is_dollar(one) {
        return None;
    }
    let (mut ones, mut others) = (one.as_str().split('/'), other.as_str().split('/'));
    let mut levels: Vec<&str> = Vec::new();
    loop {
        match (ones.next(), others.next()) {
            (Some("#"), rest) => {
                levels.extend(rest.into_iter().chain(others));
                break;
            }
            (rest, Some("#")) => {
                levels.extend(rest.into_iter().chain(ones));
                break;
            }
            (None, None) => break,
            (Some("+"), Some(level)) => levels.push(level),
            (Some(level), Some(other)) if other == "+" || other == level => levels.push(level),
            (Some(_) | None, Some(_)) | (Some(_), None) => return None,
        }
    }
    TopicFilter::new(levels.join("/")).ok()
}

/// Whether `whole` matches every topic that `part` matches.
pub(super) fn covers(whole: &TopicFilter, part: &TopicFilter) -> bool {
    if begins_with_wildcard(whole) && is_dollar(part) {
        return false;
    }
    let (mut wholes, mut parts) = (whole.as_str().split('/'), part.as_str().split('/'));
    loop {
        match (wholes.next(), parts.next()) {
            (Some("#"), _) | (None, None) => return true,
            (_, Some("#")) | (None, Some(_)) | (Some(_), None) => return false,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(part)) if level == part => {}
            (Some(_), Some(_)) => return false,
        }
    }
}

/// A wildcard in the first level matches no topic that begins with `$` (MQTT 5, section 4.7.2).
fn begins_with_wildcard(filter: &TopicFilter) -> bool {
    filter.as_str().starts_with(['+', '#'])
}

fn is_dollar(filter: &TopicFilter) -> bool {
    filter.as_str().starts_with('$')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;
    use proptest::prelude::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    #[test]
    fn what_two_filters_have_in_common() {
        let table = [
            ("#", "sensors/#", Some("sensors/#")),
            ("a/#", "a", Some("a")),
            ("a/#", "a/+", Some("a/+")),
            ("+/b", "a/+", Some("a/b")),
            ("+/b/#", "a/+/c", Some("a/b/c")),
            ("a/b", "a/c", None),
            ("a", "a/b", None),
            ("#", "$SYS/x", None),
            ("+/x", "$SYS/x", None),
            ("$SYS/#", "$SYS/+", Some("$SYS/+")),
            ("a/#", "a/#", Some("a/#")),
        ];
        for (one, other, expected) in table {
            for (one, other) in [(one, other), (other, one)] {
                assert_eq!(common(&filter(one), &filter(other)), expected.map(filter), "{one} and {other}");
            }
        }
    }

    /// Every topic of up to three levels over a small alphabet.
    fn topics() -> Vec<TopicName> {
        let level = ["", "a", "b", "$x"];
        let mut topics: Vec<String> = level.iter().map(ToString::to_string).collect();
        for _ in 0..2 {
            let longer: Vec<String> =
                topics.iter().flat_map(|topic| level.iter().map(move |level| format!("{topic}/{level}"))).collect();
            topics.extend(longer);
        }
        topics.into_iter().filter_map(|topic| TopicName::new(topic).ok()).collect()
    }

    proptest! {
        #[test]
        fn common_and_covers_say_what_matching_says(
            one in "(\\$x|[ab+])?(/[ab+]?){0,2}(/#)?|#", other in "(\\$x|[ab+])?(/[ab+]?){0,2}(/#)?|#",
        ) {
            let (Ok(one), Ok(other)) = (TopicFilter::new(one), TopicFilter::new(other)) else { return Ok(()) };
            let both = common(&one, &other);
            let covered = covers(&one, &other);
            for topic in topics() {
                let expected = one.matches(&topic) && other.matches(&topic);
                prop_assert_eq!(both.as_ref().is_some_and(|both| both.matches(&topic)), expected, "{}", topic);
                prop_assert!(!covered || !other.matches(&topic) || one.matches(&topic), "{}", topic);
            }
            prop_assert_eq!(covered, both.as_ref() == Some(&other), "what is covered is all in common");
        }
    }
}
