//! Progress of long work, on stderr and only where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often it moves by itself.
const TICK: Duration = Duration::from_millis(200);

/// A bar over so many things of this name; without a number just what was done so far.
pub(super) fn bar(count: Option<u64>, what: &str) -> ProgressBar {
    let (bar, template) = match count {
        Some(count) => (ProgressBar::new(count), "{wide_bar} {human_pos} of {human_len} WHAT, {eta} left"),
        None => (ProgressBar::no_length(), "{spinner} {human_pos} WHAT, {elapsed}"),
    };
    show(bar, &template.replace("WHAT", what))
}

/// A bar over the bytes of a file.
pub(super) fn bytes(count: u64) -> ProgressBar {
    show(ProgressBar::new(count), "{wide_bar} {binary_bytes} of {binary_total_bytes}, {eta} left {msg}")
}

fn show(bar: ProgressBar, template: &str) -> ProgressBar {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}
