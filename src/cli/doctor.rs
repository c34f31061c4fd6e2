//! `tidegate doctor`: checks this device, prints what it finds as it finds it, and sums up what is wrong at the end.

use std::{
    env,
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, builder::PossibleValuesParser, builder::TypedValueParser as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    CONFIG, FAILED, complain, finish,
    gateway::Gateway,
    print,
    words::{printable, printable_json},
};
use crate::{
    doctor::{self, Ask, Check, Ended, Finding, Grade, Options},
    signal::{Signal, Signals},
    units::parse_duration,
};

/// Columns of a terminal that people have.
const WIDTH: usize = 80;
/// Where the text begins, behind the grade.
const INDENT: usize = 11;

/// Checks this device: configuration, ports, TLS files and expiry dates, DNS and reachability of every uplink, clock, free space, how many
/// synced commits a second this disk does.
///
/// Changes nothing and disturbs nothing, whether the gateway runs or not. The disk is tried for at most 3 s with some 20 MiB in a folder of
/// its own, which is removed. Every uplink is logged in to under a client id of its own.
#[derive(Debug, Args)]
#[command(
    after_help = "Grades: ok, note, warning (it will go wrong, or is surely not meant), failed (it does not work).\n\
    Exit codes: 0 nothing worse than a warning, 1 something failed (with --strict: or a warning), 2 wrong command line, \
    78 configuration refused."
)]
pub(super) struct Arguments {
    /// Configuration file [default: /etc/tidegate/tidegate.toml, if it is there]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints one JSON object: {"worst", "counts", "findings"}
    #[arg(long)]
    json: bool,
    /// Checks only these, separated by commas
    #[arg(long, value_name = "CHECKS", value_delimiter = ',', value_parser = checks())]
    only: Vec<Check>,
    /// How long each address of an uplink may take, such as 5s [default: `connect_timeout` of the uplink]
    #[arg(long, value_name = "TIME", value_parser = limit)]
    timeout: Option<Duration>,
    /// Counts warnings as failures in the exit code
    #[arg(long)]
    strict: bool,
    /// Logs in to uplinks under their own client ids, for upstreams that let in no other; only while no gateway runs
    #[arg(long)]
    own_client_id: bool,
}

fn checks() -> impl clap::builder::TypedValueParser<Value = Check> {
    let words = PossibleValuesParser::new(Check::ALL.map(Check::word));
    words.map(|word| Check::ALL.into_iter().find(|check| check.word() == word).unwrap_or(Check::System))
}

fn limit(text: &str) -> Result<Duration, String> {
    let limit = parse_duration(text).map_err(|error| error.to_string())?;
    let sensible = Duration::from_millis(100)..=Duration::from_secs(600);
    if sensible.contains(&limit) { Ok(limit) } else { Err("expected a time from 100ms to 10m".to_owned()) }
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = match runtime.context("cannot start") {
        Ok(runtime) => runtime,
        Err(error) => return finish(Err(error)),
    };
    let code = runtime.block_on(examine(arguments));
    // A disk that hangs must not keep us.
    runtime.shutdown_background();
    code
}

async fn examine(arguments: &Arguments) -> ExitCode {
    let ask: Ask = Arc::new(|config, path| {
        let gateway = Gateway::of(&config.admin).map_err(|error| format!("{error:#}"))?;
        gateway.answer(path).map_err(|error| format!("{error:#}"))
    });
    let only = if arguments.only.is_empty() { Check::ALL.to_vec() } else { arguments.only.clone() };
    let options = Options {
        file: arguments.config.clone(),
        only,
        limit: arguments.timeout,
        own_client_id: arguments.own_client_id,
        ask,
    };
    let stop = CancellationToken::new();
    let mut all: Vec<Finding> = Vec::new();
    let ink = Ink::of_stdout();
    let ended = {
        let mut tell = |findings: Vec<Finding>| {
            if !arguments.json {
                print(&check_text(&findings, ink));
            }
            all.extend(findings);
        };
        let examination = doctor::examine(&options, &stop, &mut tell);
        tokio::select! {
            ended = examination => ended,
            () = second_stop(&stop) => Ended::Stopped,
        }
    };
    if ended == Ended::Stopped {
        complain("tidegate: stopped before everything was looked at\n");
        return ExitCode::from(FAILED);
    }
    print(&if arguments.json { printable_json(&report(&all)) + "\n" } else { summary(&all, ink) });
    exit_code(ended, worst(&all), arguments.strict)
}

/// Stops the examination at the first signal, and is done at the second: whoever sends that does not want to wait.
async fn second_stop(stop: &CancellationToken) {
    let Ok(mut signals) = Signals::catch() else { return std::future::pending().await };
    loop {
        match signals.next().await {
            Signal::Reload => {}
            Signal::Stop(_) if stop.is_cancelled() => return,
            Signal::Stop(_) => stop.cancel(),
        }
    }
}

fn exit_code(ended: Ended, worst: Grade, strict: bool) -> ExitCode {
    match (ended, worst) {
        (Ended::Refused, _) => ExitCode::from(CONFIG),
        (Ended::Stopped, _) | (_, Grade::Failed) => ExitCode::from(FAILED),
        (_, Grade::Warning) if strict => ExitCode::from(FAILED),
        (Ended::Whole, Grade::Ok | Grade::Note | Grade::Warning) => ExitCode::SUCCESS,
    }
}

fn worst(findings: &[Finding]) -> Grade {
    findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Ok)
}

fn count(findings: &[Finding], grade: Grade) -> usize {
    findings.iter().filter(|finding| finding.grade == grade).count()
}

