//! What stands behind stdout: how wide it is, whether it shows colours.

use std::{
    env,
    io::{self, IsTerminal as _},
    sync::LazyLock,
};

use rustix::termios::tcgetwinsize;

/// Columns of what says nothing of its width, such as a pipe.
const COLUMNS: usize = 80;

/// Narrowest terminal that is made use of.
const COLUMNS_MIN: usize = 40;

/// Columns for a table on stdout: those of the terminal, at least 40; 80 for a pipe.
pub(super) fn columns() -> usize {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return COLUMNS;
    }
    let size = tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
    size.unwrap_or(COLUMNS).max(COLUMNS_MIN)
}

/// How a text is to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// Somebody should do something.
    Bad,
    /// Somebody should know.
    Notable,
    /// As it should be.
    Good,
}

impl Tone {
    /// The text in its colour, where stdout shows colours.
    pub(super) fn paint(self, text: &str) -> String {
        match self.code().filter(|_| *COLOURS) {
            Some(code) => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            None => text.to_owned(),
        }
    }

    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Bad => Some("1;31"),
            Self::Notable => Some("33"),
            Self::Good => Some("32"),
        }
    }
}

static COLOURS: LazyLock<bool> =
    LazyLock::new(|| colours(io::stdout().is_terminal(), |name| env::var(name).ok().filter(|value| !value.is_empty())));

/// <https://no-color.org> and <https://bixense.com/clicolors>: never with `NO_COLOR`, always with `CLICOLOR_FORCE`, otherwise on a terminal that has them and
/// not with `CLICOLOR=0`.
fn colours(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> bool {
    let is = |name, value: &str| variable(name).as_deref() == Some(value);
    let forced = variable("CLICOLOR_FORCE").is_some_and(|value| value != "0");
    variable("NO_COLOR").is_none() && (forced || is_terminal && !is("CLICOLOR", "0") && !is("TERM", "dumb"))
}

#[cfg(test)]
mod tests {
    use super::colours;

    #[test]
    fn colours_are_for_terminals_and_for_those_who_want_them() {
        let table = [
            (true, "", "", true),
            (false, "", "", false),
            (true, "NO_COLOR", "1", false),
            (true, "CLICOLOR", "0", false),
            (true, "CLICOLOR", "1", true),
            (false, "CLICOLOR", "1", false),
            (false, "CLICOLOR_FORCE", "1", true),
            (false, "CLICOLOR_FORCE", "0", false),
            (true, "TERM", "dumb", false),
        ];
        for (is_terminal, set, value, expected) in table {
            let variable = |name: &str| (name == set).then(|| value.to_owned());
            assert_eq!(colours(is_terminal, variable), expected, "{is_terminal} {set}={value}");
        }
        let both = |name: &str| ["NO_COLOR", "CLICOLOR_FORCE"].contains(&name).then(|| "1".to_owned());
        assert!(!colours(true, both));
    }
}
