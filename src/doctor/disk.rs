//! How fast this disk takes messages, in words for people who have so many sensors.

use std::{fmt::Write as _, time::Duration};

use rustix::fs::statvfs;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    DISK_PATIENCE, data,
    device::{self, Kind},
    gateway::Running,
    mounts,
};
use crate::{
    config::Config,
    doctor::finding::{Check, Notebook},
    store::{self, DiskTrial, Durability, FREE_BYTES_MIN, Pace, TOGETHER_LANES, TrialError},
    units::short_size,
};

/// A wait for an acknowledgement that publishers with a short patience notice.
const STALL: Duration = Duration::from_secs(1);
/// Synced commits a second below which few plants live.
const SLOW_PER_S: f64 = 20.0;

pub(super) async fn look(config: &Config, running: &Running, stop: &CancellationToken) -> Notebook {
    let mut notebook = Notebook::new(Check::Disk);
    let folder = data::nearest_existing(&config.store.data_dir);
    let subject = folder.display().to_string();
    let free = statvfs(&folder).map_or(0, |figures| figures.f_bavail.saturating_mul(figures.f_frsize));
    if free < config.store.min_free.saturating_add(FREE_BYTES_MIN) {
        let found = format!("not tried: {} are free, too little beyond `min_free`", short_size(free));
        notebook.warn(&subject, found, "free some space; the speed of a full disk says little anyway");
        return notebook;
    }
    let inner = stop.child_token();
    let trial = store::try_disk(&config.store, &folder, &inner);
    let trial = tokio::time::timeout(DISK_PATIENCE, trial).await;
    // What is still waiting for the disk ends with its next commit.
    inner.cancel();
    match trial {
        Ok(Ok(trial)) => tell(&subject, &trial, &folder, running, &mut notebook),
        Ok(Err(TrialError::Stopped)) => {}
        Ok(Err(error @ TrialError::Folder { .. })) => {
            let advice = "ask as root, or as the user of the service; a read-only or full disk says so under `data`";
            notebook.warn(&subject, format!("not tried: {error}"), advice);
        }
        Ok(Err(error @ (TrialError::Open(_) | TrialError::Store(_) | TrialError::Refused(_)))) => {
            let advice =
                "the gateway would fail in the same way; look into the kernel's log (dmesg) for errors of the disk";
            notebook.fail(&subject, format!("a database of our own in this folder fails: {error}"), advice);
        }
        Err(_) => {
            let found = format!("a few commits took longer than {} s", DISK_PATIENCE.as_secs());
            let advice = "the disk hangs, or something else keeps it busy: see dmesg, iotop; replace a worn-out card";
            notebook.fail(&subject, found, advice);
        }
    }
    notebook
}

fn tell(subject: &str, trial: &DiskTrial, folder: &std::path::Path, running: &Running, notebook: &mut Notebook) {
    let device = mounts::mount_of(folder).and_then(|mount| device::device_of(&mount));
    let busy = if running.is_up() { ", beside the running gateway" } else { "" };
    let cost = format!(
        "tried for {}{busy}, {} written, all removed",
        milliseconds(trial.took),
        short_size(trial.written_bytes)
    );
    match &device {
        Some(device) => notebook.note(subject, format!("{} ({}); {cost}", device.name, device.kind.words())),
        None => notebook.note(subject, format!("device unknown; {cost}")),
    }
    .figures = Some(figures(trial));
    if trial.durability == Durability::Process {
        let found = "durability is \"process\": nothing is synced, and these figures are of memory";
        let advice = "with \"full\" every acknowledged message also survives a power cut";
        notebook.note("durability", found).advice = Some(advice.to_owned());
    }
    let alone = &trial.alone;
    let found = format!(
        "one publisher that waits for each acknowledgement: about {} messages/s; {}",
        round(alone.per_s),
        waits(alone)
    );
    if alone.per_s < SLOW_PER_S {
        notebook.warn(
            "one publisher",
            found,
            "let publishers send several messages before they wait, or use a faster card or disk",
        );
    } else {
        notebook.ok("one publisher", found);
    }
    let together = &trial.together;
    let found = format!(
        "{TOGETHER_LANES} such publishers: about {} messages/s together; {}",
        round(together.per_s),
        waits(together)
    );
    notebook.ok("many publishers", found);
    let found = format!("one publisher that does not wait: about {} messages/s", round(trial.bulk.per_s));
    notebook.ok("no waiting", found);
    let longest = alone.max.max(together.max).max(trial.bulk.max);
    if longest > STALL {
        let found =
            format!("one commit took {}: an acknowledgement waits that long now and then", milliseconds(longest));
        notebook.warn("stalls", found, "nothing is lost by it; an industrial card or an SSD does not do it");
    }
    if let Some(device) = device {
        suspect(&device, trial, notebook);
    }
}

