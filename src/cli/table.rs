//! Plain tables for terminals and pipes, as wide as those are.

use super::terminal::{Tone, columns};

/// Shortest to which a cell is cut.
const CELL_MIN: usize = 8;

/// Blanks between columns.
const GAP: usize = 2;

/// What stands in one place of a table.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, tone: Tone::Plain }
    }
}

impl Tone {
    /// A cell of this tone.
    pub(super) fn cell(self, text: String) -> Cell {
        Cell { text, tone: self }
    }
}

/// Lays out rows under a header: columns as wide as their widest cell, two spaces between, no trailing spaces. Where that is wider than the
/// terminal (80 columns for a pipe), the cells of `names` lose their middles, the longest first; figures are never cut.
pub(super) fn layout<const COLUMNS: usize, C: Into<Cell> + Clone>(
    header: [&str; COLUMNS],
    rows: &[[C; COLUMNS]],
    names: &[usize],
) -> String {
    fit(header, rows, names, columns())
}

fn fit<const COLUMNS: usize, C: Into<Cell> + Clone>(
    header: [&str; COLUMNS],
    rows: &[[C; COLUMNS]],
    names: &[usize],
    most: usize,
) -> String {
    let header = header.map(|text| Cell::from(text.to_owned()));
    let rows: Vec<[Cell; COLUMNS]> = rows.iter().map(|row| row.clone().map(Into::into)).collect();
    let rows: Vec<&[Cell; COLUMNS]> = std::iter::once(&header).chain(&rows).collect();
    let width = |column: usize| rows.iter().map(|row| length(&row[column].text)).max().unwrap_or_default();
    let mut widths: [usize; COLUMNS] = std::array::from_fn(width);
    let least = |column: usize| CELL_MIN.max(length(&header[column].text));
    while widths.iter().sum::<usize>() + GAP * COLUMNS.saturating_sub(1) > most {
        let widest = names.iter().copied().filter(|&name| widths[name] > least(name)).max_by_key(|&name| widths[name]);
        let Some(widest) = widest else { break };
        widths[widest] -= 1;
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        let mut blanks = 0;
        for (cell, width) in row.iter().zip(widths) {
            let text = shortened(&cell.text, width);
            if !text.is_empty() {
                line.extend(std::iter::repeat_n(' ', blanks));
                line.push_str(&cell.tone.paint(&text));
                blanks = 0;
            }
            blanks += width - length(&text) + GAP;
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// A text without its middle where it is longer than so many characters: beginning and end tell names apart.
pub(super) fn shortened(text: &str, most: usize) -> String {
    let count = length(text);
    if count <= most {
        return text.to_owned();
    }
    let tail = most.saturating_sub(1) / 2;
    let head = most.saturating_sub(1) - tail;
    text.chars().take(head).chain(std::iter::once('…')).chain(text.chars().skip(count - tail)).collect()
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// A text in lines of so many characters at most, broken at blanks where there are some, each with `indent` before it but the first.
pub(super) fn wrapped(text: &str, most: usize, indent: &str) -> String {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is always a line");
        if last.is_empty() {
            last.push_str(word);
        } else if length(last) + 1 + length(word) <= most {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
        while let Some(rest) = lines.last_mut().and_then(|last| {
            let cut = last.char_indices().nth(most).map(|(at, _)| at)?;
            Some(last.split_off(cut))
        }) {
            lines.push(rest);
        }
    }
    lines.join(&format!("\n{indent}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), "1".to_owned()], ["long".to_owned(), String::new()]];
        assert_eq!(fit(["NAME", "N"], &rows, &[], 80), "NAME  N\na     1\nlong\n");
        assert_eq!(fit::<2, String>(["NAME", "N"], &[], &[], 80), "NAME  N\n");
    }

    #[test]
    fn long_names_lose_their_middles_and_figures_nothing() {
        let rows = [["a-very-long-name-of-a-stream".to_owned(), "1234567890".to_owned(), "other".to_owned()]];
        let table = fit(["NAME", "N", "TO"], &rows, &[0, 2], 32);
        assert_eq!(table, "NAME           N           TO\na-very…stream  1234567890  other\n");
        let narrow = fit(["NAME", "N", "TO"], &rows, &[0, 2], 10);
        assert!(narrow.contains("1234567890") && narrow.contains("a-ve…eam"), "{narrow}");
    }

    #[test]
    fn texts_are_broken_at_blanks() {
        assert_eq!(wrapped("one two three", 8, "  "), "one two\n  three");
        assert_eq!(wrapped("abcdefghij", 4, ""), "abcd\nefgh\nij");
        assert_eq!(wrapped("", 4, ""), "");
    }

    proptest! {
        #[test]
        fn a_table_is_no_wider_than_it_may_be(names in proptest::collection::vec("[a-zé]{0,90}", 1..5), most in 40_usize..120) {
            let rows: Vec<_> = names.iter().map(|name| [name.clone(), "1234".to_owned(), name.clone()]).collect();
            let table = fit(["NAME", "N", "OTHER"], &rows, &[0, 2], most);
            prop_assert!(table.lines().all(|line| line.chars().count() <= most), "{}", table);
        }
    }
}
