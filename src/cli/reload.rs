//! `tidegate reload`: has the running gateway read its configuration again.

use std::{fmt::Write as _, process::ExitCode};

use clap::Args;
use serde_json::Value;

use super::{
    gateway::{Door, Trouble, outcome},
    words::printable,
};

/// Has the running gateway read its configuration again, and tells what has changed and what waits for a restart.
///
/// The same as SIGHUP and `systemctl reload`, with an answer. A configuration with an error in it changes nothing.
#[derive(Debug, Args)]
pub(super) struct Reload {
    #[command(flatten)]
    door: Door,
}

const KINDS: [(&str, &str); 4] =
    [("listeners", "listener"), ("streams", "stream"), ("uplinks", "uplink"), ("downlinks", "downlink")];

pub(super) fn main(arguments: &Reload) -> ExitCode {
    let run = || -> Result<(), Trouble> {
        let answer = arguments.door.open()?.post_patiently("/api/v1/reload")?;
        arguments.door.show(&answer, told);
        Ok(())
    };
    outcome(run())
}

/// What a reload has changed, a line each.
fn told(answer: &Value) -> String {
    let mut lines = String::new();
    for (kind, word) in KINDS {
        for what in ["added", "removed", "changed"] {
            for name in names(&answer[kind][what]) {
                let _ = writeln!(lines, "{word} {name} {what}");
            }
        }
    }
    for section in names(&answer["settings"]) {
        let _ = writeln!(lines, "{section} changed");
    }
    if lines.is_empty() {
        lines.push_str("nothing has changed that can change while the gateway runs\n");
    }
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        let _ = writeln!(lines, "{}", problem(warning));
    }
    for key in names(&answer["restart_required"]) {
        let _ = writeln!(lines, "{key} has changed and waits for a restart");
    }
    lines
}

fn names(list: &Value) -> impl Iterator<Item = String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(printable)
}

/// All that is wrong, a line each, where an error says so.
pub(super) fn problems(error: &Value) -> String {
    let all = error["problems"].as_array().into_iter().flatten();
    all.fold(String::new(), |lines, one| lines + "\n" + &problem(one))
}

fn problem(problem: &Value) -> String {
    let text = |key: &str| problem[key].as_str().map(printable);
    let mut line = text("severity").unwrap_or_default() + ": ";
    if let Some(file) = text("file") {
        line += &file;
        if let Some(number) = problem["line"].as_u64() {
            let _ = write!(line, ":{number}");
        }
        line += ": ";
    }
    line += &text("key").unwrap_or_default();
    if let Some(name) = text("name") {
        let _ = write!(line, " ({name})");
    }
    for part in [text("said"), text("expected")].into_iter().flatten() {
        let _ = write!(line, ": {part}");
    }
    if let Some(hint) = text("hint") {
        let _ = write!(line, "; {hint}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_told_a_line_each_and_rules_no_terminal() {
        let answer = serde_json::json!({
            "listeners": { "added": ["field"], "removed": [], "changed": [] },
            "streams": { "added": [], "removed": ["a\u{1b}[2J"], "changed": ["b"] },
            "settings": ["[auth]"], "restart_required": ["gateway.id"],
            "warnings": [{ "severity": "warning", "file": "f.toml", "line": 3, "key": "stream[0].from", "name": "b", "said": "\"x\"",
                           "expected": "takes nothing", "hint": null }],
        });
        let told = told(&answer);
        assert!(told.starts_with("listener field added\nstream a"), "{told}");
        assert!(!told.contains('\u{1b}'), "{told:?}");
        assert!(told.ends_with(
            "[auth] changed\nwarning: f.toml:3: stream[0].from (b): \"x\": takes nothing\ngateway.id has changed and waits for a restart\n"
        ), "{told}");
        assert!(super::told(&serde_json::json!({})).starts_with("nothing has changed"));
    }
}