fn report(findings: &[Finding]) -> Value {
    let counts = [Grade::Ok, Grade::Note, Grade::Warning, Grade::Failed];
    let counts = counts.map(|grade| (grade.word().to_owned(), json!(count(findings, grade))));
    json!({ "worst": worst(findings), "counts": Value::Object(counts.into_iter().collect()), "findings": findings })
}

/// Whether the words of grades are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ink {
    Plain,
    Coloured,
}

impl Ink {
    fn of_stdout() -> Self {
        let wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        if wanted && !dumb && io::stdout().is_terminal() { Self::Coloured } else { Self::Plain }
    }

    /// The word of a grade, as wide as all of them.
    fn word(self, grade: Grade) -> String {
        let (word, colour) = match grade {
            Grade::Ok => ("ok", "32"),
            Grade::Note => ("note", "36"),
            Grade::Warning => ("warning", "33"),
            Grade::Failed => ("FAILED", "1;31"),
        };
        match self {
            Self::Plain => format!("{word:9}"),
            Self::Coloured => format!("\u{1b}[{colour}m{word}\u{1b}[0m{:1$}", "", 9 - word.len()),
        }
    }
}

/// The findings of one check.
fn check_text(findings: &[Finding], ink: Ink) -> String {
    let Some(first) = findings.first() else { return String::new() };
    let mut out = format!("{}\n", first.check.word());
    for finding in findings {
        out.push_str(&entry(finding, ink));
        if let Some(advice) = &finding.advice {
            out.push_str(&wrap(&format!("{:INDENT$}> ", ""), INDENT + 2, &printable(advice)));
        }
    }
    out.push('\n');
    out
}

fn entry(finding: &Finding, ink: Ink) -> String {
    let text = format!("{}: {}", printable(&finding.subject), printable(&finding.found));
    let head = format!("  {}", ink.word(finding.grade));
    wrap(&head, INDENT, &text)
}

/// What is wrong, worst last, for it stays on the screen.
fn summary(findings: &[Finding], ink: Ink) -> String {
    let mut out = String::new();
    for grade in [Grade::Warning, Grade::Failed] {
        let of_grade = findings.iter().filter(|finding| finding.grade == grade);
        out.extend(of_grade.map(|finding| entry(finding, ink)));
    }
    let number = |grade, one: &str, more: &str| match count(findings, grade) {
        1 => format!("1 {one}"),
        count => format!("{count} {more}"),
    };
    let counts = [
        number(Grade::Failed, "failure", "failures"),
        number(Grade::Warning, "warning", "warnings"),
        number(Grade::Note, "note", "notes"),
        number(Grade::Ok, "ok", "ok"),
    ];
    let head = if out.is_empty() { "" } else { "what is wrong\n" };
    format!("{head}{out}{}\n", counts.join(", "))
}

/// Breaks text into lines of [`WIDTH`]; the first begins with `head`, which is `indent` wide, the others so far in.
fn wrap(head: &str, indent: usize, text: &str) -> String {
    let (mut out, mut column) = (head.to_owned(), indent);
    let mut is_first = true;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if !is_first && column + 1 + width > WIDTH {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else if !is_first {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
        is_first = false;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(grade: Grade, found: &str) -> Finding {
        Finding::new(Check::Uplinks, grade, "cloud mqtt://x:1883, login", found)
    }

    #[test]
    fn findings_fit_eighty_columns_and_strangers_rule_no_terminal() {
        let long = "the upstream hangs up instead of answering, and says a lot of things before it does so, \u{1b}[2J among them";
        let findings = [finding(Grade::Failed, long).advise(long), finding(Grade::Ok, "yes")];
        let text = check_text(&findings, Ink::Plain);
        assert_eq!(
            text,
            "uplinks\n\
             \x20 FAILED   cloud mqtt://x:1883, login: the upstream hangs up instead of\n\
             \x20          answering, and says a lot of things before it does so, \\u{1b}[2J\n\
             \x20          among them\n\
             \x20          > the upstream hangs up instead of answering, and says a lot of\n\
             \x20            things before it does so, \\u{1b}[2J among them\n\
             \x20 ok       cloud mqtt://x:1883, login: yes\n\n"
        );
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH));
    }

    #[test]
    fn the_worst_comes_last_and_is_counted() {
        let findings = [finding(Grade::Failed, "a"), finding(Grade::Note, "b"), finding(Grade::Warning, "c")];
        let text = summary(&findings, Ink::Plain);
        let (warning, failed) = (text.find("warning  cloud").unwrap(), text.find("FAILED   cloud").unwrap());
        assert!(warning < failed && text.ends_with("1 failure, 1 warning, 1 note, 0 ok\n"), "{text}");
        assert_eq!(summary(&[], Ink::Plain), "0 failures, 0 warnings, 0 notes, 0 ok\n");
        assert!(Ink::Coloured.word(Grade::Failed).starts_with("\u{1b}[1;31mFAILED\u{1b}[0m "));
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst() {
        let table = [
            (Ended::Whole, Grade::Note, true, ExitCode::SUCCESS),
            (Ended::Whole, Grade::Warning, false, ExitCode::SUCCESS),
            (Ended::Whole, Grade::Warning, true, ExitCode::from(1)),
            (Ended::Whole, Grade::Failed, false, ExitCode::from(1)),
            (Ended::Refused, Grade::Failed, false, ExitCode::from(78)),
        ];
        for (ended, grade, strict, expected) in table {
            assert_eq!(exit_code(ended, grade, strict), expected, "{ended:?} {grade:?} {strict}");
        }
    }
}
