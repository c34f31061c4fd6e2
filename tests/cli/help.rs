//! What every command says of itself: help, completions, manual pages.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use super::{golden, rig::tidegate};

/// The commands that a help text lists, and those below them.
fn commands(above: &[&str]) -> Vec<Vec<String>> {
    let help = tidegate(&[above, &["--help"]].concat()).stderr;
    let Some((_, list)) = help.split_once("Commands:\n") else { return Vec::new() };
    let names = list.lines().take_while(|line| !line.is_empty());
    // What a long description goes on with stands further in.
    let names = names
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next());
    let mut all = Vec::new();
    for name in names.filter(|name| *name != "help") {
        let path = [above, &[name]].concat();
        all.push(path.iter().map(ToString::to_string).collect());
        all.extend(commands(&path));
    }
    all
}

#[test]
fn every_command_explains_itself_within_80_columns() {
    let mut all = commands(&[]);
    assert!(all.len() >= 20 && all.contains(&vec!["dead".to_owned(), "list".to_owned()]), "{all:?}");
    all.push(Vec::new());
    for path in all {
        let arguments: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let ran = tidegate(&arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{path:?}");
        let wide = ran.stderr.lines().find(|line| line.chars().count() > 80 && !line.starts_with("Usage:"));
        assert_eq!(wide, None, "{path:?}");
        golden::check(
            &["help"].into_iter().chain(path.iter().map(String::as_str)).collect::<Vec<_>>().join("-"),
            &ran.stderr,
        );
    }
}

#[test]
fn completions_load_in_bash_and_know_the_commands() {
    let script = tidegate(&["completions", "bash"]);
    assert_eq!((script.code, script.stderr.as_str()), (Some(0), ""));
    // Completed as by the key: the words so far, and what comes of them.
    let test = "complete -p tidegate\nCOMP_WORDS=(tidegate dead re); COMP_CWORD=2\n_tidegate tidegate re dead\necho \"${COMPREPLY[@]}\"\n";
    let mut bash = Command::new("bash")
        .args(["--norc", "-u"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    bash.stdin.take().unwrap().write_all(format!("{}\n{test}", script.stdout).as_bytes()).unwrap();
    let done = bash.wait_with_output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(said.contains("-F _tidegate") && said.trim_end().ends_with("retry"), "{said}");
    assert_eq!(String::from_utf8(done.stderr).unwrap(), "");
    for (shell, part) in [("zsh", "#compdef tidegate"), ("fish", "complete -c tidegate")] {
        assert!(tidegate(&["completions", shell]).stdout.contains(part), "{shell}");
    }
    assert_eq!(tidegate(&["completions", "dos"]).code, Some(2));
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("man/man1");
    let ran = tidegate(&["man", directory.to_str().unwrap()]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let pages = std::fs::read_dir(&directory).unwrap().count();
    assert_eq!(pages, commands(&[]).len() + 1);
    let page = std::fs::read_to_string(directory.join("tidegate-dead-list.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("oldest first"), "{page}");
    assert!(tidegate(&["man"]).stdout.contains(".SH NAME\ntidegate"));
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let ran = tidegate(&["man", file.join("below").to_str().unwrap()]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert!(ran.stderr.contains("cannot make"), "{}", ran.stderr);
}
