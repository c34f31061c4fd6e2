//! The machine: open files, memory, systemd's unit, versions.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::{gateway::Running, programs};
use crate::{
    config::Config,
    doctor::finding::{Check, Notebook},
    store,
    units::short_size,
};

/// Files that the gateway needs besides one for each connection.
const OWN_FILES: u64 = 64;

/// Memory below which other programs, or the kernel, will be in trouble.
const MEMORY_FEW_BYTES: u64 = 48 << 20;

const UNIT: &str = "tidegate.service";

pub(super) fn look(of: Option<(&Config, &Running)>) -> Notebook {
    let mut notebook = Notebook::new(Check::System);
    let unit_keys = "LoadState,ActiveState,SubState,UnitFileState,NRestarts,Result,LimitNOFILE";
    let unit = programs::ask("systemctl", &["show", UNIT, "-p", unit_keys]);
    if let Some((config, running)) = of {
        open_files(config, running, unit.as_deref(), &mut notebook);
    }
    memory(&mut notebook);
    match &unit {
        Some(unit) => systemd(unit, of.is_some_and(|(_, running)| running.is_up()), &mut notebook),
        None => {
            notebook.note("systemd", "cannot be asked here");
        }
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let found = format!(
        "Tidegate {}, SQLite {}, Linux {}, {}",
        env!("CARGO_PKG_VERSION"),
        store::sqlite_version(),
        kernel.trim(),
        std::env::consts::ARCH
    );
    notebook.note("versions", found);
    notebook
}

fn open_files(config: &Config, running: &Running, unit: Option<&str>, notebook: &mut Notebook) {
    let connections: usize = config.broker.listeners.iter().map(|listener| listener.max_connections).sum();
    let wanted = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(OWN_FILES);
    let of_process = running.pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/limits")).ok());
    let of_process = of_process.and_then(|limits| soft_files(&limits)).map(|limit| (limit, "of the running gateway"));
    let is_loaded = unit.is_some_and(|unit| programs::value(unit, "LoadState") == Some("loaded"));
    let of_unit = unit.filter(|_| is_loaded).and_then(|unit| programs::value(unit, "LimitNOFILE")?.parse().ok());
    let of_shell = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let (limit, whose) =
        of_process.or(of_unit.map(|limit| (limit, "of the service"))).unwrap_or((of_shell, "of this shell"));
    let shown = if limit == u64::MAX { "no limit".to_owned() } else { limit.to_string() };
    if limit < wanted {
        let found =
            format!("the limit {whose} is {shown}; {connections} connections (`max_connections`) need {wanted}");
        notebook.warn(
            "open files",
            found,
            "raise LimitNOFILE= in the unit (or `ulimit -n`), or lower `max_connections`",
        );
    } else {
        notebook.ok("open files", format!("the limit {whose} is {shown}; {wanted} are needed at most"));
    }
}

/// The soft limit of `/proc/PID/limits`: `Max open files   1024   524288   files`.
fn soft_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn memory(notebook: &mut Notebook) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let bytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    let (Some(available), Some(total)) = (bytes("MemAvailable"), bytes("MemTotal")) else { return };
    let found = format!("{} of {} available", short_size(available), short_size(total));
    if available < MEMORY_FEW_BYTES {
        notebook.warn(
            "memory",
            found,
            "stop what is not needed; the gateway itself takes some 20 MiB, whatever it stores",
        );
    } else {
        notebook.ok("memory", found);
    }
}

fn systemd(unit: &str, is_up: bool, notebook: &mut Notebook) {
    let value = |key| programs::value(unit, key).unwrap_or_default();
    if value("LoadState") != "loaded" {
        notebook.note(UNIT, "is not installed").advice =
            Some("with it the gateway starts with the machine and after every failure".to_owned());
        return;
    }
    let (active, sub, restarts) = (value("ActiveState"), value("SubState"), value("NRestarts"));
    let enabled = value("UnitFileState");
    match active {
        "active" | "reloading" => {
            notebook.ok(UNIT, format!("{active} ({sub})"));
        }
        "failed" | "activating" => {
            let found = format!("{active} ({sub}), result: {}", value("Result"));
            notebook.fail(UNIT, found, format!("`journalctl -u {UNIT} -e` says why"));
        }
        _ if is_up => {
            notebook.warn(
                UNIT,
                format!("{active}, and a gateway runs without it"),
                "stop that one, and start the service",
            );
        }
        _ => {
            notebook.note(UNIT, format!("{active} ({sub})"));
        }
    }
    if restarts.parse::<u64>().is_ok_and(|count| count > 0) {
        let found = format!("systemd has started it again {restarts} times");
        notebook.warn(UNIT, found, format!("`journalctl -u {UNIT}` says why it ended each time"));
    }
    if !["enabled", "enabled-runtime", "static", "generated", "linked"].contains(&enabled) {
        let found =
            format!("{}: it does not start with the machine", if enabled.is_empty() { "not enabled" } else { enabled });
        notebook.warn(UNIT, found, format!("systemctl enable {UNIT}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Grade;

    #[test]
    fn the_soft_limit_is_the_first_number() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             1 2 processes\nMax open files            1024                 524288               files\n";
        assert_eq!(soft_files(limits), Some(1024));
        assert_eq!(soft_files("Max open files unlimited unlimited files"), Some(u64::MAX));
        assert_eq!(soft_files(""), None);
    }

    #[test]
    fn a_unit_that_was_restarted_or_is_not_enabled_is_told_of() {
        let grades = |text: &str, is_up| {
            let mut notebook = Notebook::new(Check::System);
            systemd(text, is_up, &mut notebook);
            notebook.findings.iter().map(|finding| finding.grade).collect::<Vec<_>>()
        };
        let good = "LoadState=loaded\nActiveState=active\nSubState=running\nNRestarts=0\nUnitFileState=enabled\n";
        assert_eq!(grades(good, true), [Grade::Ok]);
        let bad = good.replace("NRestarts=0", "NRestarts=7").replace("=enabled", "=disabled");
        assert_eq!(grades(&bad, true), [Grade::Ok, Grade::Warning, Grade::Warning]);
        assert_eq!(grades(&good.replace("=active", "=failed"), false), [Grade::Failed]);
        assert_eq!(grades(&good.replace("=active", "=inactive"), true), [Grade::Warning]);
        assert_eq!(grades("LoadState=not-found\n", false), [Grade::Note]);
    }
}
