//! What is wrong and what to do about it, in words: plain decisions about figures, no clock.
//!
//! An alarm says what is the matter, with the figure that shows it, and what helps. It is there as long as what it is about: nothing has to be
//! acknowledged, and nothing is kept. Most urgent first: *critical* (messages are refused or lost, or soon will be), *warning* (somebody
//! should do something), *notice* (somebody should know).

use std::time::Duration;

use serde::Serialize;

use super::rates::Rates;
use crate::{
    stats::{DeadStats, StoreStats, StreamStats, UplinkState, UplinkStats},
    units::{format_duration, short_size},
};

/// An uplink that is away for less has no alarm: connections are made again all the time.
const AWAY_AFTER: Duration = Duration::from_secs(3);
/// A disk that does not answer for so long holds up whoever publishes.
const STALLED_AFTER: Duration = Duration::from_secs(5);
/// Share of its limit from which a backlog is a warning, and from which it is critical.
const NEARLY_FULL: (f64, f64) = (0.8, 0.95);
/// A limit that will be reached within this time at the present pace is worth a word before it is near.
const FULL_SOON: f64 = 6.0 * 3600.0;
/// From so much of its limit on, the time until it is full is told: below it, a burst would cry wolf.
const WORTH_A_FORECAST: f64 = 0.2;
/// A certificate that ends within this time.
const ENDS_SOON_S: i64 = 21 * 24 * 3600;

/// How urgent it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// Messages are refused or lost, or soon will be.
    Critical,
    /// Somebody should do something.
    Warning,
    /// Somebody should know.
    Notice,
}

/// What it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum About {
    /// The gateway as a whole.
    Gateway,
    /// The store and its disk.
    Store,
    /// One uplink.
    Uplink,
    /// One stream.
    Stream,
    /// The dead letters.
    Dead,
    /// The system's clock.
    Clock,
    /// A certificate.
    Certificate,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Alarm {
    level: Level,
    about: About,
    /// Which uplink, stream or file.
    name: Option<String>,
    /// What is the matter.
    what: String,
    /// What helps.
    advice: String,
}

/// A stream with what is known about its way.
pub(super) struct Flow<'a> {
    /// Its books.
    pub(super) books: &'a StreamStats,
    /// How it moves.
    pub(super) rates: Rates,
    /// What expired or was dropped in the last hour.
    pub(super) lost_in_hour: u64,
}

/// A certificate of a listener.
pub(super) struct Certificate {
    /// Its file.
    pub(super) file: String,
    /// How long it is good for; negative where it has ended.
    pub(super) left_s: i64,
}

/// All figures that are judged.
pub(super) struct Picture<'a> {
    pub(super) not_ready: &'a [String],
    pub(super) store: &'a StoreStats,
    /// Each with how long it has been away, where it is.
    pub(super) uplinks: &'a [(UplinkStats, Option<Duration>)],
    pub(super) streams: &'a [Flow<'a>],
    pub(super) dead: DeadStats,
    pub(super) clock_synced: bool,
    pub(super) certificates: &'a [&'a Certificate],
}

impl Alarm {
    fn new(level: Level, about: About, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level, about, name: None, what: what.into(), advice: advice.into() }
    }

    fn of(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }
}

/// Everything that is wrong, most urgent first.
pub(super) fn judge(picture: &Picture<'_>) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    alarms.extend(of_store(picture.store));
    alarms.extend(of_gateway(picture.not_ready, picture.store));
    alarms.extend(picture.uplinks.iter().filter_map(|(uplink, away)| of_uplink(uplink, *away, picture.streams)));
    alarms.extend(picture.streams.iter().flat_map(of_stream));
    alarms.extend(of_dead(picture.dead));
    alarms.extend((!picture.clock_synced).then(|| {
        let what = "The clock of this device has not been set: times of messages may be wrong.";
        let advice = "Check the time service (`timedatectl`, chrony, NTP server). Messages stored meanwhile are marked, and their times \
                      are corrected once the clock is set.";
        Alarm::new(Level::Warning, About::Clock, what, advice)
    }));
    alarms.extend(picture.certificates.iter().copied().filter_map(of_certificate));
    alarms.sort_by_key(|alarm| alarm.level);
    alarms
}

