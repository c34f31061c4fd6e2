//! Texts for TOML files.

use std::fmt::Write as _;

/// A TOML string.
pub(super) fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A list of TOML strings.
pub(super) fn list<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = texts.into_iter().map(|it| text(it.as_ref())).collect();
    format!("[{}]", texts.join(", "))
}

/// What may stand in a comment: one line, no control characters.
pub(super) fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A name for one of our sections, made of any text.
pub(super) fn name(text: &str, taken: &[String]) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' };
    let base: String = text.chars().map(fits).take(56).collect();
    let base = if base.is_empty() { "unnamed".to_owned() } else { base };
    let numbered = (2..).map(|number| format!("{base}-{number}"));
    let free = |name: &String| !taken.contains(name);
    std::iter::once(base.clone()).chain(numbered).find(free).unwrap_or(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_as_they_were() {
        for original in ["plain", "a\"b\\c", "tab\tbell\u{7}del\u{7f}", "Süd 温度 \u{9b}"] {
            let document = format!("x = {}\ny = {}\n", text(original), list([original]));
            let table: toml::Table = toml::from_str(&document).unwrap();
            assert_eq!((table["x"].as_str(), table["y"][0].as_str()), (Some(original), Some(original)));
        }
    }

    #[test]
    fn names_fit_and_differ() {
        assert_eq!(name("bridge to:the cloud", &[]), "bridge-to-the-cloud");
        assert_eq!(name("a", &["a".to_owned(), "a-2".to_owned()]), "a-3");
        assert_eq!(name("", &[]), "unnamed");
        assert_eq!(name(&"x".repeat(100), &[]).len(), 56);
    }
}
