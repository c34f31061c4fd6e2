//! `tidegate demo`, as a user runs it: the proof holds, and nothing is left behind.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Longest time that an interrupted demo may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// The demo, with temporary files in a folder that can be looked at afterwards.
fn demo(temporary: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("demo").env("TMPDIR", temporary).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn files_in(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

/// The figure in the row of the table that begins with `name`.
fn row(table: &str, name: &str) -> u64 {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(name));
    let line = line.unwrap_or_else(|| panic!("no row `{name}` in\n{table}"));
    let figure = line.trim_start().split("   ").next().unwrap();
    figure.replace(' ', "").parse().unwrap_or_else(|_| panic!("no number in `{name}{line}`"))
}

#[test]
fn the_demo_proves_the_promise() {
    let temporary = tempfile::tempdir().unwrap();
    let output = demo(temporary.path()).output().unwrap();
    let (table, progress) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let all = format!("{progress}\n{table}");
    assert!(output.status.success(), "{all}");
    assert_eq!((row(&table, "lost"), row(&table, "out of order")), (0, 0), "{all}");
    let sent = row(&table, "sent");
    assert!(sent > 10_000, "{all}");
    assert_eq!((row(&table, "acknowledged"), row(&table, "received upstream")), (sent, sent), "{all}");
    assert!(row(&table, "largest backlog") > 1000, "{all}");
    assert!(table.contains("Every acknowledged message arrived, in order"), "{all}");
    for event in ["outage", "kill -9", "backlog", "has arrived"] {
        assert!(progress.contains(event), "`{event}` is missing in\n{all}");
    }
    assert!(!all.contains('\u{1b}'), "control characters, although nothing here is a terminal:\n{all}");
    assert_eq!(files_in(temporary.path()), 0, "temporary files are left behind");
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let mut child = demo(temporary.path()).spawn().unwrap();
    let (line_tx, lines) = mpsc::sync_channel(1000);
    let stderr = BufReader::new(child.stderr.take().unwrap());
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| line_tx.send(line)));
    let ready = lines.iter().find(|line| line.contains("gateway ready")).expect("the gateway becomes ready");
    let gateway = ready.split("(process ").nth(1).and_then(|rest| rest.split(')').next()).unwrap();
    let gateway = Pid::from_raw(gateway.parse().unwrap()).unwrap();
    test_kill_process(gateway).expect("the gateway runs");

    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), Signal::INT).unwrap();
    let begin = Instant::now();
    let status: ExitStatus = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(begin.elapsed() < PATIENCE, "the demo does not end");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(1));
    assert!(test_kill_process(gateway).is_err(), "the gateway is left behind");
    assert_eq!(files_in(temporary.path()), 0, "temporary files are left behind");
}