fn of_store(store: &StoreStats) -> impl Iterator<Item = Alarm> {
    let critical = |what: String, advice: &str| Alarm::new(Level::Critical, About::Store, what, advice);
    let refusing = match (&store.suspended, store.refusing.as_deref()) {
        (Some(cause), _) => Some(critical(
            format!("Nothing can be stored: {cause}."),
            "Clients keep what is not acknowledged. Look at the disk (`tidegate doctor`, `dmesg`): free space, or replace it. Work resumes by itself.",
        )),
        (None, Some("max_bytes reached")) => Some(critical(
            format!(
                "New messages are refused: the store has reached `max_bytes` ({} in use).",
                short_size(store.bytes)
            ),
            "Bring an upstream back so that the backlog drains, purge a stream that is not needed, or raise `max_bytes` of [store].",
        )),
        (None, Some(why)) => Some(critical(
            format!("New messages are refused: {why} ({} free).", short_size(store.free_bytes)),
            "Free space on the file system of the data directory, or lower `min_free` of [store]. Work resumes by itself.",
        )),
        (None, None) => None,
    };
    let stalled = store.stalled.filter(|stalled| *stalled >= STALLED_AFTER).map(|stalled| {
        critical(
            format!("The disk has not answered for {}; acknowledgements wait for it.", words(stalled)),
            "If this comes back again and again, the medium is failing: look at `dmesg`, and replace it. Nothing acknowledged is lost by waiting.",
        )
    });
    let salvaged = (store.salvages > 0).then(|| {
        let times = if store.salvages == 1 { "once".to_owned() } else { format!("{} times", store.salvages) };
        let lost = match store.lost_messages {
            0 => "no message was lost by it".to_owned(),
            1 => "1 stored message could not be read any more".to_owned(),
            lost => format!("{} stored messages could not be read any more", count(lost)),
        };
        let advice = "Check power supply and storage medium of this device. The count stays, so that whoever looks once a day sees it.";
        Alarm::new(Level::Warning, About::Store, format!("A damaged database was salvaged {times}; {lost}."), advice)
    });
    let aside = (store.quarantine_bytes > 0).then(|| {
        let what =
            format!("{} of databases that were set aside lie in the folder `quarantine`.", short_size(store.quarantine_bytes));
        let advice =
            "They were damaged, or replaced by a restore. Keep them if somebody is to look at them; otherwise delete them by hand.";
        Alarm::new(Level::Notice, About::Store, what, advice)
    });
    refusing.into_iter().chain(stalled).chain(salvaged).chain(aside)
}

/// What is not ready for another reason than the store, which speaks for itself.
fn of_gateway(not_ready: &[String], store: &StoreStats) -> Option<Alarm> {
    let known = store.suspended.is_some() || store.refusing.is_some() || store.stalled.is_some();
    let why = not_ready.first().filter(|why| !known || *why == "stopping")?;
    let advice =
        "The gateway goes down in order: what is acknowledged is on disk. It is back when it is started again.";
    let advice = if why == "stopping" { advice } else { "The log of the gateway says more: `journalctl -u tidegate`." };
    Some(Alarm::new(Level::Critical, About::Gateway, format!("The gateway is not ready: {why}."), advice))
}