fn suspect(device: &device::Device, trial: &DiskTrial, notebook: &mut Notebook) {
    if trial.durability == Durability::Process {
        return;
    }
    if let Some(why) = device::suspicion(device.kind, trial.alone.per_s) {
        let found = format!(
            "{} synced commits/s: {why}; a cache says that it has written what it has not",
            round(trial.alone.per_s)
        );
        let advice =
            "a power cut would lose acknowledged messages; try it (pull the plug), or use a disk that keeps its word";
        notebook.warn(&device.name, found, advice);
    } else if device.kind == Kind::Virtual {
        notebook.note(&device.name, "a virtual disk: whether a sync reaches the real one is up to the host's settings");
    } else if device.write_back == Some(false) && device.kind != Kind::Nvme {
        notebook.note(
            &device.name,
            "the kernel takes its cache for one that survives a power cut, and sends it no flushes",
        );
    }
}

fn waits(pace: &Pace) -> String {
    let [p50, p99, max] = [pace.p50, pace.p99, pace.max].map(milliseconds);
    format!("half wait less than {p50}, 99 of 100 less than {p99}, the longest {max}")
}

fn figures(trial: &DiskTrial) -> Value {
    let pace = |pace: &Pace| {
        json!({
            "messages": pace.messages, "messages_per_s": pace.per_s.round(), "p50_seconds": pace.p50.as_secs_f64(),
            "p99_seconds": pace.p99.as_secs_f64(), "max_seconds": pace.max.as_secs_f64(),
        })
    };
    json!({
        "synced": trial.durability == Durability::Full, "alone": pace(&trial.alone), "together": pace(&trial.together),
        "bulk": pace(&trial.bulk), "written_bytes": trial.written_bytes, "took_seconds": trial.took.as_secs_f64(),
    })
}

/// Two digits are all that such a figure is good for, with a space at the thousands.
fn round(number: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
    let number = number.round().clamp(0.0, 1e12) as u64;
    let digits = number.checked_ilog10().unwrap_or(0);
    let unit = 10_u64.pow(digits.saturating_sub(1));
    let rounded = (number + unit / 2) / unit * unit;
    let text = rounded.to_string();
    let mut out = String::new();
    for (at, digit) in text.chars().enumerate() {
        if at > 0 && (text.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// A time that is measured: `0.4 ms`, `120 ms`, `2.3 s`.
pub(super) fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

/// Seconds of the gateway's JSON: `2h5m`.
pub(super) fn whole_seconds(value: &Value) -> String {
    let seconds = value.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0).unwrap_or(0.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "finite and not negative; saturates")]
    let seconds = seconds.round() as u64;
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let at = units.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(units.len() - 1);
    let mut rest = seconds;
    let mut out = String::new();
    for (unit, letter) in units.iter().skip(at).take(2) {
        if rest / unit > 0 || out.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(out, "{}{letter}", rest / unit);
        }
        rest %= unit;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_two_digits() {
        let table =
            [(0.0, "0"), (7.4, "7"), (184.0, "180"), (9_049.0, "9 000"), (123_456.0, "120 000"), (995.0, "1 000")];
        for (number, expected) in table {
            assert_eq!(round(number), expected);
        }
    }

    #[test]
    fn times_have_the_unit_that_suits() {
        let table = [(400, "0.4 ms"), (12_000, "12 ms"), (2_340_000, "2.3 s")];
        assert!(table.iter().all(|(us, expected)| milliseconds(Duration::from_micros(*us)) == *expected));
        let table = [
            (json!(0.2), "0s"),
            (json!(61), "1m1s"),
            (json!(7_200), "2h"),
            (json!(90_061), "1d1h"),
            (json!(null), "0s"),
        ];
        assert!(table.iter().all(|(seconds, expected)| whole_seconds(seconds) == *expected));
    }
}
