//! Topic names, topic filters and topic templates: checked once, then carried as proof.

use std::fmt;

use bytestring::ByteString;
use smallvec::SmallVec;

/// Longest topic name or filter in bytes (MQTT 5, section 1.5.4).
pub const MAX_TOPIC_BYTES: usize = 65_535;

/// A topic name that a message can be published to: not empty, no wildcard, no NUL (MQTT 5, section 4.7.3).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(ByteString);

/// A topic filter that a subscription or a stream can have (MQTT 5, section 4.7.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(ByteString);

/// What is wrong with a topic name, filter or template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Zero characters long.
    #[error("is empty; a topic has at least one character")]
    Empty,
    /// Longer than the protocol can say.
    #[error("is {0} bytes long; a topic has at most 65535")]
    TooLong(usize),
    /// Contains U+0000.
    #[error("contains the NUL character")]
    Nul,
    /// A topic name with `+` or `#`.
    #[error("contains a wildcard (`+` or `#`), which a topic to publish to must not")]
    Wildcard,
    /// `#` elsewhere than alone in the last level.
    #[error("has a `#` that is not alone in the last level (right: `a/#`)")]
    MisplacedHash,
    /// `+` that shares its level with other characters.
    #[error("has a `+` that is not alone in its level (right: `a/+/b`)")]
    MisplacedPlus,
    /// A template with a placeholder that does not exist.
    #[error("has the unknown placeholder `{{{0}}}`; known are {{topic}} {{gateway}} {{client}} {{rest}} {{1}}..{{9}}")]
    UnknownPlaceholder(String),
    /// A template with a brace that has no partner.
    #[error("has a `{{` or `}}` without its partner")]
    UnbalancedBrace,
    /// A template that asks for a `+` the filter does not have.
    #[error("uses {{{wanted}}}, but the filter `{filter}` has only {has} `+`")]
    NoSuchPlus {
        /// The number of the wildcard that was asked for.
        wanted: u8,
        /// The filter without it.
        filter: String,
        /// How many it has.
        has: usize,
    },
    /// A template that uses `{1}`..`{9}` or `{rest}` for a topic that none of the filters matches (any more).
    #[error(
        "cannot be made: no filter of the stream matches `{0}` any more, so the placeholders of its template have no value"
    )]
    NoMatch(String),
    /// A template that uses `{rest}` with a filter that does not end in `#`.
    #[error("uses {{rest}}, but the filter `{0}` does not end in `#`")]
    NoRest(String),
}

impl TopicName {
    /// Checks a topic name.
    pub fn new(name: impl Into<ByteString>) -> Result<Self, TopicError> {
        let name = name.into();
        check_text(&name)?;
        if name.as_bytes().iter().any(|b| matches!(b, b'+' | b'#')) {
            return Err(TopicError::Wildcard);
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as shared bytes.
    pub fn as_bytes(&self) -> &bytes::Bytes {
        self.0.as_bytes()
    }
}

impl TopicFilter {
    /// Checks a topic filter. `$share/...` is not special here: the broker takes that prefix off first.
    pub fn new(filter: impl Into<ByteString>) -> Result<Self, TopicError> {
        let filter = filter.into();
        check_text(&filter)?;
        let mut levels = filter.split('/').peekable();
        while let Some(level) = levels.next() {
            if level.contains('#') && (level.len() > 1 || levels.peek().is_some()) {
                return Err(TopicError::MisplacedHash);
            }
            if level.contains('+') && level.len() > 1 {
                return Err(TopicError::MisplacedPlus);
            }
        }
        Ok(Self(filter))
    }

    /// The filter as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a topic name matches (MQTT 5, section 4.7): `+` is one level, `#` is the level itself and all below,
    /// and neither matches a first level that begins with `$`.
    pub fn matches(&self, topic: &TopicName) -> bool {
        match_levels(&self.0, &topic.0, |_| {})
    }

    /// Like [`TopicFilter::matches`], and says what each wildcard stood for.
    pub fn captures<'t>(&self, topic: &'t TopicName) -> Option<Captures<'t>> {
        let mut captures = Captures::default();
        let matched = match_levels(&self.0, &topic.0, |wildcard| match wildcard {
            Wildcard::Plus(level) => captures.plus.push(level),
            Wildcard::Hash(rest) => captures.rest = rest,
        });
        matched.then_some(captures)
    }

    fn plus_count(&self) -> usize {
        self.0.split('/').filter(|level| *level == "+").count()
    }

    fn ends_in_hash(&self) -> bool {
        self.0.ends_with('#')
    }
}

/// What the wildcards of a filter stood for in one topic.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Captures<'t> {
    plus: SmallVec<[&'t str; 4]>,
    rest: &'t str,
}