fn of_uplink(uplink: &UplinkStats, away: Option<Duration>, streams: &[Flow<'_>]) -> Option<Alarm> {
    let away = away.filter(|away| uplink.state != UplinkState::Connected && *away >= AWAY_AFTER)?;
    let waiting: u64 = streams
        .iter()
        .filter(|flow| flow.books.to.as_deref() == Some(&uplink.name))
        .map(|flow| flow.books.backlog_messages)
        .sum();
    let why = uplink.last_error.as_deref().map_or_else(String::new, |error| format!(": {}", full_stop(error)));
    let kept = match waiting {
        0 => "Nothing waits for it at the moment.".to_owned(),
        1 => "1 message waits for it, safe on disk.".to_owned(),
        waiting => format!("{} messages wait for it, safe on disk.", count(waiting)),
    };
    let name = &uplink.name;
    let what =
        format!("The uplink {name} has been away for {}{}", words(away), if why.is_empty() { "." } else { &why });
    let advice = format!(
        "{kept} It is tried again by itself. Check network and upstream; `tidegate doctor` tries every step of the way (name, port, TLS, login)."
    );
    Some(Alarm::new(Level::Warning, About::Uplink, what, advice).of(name))
}

fn of_stream(flow: &Flow<'_>) -> Vec<Alarm> {
    let books = flow.books;
    let alarm = |level, what: String, advice: &str| Alarm::new(level, About::Stream, what, advice).of(&books.name);
    let name = &books.name;
    let mut alarms = Vec::from_iter(nearly_full(flow));
    if flow.lost_in_hour > 0 {
        let lost = flow.lost_in_hour;
        let what = format!("The stream {name} lost {} {} in the last hour.", count(lost), messages(lost));
        let advice = "They expired, or were dropped at its limit: its card below says how many of each, and why. A longer `ttl` or higher \
                      limits help, or an upstream that is reached sooner.";
        alarms.push(alarm(Level::Warning, what, advice));
    }
    if !books.configured {
        let what = format!(
            "The stream {name} is not in the configuration any more; {} {} still kept.",
            count(books.backlog_messages),
            if books.backlog_messages == 1 { "message of it is" } else { "messages of it are" }
        );
        let advice = "Put it back into the configuration and they go on their way, or export and purge them.";
        alarms.push(alarm(Level::Warning, what, advice));
    } else if books.paused {
        let what = format!(
            "The stream {name} was paused by an operator; {} {} waiting.",
            count(books.backlog_messages),
            if books.backlog_messages == 1 { "message is" } else { "messages are" }
        );
        alarms.push(alarm(Level::Notice, what, "Resume it, and it goes on where it stopped."));
    }
    alarms
}

/// A backlog near its limit, or one that will be there within hours.
fn nearly_full(flow: &Flow<'_>) -> Option<Alarm> {
    let books = flow.books;
    let used = books.share_of_limit()?;
    let left = seconds_to_full(flow).filter(|left| *left <= FULL_SOON);
    let level = match used {
        used if used >= NEARLY_FULL.1 => Level::Critical,
        used if used >= NEARLY_FULL.0 || left.is_some() && used >= WORTH_A_FORECAST => Level::Warning,
        _ => return None,
    };
    let when = match left {
        Some(left) if used < 1.0 => {
            format!("; full in about {} at the present pace", words(Duration::from_secs_f64(left)))
        }
        Some(_) | None => String::new(),
    };
    let what = format!("The stream {} takes {:.0} % of its limit{when}.", books.name, (used * 100.0).floor());
    let advice = "Bring its upstream back, raise `max_bytes` or `max_messages`, or purge it. When it is full, `when_full` decides: refuse \
                  new messages or drop some.";
    Some(Alarm::new(level, About::Stream, what, advice).of(&books.name))
}

/// Time until the nearer limit is reached if things go on like this; `None` where the backlog does not grow.
#[expect(clippy::cast_precision_loss, reason = "a forecast may be rounded")]
fn seconds_to_full(flow: &Flow<'_>) -> Option<f64> {
    let (books, rates) = (flow.books, flow.rates);
    let grows_per_s = rates.in_per_s - rates.out_per_s;
    if grows_per_s <= 0.0 || books.backlog_messages == 0 {
        return None;
    }
    let used = books.share_of_limit()?.max(f64::MIN_POSITIVE);
    // The nearer limit in messages of the size that those of the backlog have.
    let limit = books.backlog_messages as f64 / used;
    Some(((limit - books.backlog_messages as f64) / grows_per_s).max(0.0)).filter(|left| left.is_finite())
}

fn of_dead(dead: DeadStats) -> Option<Alarm> {
    let what = match dead.messages {
        0 => return None,
        1 => "1 message could not be delivered and is kept as a dead letter.".to_owned(),
        many => format!("{} messages could not be delivered and are kept as dead letters.", count(many)),
    };
    let advice = "Look at them below: each says why. Retry them once the cause is gone, or delete them.";
    Some(Alarm::new(Level::Warning, About::Dead, what, advice))
}

fn of_certificate(certificate: &Certificate) -> Option<Alarm> {
    let Certificate { file, left_s } = certificate;
    let ends = Duration::from_secs(left_s.unsigned_abs());
    let (level, what) = match left_s {
        left if *left <= 0 => (Level::Critical, format!("The certificate {file} ended {} ago.", words(ends))),
        left if *left <= ENDS_SOON_S => (Level::Warning, format!("The certificate {file} ends in {}.", words(ends))),
        _ => return None,
    };
    let advice = "Put a new one in its place: the gateway takes it without a restart.";
    Some(Alarm::new(level, About::Certificate, what, advice).of(file))
}

fn messages(count: u64) -> &'static str {
    if count == 1 { "message" } else { "messages" }
}

/// Two units are enough for people: `3h20m`.
fn words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let rounded = match seconds {
        0..3600 => seconds,
        3600..86_400 => seconds / 60 * 60,
        _ => seconds / 3600 * 3600,
    };
    format_duration(Duration::from_secs(rounded))
}

/// A number with its digits in groups of three.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let group = |(at, digit): (usize, char)| {
        let gap = at > 0 && digits.len() > 4 && (digits.len() - at).is_multiple_of(3);
        gap.then_some('\u{202f}').into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(group).collect()
}

fn full_stop(text: &str) -> String {
    if text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}

#[cfg(test)]
mod tests;
