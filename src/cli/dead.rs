//! `tidegate dead`: the dead letters.

use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    complain,
    gateway::{Door, Gateway, Trouble, outcome, stream_name},
    source::Where,
    table::layout,
    words::{facts_text, short_time, size, text},
};

/// Dead letters asked for at a time.
const PAGE: usize = 1000;

/// Longest detail in a table.
const DETAIL_CHARS: usize = 80;

/// Shows, retries and purges dead letters: messages that the upstream will never take.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists them, oldest first
    List {
        /// Of this stream only
        #[arg(long, value_parser = stream_name)]
        stream: Option<String>,
        #[command(flatten)]
        place: Where,
    },
    /// Shows one with its payload
    Show {
        /// Its number in the list
        id: u64,
        #[command(flatten)]
        place: Where,
    },
    /// Puts them at the end of their streams as new messages
    Retry {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        door: Door,
    },
    /// Removes them for good
    Purge {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        door: Door,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Their numbers in the list
    ids: Vec<u64>,
    /// All of this stream
    #[arg(long, value_parser = stream_name)]
    stream: Option<String>,
    /// All
    #[arg(long)]
    all: bool,
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    outcome(match &arguments.action {
        Action::List { stream, place } => list(place, stream.as_deref()),
        Action::Show { id, place } => show(place, *id),
        Action::Retry { which, door } => retry(door, which),
        Action::Purge { which, door } => purge(door, which),
    })
}

fn list(place: &Where, stream: Option<&str>) -> Result<(), Trouble> {
    let mut source = place.open()?;
    let mut answer = source.dead(stream, 0, PAGE)?;
    while let Some(after) = answer["next"].as_u64() {
        let mut more = source.dead(stream, after, PAGE)?;
        answer["next"] = more["next"].take();
        if let (Some(all), Value::Array(more)) = (answer["dead"].as_array_mut(), more["dead"].take()) {
            all.extend(more);
        }
    }
    if let Some(object) = answer.as_object_mut() {
        object.remove("next");
    }
    place.door.show(&answer, list_words);
    Ok(())
}

fn page(gateway: &Gateway, stream: Option<&str>, after: u64) -> anyhow::Result<Value> {
    let of = stream.map_or(String::new(), |stream| format!("&stream={stream}"));
    gateway.get(&format!("/api/v1/dead?limit={PAGE}&after={after}{of}"))
}

fn list_words(answer: &Value) -> String {
    let row = |letter: &Value| {
        let detail: String = text(&letter["detail"]).chars().take(DETAIL_CHARS).collect();
        [
            text(&letter["id"]),
            text(&letter["stream"]),
            letter["died"].as_str().map_or_else(|| "-".to_owned(), short_time),
            text(&letter["reason"]),
            text(&letter["topic"]),
            size(&letter["bytes"]),
            detail,
        ]
    };
    let rows: Vec<_> = answer["dead"].as_array().into_iter().flatten().map(row).collect();
    let count = |name: &str| text(&answer[name]);
    let sum = format!(
        "{} dead letters, {}; so far {} retried, {} purged, {} dropped\n",
        count("messages"),
        size(&answer["bytes"]),
        count("retried"),
        count("purged"),
        count("dropped")
    );
    if rows.is_empty() {
        return sum;
    }
    layout(["ID", "STREAM", "DIED (UTC)", "REASON", "TOPIC", "BYTES", "DETAIL"], &rows, &[1, 4, 6]) + "\n" + &sum
}

fn show(place: &Where, id: u64) -> Result<(), Trouble> {
    let letter = place.open()?.dead_letter(id)?;
    place.door.show(&letter, letter_words);
    Ok(())
}

fn letter_words(letter: &Value) -> String {
    let message = &letter["message"];
    let payload = match (message["payload"].as_str(), message["payload_base64"].as_str()) {
        (Some(_), _) => text(&message["payload"]),
        (None, Some(_)) => format!("(base64) {}", text(&message["payload_base64"])),
        (None, None) => "(cannot be read)".to_owned(),
    };
    let user = message["user_properties"].as_array().into_iter().flatten();
    let user = user.map(|pair| format!("{}={}", text(&pair[0]), text(&pair[1]))).collect::<Vec<_>>().join(", ");
    let facts = [
        ("id", text(&letter["id"])),
        ("stream", format!("{}, sequence {}", text(&letter["stream"]), text(&letter["sequence"]))),
        ("reason", text(&letter["reason"])),
        ("detail", text(&letter["detail"])),
        ("accepted", text(&letter["accepted"])),
        ("died", text(&letter["died"])),
        ("client", text(&letter["client"])),
        ("topic", text(&letter["topic"])),
        ("qos", format!("{}, retain {}", text(&message["qos"]), text(&message["retain"]))),
        ("properties", if user.is_empty() { "-".to_owned() } else { user }),
        ("payload", payload),
    ];
    facts_text(&facts)
}

fn retry(door: &Door, which: &Which) -> Result<(), Trouble> {
    let gateway = door.open()?;
    let mut ids = which.ids.clone();
    let mut after = (which.all || which.stream.is_some()).then_some(0);
    // Those there are now: what dies again meanwhile gets a new number, behind the last of these.
    while let Some(from) = after {
        let answer = page(&gateway, which.stream.as_deref(), from)?;
        ids.extend(answer["dead"].as_array().into_iter().flatten().filter_map(|letter| letter["id"].as_u64()));
        after = answer["next"].as_u64();
    }
    each(door, &ids, "retried", |id| gateway.post(&format!("/api/v1/dead/{id}/retry")))
}

fn purge(door: &Door, which: &Which) -> Result<(), Trouble> {
    let gateway = door.open()?;
    let query = match &which.stream {
        Some(stream) => format!("stream={stream}"),
        None if which.all => "all=true".to_owned(),
        None => return each(door, &which.ids, "purged", |id| gateway.delete(&format!("/api/v1/dead/{id}"))),
    };
    let answer = gateway.delete(&format!("/api/v1/dead?{query}"))?;
    door.show(&answer, |answer| format!("{} dead letters purged\n", text(&answer["messages"])));
    Ok(())
}

/// Does something with each of them; goes on where one cannot be done, and fails at the end then.
fn each(door: &Door, ids: &[u64], done: &str, act: impl Fn(u64) -> anyhow::Result<Value>) -> Result<(), Trouble> {
    let mut failed = Vec::new();
    for id in ids {
        if let Err(error) = act(*id) {
            complain(&format!("tidegate: {id}: {error:#}\n"));
            failed.push(*id);
        }
    }
    let count = ids.len() - failed.len();
    door.show(&json!({ "messages": count, "failed": failed }), |_| format!("{count} dead letters {done}\n"));
    match failed.len() {
        0 => Ok(()),
        1 if ids.len() == 1 => Err(anyhow!("not {done}").into()),
        some => Err(anyhow!("{some} of {} not {done}", ids.len()).into()),
    }
}