enum Wildcard<'t> {
    Plus(&'t str),
    Hash(&'t str),
}

fn match_levels<'t>(filter: &str, topic: &'t str, mut capture: impl FnMut(Wildcard<'t>)) -> bool {
    if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false;
    }
    let mut rest = Some(topic);
    for level in filter.split('/') {
        if level == "#" {
            capture(Wildcard::Hash(rest.unwrap_or("")));
            return true;
        }
        let Some(remaining) = rest else { return false };
        let (head, tail) = match remaining.split_once('/') {
            Some((head, tail)) => (head, Some(tail)),
            None => (remaining, None),
        };
        if level == "+" {
            capture(Wildcard::Plus(head));
        } else if level != head {
            return false;
        }
        rest = tail;
    }
    rest.is_none()
}

fn check_text(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > MAX_TOPIC_BYTES {
        return Err(TopicError::TooLong(text.len()));
    }
    if text.as_bytes().contains(&0) {
        return Err(TopicError::Nul);
    }
    Ok(())
}

/// The topic under which a stream's messages go upstream, with placeholders (contract, section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Topic,
    Client,
    Plus(u8),
    Rest,
}

impl TopicTemplate {
    /// Reads a template and fills in `{gateway}` at once, for it never changes while the gateway runs.
    pub fn parse(template: &str, gateway: &str) -> Result<Self, TopicError> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let inner = rest[at..].strip_prefix('{').ok_or(TopicError::UnbalancedBrace)?;
            let (name, tail) = inner.split_once('}').ok_or(TopicError::UnbalancedBrace)?;
            rest = tail;
            if name == "gateway" {
                text.push_str(gateway);
                continue;
            }
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(Part::placeholder(name)?);
        }
        text.push_str(rest);
        check_literal(&text)?;
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        for part in &parts {
            if let Part::Text(text) = part {
                check_literal(text)?;
            }
        }
        if parts.is_empty() { Err(TopicError::Empty) } else { Ok(Self { parts }) }
    }

    /// The template that changes nothing: `{topic}`.
    pub fn identity() -> Self {
        Self { parts: vec![Part::Topic] }
    }

    /// Checks that every wildcard the template uses is there in each of the filters.
    pub fn check_against(&self, filters: &[TopicFilter]) -> Result<(), TopicError> {
        for filter in filters {
            let has = filter.plus_count();
            for part in &self.parts {
                match part {
                    Part::Plus(wanted) if usize::from(*wanted) > has => {
                        return Err(TopicError::NoSuchPlus { wanted: *wanted, filter: filter.to_string(), has });
                    }
                    Part::Rest if !filter.ends_in_hash() => return Err(TopicError::NoRest(filter.to_string())),
                    Part::Text(_) | Part::Topic | Part::Client | Part::Plus(_) | Part::Rest => {}
                }
            }
        }
        Ok(())
    }

    /// Whether the template is `{topic}` alone, so that the topic can go upstream as it is.
    pub fn is_identity(&self) -> bool {
        self.parts == [Part::Topic]
    }

    /// Writes the topic for one message, which one of `filters` took.
    ///
    /// The filters may have changed since: a template that needs none of their wildcards is written all the same, any other
    /// is an error, for a topic with something left out would be a wrong one.
    /// The result can still be no valid topic (a client id with a `#` in it, or too long), so it is checked again.
    pub fn render(&self, topic: &TopicName, filters: &[TopicFilter], client: &str) -> Result<TopicName, TopicError> {
        if self.is_identity() {
            return Ok(topic.clone());
        }
        let captures = filters.iter().find_map(|filter| filter.captures(topic));
        if captures.is_none() && self.parts.iter().any(|part| matches!(part, Part::Plus(_) | Part::Rest)) {
            return Err(TopicError::NoMatch(topic.to_string()));
        }
        let captures = captures.unwrap_or_default();
        let mut out = String::with_capacity(topic.as_str().len() + 32);
        for part in &self.parts {
            out.push_str(match part {
                Part::Text(text) => text,
                Part::Topic => topic.as_str(),
                Part::Client => client,
                Part::Plus(number) => captures.plus.get(usize::from(*number) - 1).copied().unwrap_or(""),
                Part::Rest => captures.rest,
            });
        }
        TopicName::new(out)
    }
}

impl Part {
    fn placeholder(name: &str) -> Result<Self, TopicError> {
        Ok(match name {
            "topic" => Self::Topic,
            "client" => Self::Client,
            "rest" => Self::Rest,
            _ => match name.as_bytes() {
                [digit @ b'1'..=b'9'] => Self::Plus(digit - b'0'),
                _ => return Err(TopicError::UnknownPlaceholder(name.to_owned())),
            },
        })
    }
}

