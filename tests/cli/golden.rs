//! Outputs as they are expected, in files beside this one: `TIDEGATE_GOLDEN=update cargo test --test cli` writes them anew.

use std::{fs, path::Path};

/// Compares a text with its file, or writes that. Figures of the moment are masked, see [`masked`].
#[track_caller]
pub(crate) fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/golden").join(format!("{name}.txt"));
    if std::env::var("TIDEGATE_GOLDEN").is_ok_and(|value| value == "update") {
        fs::write(&path, text).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == text,
        "{} is not what comes out now; if that is right: TIDEGATE_GOLDEN=update cargo test --test cli\n--- expected\n{expected}\n--- now\n{text}",
        path.display()
    );
}

/// A text without what is another each time: `#` for each number, with its unit of bytes; two blanks for more; a dot for folders.
pub(crate) fn masked(text: &str, folder: &str) -> String {
    let text = text.replace(folder, ".");
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_ascii_digit() {
            while chars.next_if(|c| c.is_ascii_digit() || *c == '.').is_some() {}
            out.push('#');
            continue;
        }
        if c == ' ' && out.ends_with("  ") {
            continue;
        }
        out.push(c);
    }
    let out = ["KiB", "MiB", "GiB", "TiB"].iter().fold(out, |out, unit| out.replace(&format!("#{unit}"), "#B"));
    // Where a port has fewer digits there is one blank less before what follows.
    out.replace("127.#:#", "ADDRESS").replace("#h#m", "#").replace("#m#s", "#")
}
