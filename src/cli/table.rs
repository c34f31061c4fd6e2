//! Plain tables for terminals and pipes.

/// Lays out rows under a header: columns as wide as their widest cell, two spaces between, no trailing spaces.
pub(super) fn layout<const COLUMNS: usize>(header: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    let header = header.map(str::to_owned);
    let width = |column: usize| {
        std::iter::once(&header).chain(rows).map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut out = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::layout;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), "1".to_owned()], ["long".to_owned(), String::new()]];
        assert_eq!(layout(["NAME", "N"], &rows), "NAME  N\na     1\nlong\n");
        assert_eq!(layout(["NAME", "N"], &[]), "NAME  N\n");
    }
}
