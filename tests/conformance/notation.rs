//! Bytes as text, so that a packet reads like its figure in the specification.
//!
//! | written | means |
//! | --- | --- |
//! | `1A 0005` | bytes in hexadecimal digits |
//! | `=a/b` | a string: two bytes of length, then the text |
//! | `'a/b'` | the text alone |
//! | `=x*300`, `'x'*300` | the same with the text 300 times |
//! | `( ... )` | what is inside, after its length as a variable byte integer: a packet's rest, properties |
//! | `_` | any byte (expected bytes only) |
//! | `...` | anything until the packet ends (expected bytes only) |
//!
//! A text ends at a blank or a parenthesis; `~` in it stands for a blank.

/// One expected byte; `None` is any.
type Pattern = Vec<Option<u8>>;

/// What was expected.
#[derive(Debug)]
pub(crate) struct Expected {
    bytes: Pattern,
    /// Whether more may follow.
    open: bool,
}

impl Expected {
    pub(crate) fn read(text: &str) -> Self {
        let (text, open) = text.trim().strip_suffix("...").map_or((text, false), |text| (text, true));
        Self { bytes: pattern(text), open }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn matches(&self, found: &[u8]) -> bool {
        let fits = |(expected, found): (&Option<u8>, &u8)| expected.is_none_or(|expected| expected == *found);
        let length = if self.open { found.len() >= self.len() } else { found.len() == self.len() };
        length && self.bytes.iter().zip(found).all(fits)
    }
}

/// Bytes to be sent.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    pattern(text).into_iter().map(|byte| byte.expect("bytes to be sent are known")).collect()
}

fn pattern(text: &str) -> Pattern {
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let mut groups: Vec<Pattern> = vec![Vec::new()];
    for word in spaced.split_whitespace() {
        match word {
            "(" => groups.push(Vec::new()),
            ")" => {
                let group = groups.pop().expect("parentheses match");
                let out = groups.last_mut().expect("parentheses match");
                out.extend(varint(group.len()).into_iter().map(Some));
                out.extend(group);
            }
            _ => groups.last_mut().expect("parentheses match").extend(element(word)),
        }
    }
    assert_eq!(groups.len(), 1, "parentheses match in {text}");
    groups.remove(0)
}

fn element(word: &str) -> Pattern {
    if word == "_" {
        return vec![None];
    }
    if let Some(text) = word.strip_prefix('=') {
        let text = repeated(text);
        let len = u16::try_from(text.len()).expect("a string has at most 65 535 bytes");
        return len.to_be_bytes().into_iter().chain(text).map(Some).collect();
    }
    if word.starts_with('\'') {
        return repeated(word).into_iter().map(Some).collect();
    }
    assert!(word.len().is_multiple_of(2), "an odd number of hexadecimal digits: {word}");
    let digits: Vec<_> = word.chars().collect();
    let byte = |pair: &[char]| {
        u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap_or_else(|_| panic!("not hexadecimal: {word}"))
    };
    digits.chunks(2).map(|pair| Some(byte(pair))).collect()
}

/// `x`, `'x'`, `x*3`, `'x'*3`.
fn repeated(word: &str) -> Vec<u8> {
    let (text, times) = match word.rsplit_once('*').map(|(text, times)| (text, times.parse::<usize>())) {
        Some((text, Ok(times))) => (text, times),
        _ => (word, 1),
    };
    text.trim_matches('\'').replace('~', " ").repeat(times).into_bytes()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7F).unwrap();
        value >>= 7;
        out.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return out;
        }
    }
}

#[test]
fn bytes_read_as_they_are_written() {
    assert_eq!(bytes("30 (=a/b () 'x~y')"), b"\x30\x09\0\x03a/b\0x y");
    assert_eq!(bytes("=a*3 'x'*2 ('y'*130)").len(), 5 + 2 + 132);
    assert_eq!(bytes("('x'*200)")[..2], [0xC8, 0x01]);
    assert!(Expected::read("20 _ 00 ...").matches(&[0x20, 9, 0, 1]));
    assert!(!Expected::read("20 _ 00").matches(&[0x20, 9, 0, 1]));
    assert!(!Expected::read("20 00").matches(&[0x20]));
}
