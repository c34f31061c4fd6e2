//! The clock: set at all, kept by somebody, kept by a battery.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::programs;
use crate::doctor::finding::{Check, Notebook};

/// A clock before this was never set: 2026-01-01, in seconds since 1970. No build of this program is older.
const ERA_S: u64 = 1_767_225_600;

/// Made by systemd-timesyncd once it has set the clock.
const TIMESYNC_MARK: &str = "/run/systemd/timesync/synchronized";

pub(super) fn look() -> Notebook {
    let mut notebook = Notebook::new(Check::Clock);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let shown = i64::try_from(now).ok().and_then(|now| OffsetDateTime::from_unix_timestamp(now).ok());
    let shown = shown.and_then(|now| now.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{now} s after 1970"));
    if now < ERA_S {
        let found = format!("it was never set: {shown}");
        let advice = "set it, or let NTP do so (`timedatectl set-ntp true`); TLS certificates are refused until then. \
                      Messages are stored with their age and get their right time once the clock is set";
        notebook.fail("system clock", found, advice);
    } else {
        notebook.ok("system clock", shown);
    }
    match is_synchronised() {
        Some(true) => {
            notebook.ok("synchronisation", "the kernel's clock is kept by a time service");
        }
        Some(false) => {
            let advice =
                "start a time service (systemd-timesyncd, chrony) and give it a server that this device can reach";
            notebook.warn("synchronisation", "no time service keeps the clock", advice);
        }
        None => {
            notebook.note("synchronisation", "nobody here can say whether a time service keeps the clock");
        }
    }
    if Path::new("/dev/rtc").exists() || Path::new("/sys/class/rtc/rtc0").exists() {
        notebook.ok("battery clock", "there is one (RTC): the time outlives a power cut");
    } else {
        let found = "there is none (RTC): after a power cut the time is unknown until a server says it";
        notebook.note("battery clock", found).advice = Some(
            "what is stored until then is corrected afterwards, and marked `tg-clock: unsynced` if sent before"
                .to_owned(),
        );
    }
    notebook
}

/// What timesyncd, or the kernel (through timedatectl), says; `None` where neither can be asked.
fn is_synchronised() -> Option<bool> {
    if Path::new(TIMESYNC_MARK).exists() {
        return Some(true);
    }
    let shown = programs::ask("timedatectl", &["show", "-p", "NTPSynchronized"])?;
    match programs::value(&shown, "NTPSynchronized")? {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}