fn check_literal(text: &str) -> Result<(), TopicError> {
    if text.contains(['+', '#']) {
        return Err(TopicError::Wildcard);
    }
    if text.contains('\0') {
        return Err(TopicError::Nul);
    }
    Ok(())
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    #[test]
    fn filters_match_as_the_specification_says() {
        // The examples of MQTT 5, sections 4.7.1 to 4.7.3.
        let table = [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("#", "sport/tennis", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/x", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("a/b", "A/b", false),
            ("a/#", "ab", false),
        ];
        for (pattern, topic, expected) in table {
            assert_eq!(filter(pattern).matches(&name(topic)), expected, "{pattern} on {topic}");
        }
    }

    #[test]
    fn wrong_filters_and_names_are_refused_with_the_reason() {
        assert_eq!(TopicFilter::new("sport/tennis#"), Err(TopicError::MisplacedHash));
        assert_eq!(TopicFilter::new("sport/#/ranking"), Err(TopicError::MisplacedHash));
        assert_eq!(TopicFilter::new("sport+"), Err(TopicError::MisplacedPlus));
        assert_eq!(TopicFilter::new(""), Err(TopicError::Empty));
        assert_eq!(TopicName::new("a/+"), Err(TopicError::Wildcard));
        assert_eq!(TopicName::new("a\0"), Err(TopicError::Nul));
        assert_eq!(TopicName::new("x".repeat(65_536)), Err(TopicError::TooLong(65_536)));
        assert!(TopicName::new("x".repeat(65_535)).is_ok());
    }

    fn render(template: &str, pattern: &str, topic: &str) -> String {
        let template = TopicTemplate::parse(template, "plant-7").unwrap();
        template.check_against(&[filter(pattern)]).unwrap();
        template.render(&name(topic), &[filter(pattern)], "probe").unwrap().to_string()
    }

    #[test]
    fn templates_fill_in_every_placeholder() {
        assert_eq!(render("plants/{gateway}/{topic}", "sensors/#", "sensors/a/b"), "plants/plant-7/sensors/a/b");
        assert_eq!(render("{2}/{1}/{client}", "s/+/x/+", "s/one/x/two"), "two/one/probe");
        assert_eq!(render("up/{rest}", "sensors/#", "sensors/a/b"), "up/a/b");
        assert_eq!(render("up/{1}{rest}", "+/#", "sensors"), "up/sensors");
        assert_eq!(render("{topic}", "#", "a"), "a");
    }

    #[test]
    fn wrong_templates_are_refused_with_the_reason() {
        let parse = |text| TopicTemplate::parse(text, "gw");
        assert_eq!(parse("{topci}"), Err(TopicError::UnknownPlaceholder("topci".into())));
        assert_eq!(parse("a/{topic"), Err(TopicError::UnbalancedBrace));
        assert_eq!(parse("a}/b"), Err(TopicError::UnbalancedBrace));
        assert_eq!(parse("a/#"), Err(TopicError::Wildcard));
        assert_eq!(parse("+/{topic}"), Err(TopicError::Wildcard));
        assert_eq!(parse(""), Err(TopicError::Empty));
        assert!(matches!(
            parse("{2}").unwrap().check_against(&[filter("a/+")]),
            Err(TopicError::NoSuchPlus { wanted: 2, has: 1, .. })
        ));
        assert_eq!(parse("{rest}").unwrap().check_against(&[filter("a/+")]), Err(TopicError::NoRest("a/+".into())));
    }

    proptest! {
        #[test]
        fn a_topic_matches_itself_hash_and_its_pluses(levels in proptest::collection::vec("[a-c]{0,2}", 1..6), plus in any::<u8>()) {
            let topic = levels.join("/");
            prop_assume!(!topic.is_empty());
            let topic = name(&topic);
            prop_assert!(filter(topic.as_str()).matches(&topic));
            prop_assert!(filter("#").matches(&topic));
            let pattern: Vec<&str> = levels.iter().enumerate()
                .map(|(i, level)| if plus & (1 << i) != 0 { "+" } else { level.as_str() }).collect();
            let pattern = pattern.join("/");
            prop_assume!(!pattern.is_empty());
            prop_assert!(filter(&pattern).matches(&topic));
        }

        #[test]
        fn identity_templates_change_nothing(topic in "[a-z/]{1,20}") {
            let topic = name(&topic);
            prop_assert_eq!(TopicTemplate::identity().render(&topic, &[filter("#")], "c").unwrap(), topic);
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "\\PC{0,20}") {
            let _ = TopicTemplate::parse(&text, "gw");
            let _ = TopicFilter::new(text.as_str());
            let _ = TopicName::new(text.as_str());
        }
    }
}
