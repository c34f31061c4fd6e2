//! A stored message as a line of JSON: what `export` writes, `import` reads, and the HTTP interface shows; pure.
//!
//! One object a line (RFC 8259, UTF-8), oldest message first. Lines of several files may follow each other, be sorted out with `grep` or
//! `jq`, or be written by hand: only `topic` and one of `payload` and `payload_base64` must be there.
//!
//! | member | what it is | without it, when imported |
//! | --- | --- | --- |
//! | `v` | version of this format: 1 | 1 |
//! | `sequence` | number in the stream | passed over: the stream gives the next one |
//! | `id` | `tg-id`: `<gateway>/<stream>/<sequence>` | the new gateway's own |
//! | `time` | when it was accepted, RFC 3339 | the time of the import |
//! | `clock` | `"synced"`, or `"unsynced"` where the clock was not set then | `"synced"` |
//! | `client` | who published it | nobody |
//! | `topic` | what it was published to | must be there |
//! | `qos`, `retain` | of the PUBLISH that brought it | 1, `false` |
//! | `payload` | the payload, where it is UTF-8, as a string | one of the two must be there |
//! | `payload_base64` | the payload, where it is not (RFC 4648, padded) | |
//! | `expires` | when its message expiry interval is over, RFC 3339 | never |
//! | `payload_format`, `content_type`, `response_topic`, `correlation_data_base64` | properties of MQTT 5 | none |
//! | `user_properties` | `[["name","value"], ..]`, in their order | none |
//! | `dead` | of a dead letter: `id`, `reason`, `detail`, `died` | passed over |
//!
//! What does not exist is left out. An unknown member is refused, for it may be a misspelt one. `time` is stored only together with `id`; a line with one of them
//! alone is refused.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    message::{Message, Origin, Properties, QoS},
    topic::TopicName,
    units::rfc3339_of_unix_ms,
};

/// The version of the format that is written.
const VERSION: u32 = 1;

/// Longest string and binary data of MQTT (MQTT 5, sections 1.5.4 and 1.5.6).
const MQTT_TEXT_MAX: usize = 65_535;

/// Most user properties of a line; a client cannot send more within the largest packet that listeners take by default.
const USER_PROPERTIES_MAX: usize = 4096;

/// A stored message with what the gateway knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number in the stream.
    pub sequence: u64,
    /// When the stream took it, in milliseconds since 1970 (UTC).
    pub accepted_unix_ms: i64,
    /// Whether the clock of that time has been set.
    pub clock_synced: bool,
    /// Its age in milliseconds.
    pub age_ms: u64,
    /// The message.
    pub message: Message,
}

/// What a dead letter is beside its message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Death {
    /// Its id among the dead letters.
    pub id: u64,
    /// Why, in one word.
    pub reason: String,
    /// The whole story.
    pub detail: String,
    /// When, RFC 3339; `None` where nobody knows any more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub died: Option<String>,
}

/// A line; see the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table of the module has them all")]
pub struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    pub topic: String,
    #[serde(default = "usual_qos")]
    pub qos: u8,
    #[serde(default)]
    pub retain: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_format: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_data_base64: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub user_properties: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead: Option<Death>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
}

/// Whether the clock was set when a message was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// It was, or has been corrected since.
    Synced,
    /// It was not.
    Unsynced,
}

const fn usual_qos() -> u8 {
    1
}

impl Line {
    /// The line of a message in the stream `own` (`<gateway>/<stream>`), as of `now_unix_ms`.
    pub fn new(record: &Record, own: &str, now_unix_ms: i64) -> Self {
        let message = &record.message;
        let given = message.properties.as_deref();
        let origin = given.and_then(|properties| properties.origin.as_deref());
        let accepted_unix_ms = origin.map_or(record.accepted_unix_ms, |origin| origin.accepted_unix_ms);
        let synced = origin.map_or(record.clock_synced, |origin| origin.clock_synced);
        let text = |text: &ByteString| text.to_string();
        let payload = std::str::from_utf8(&message.payload).ok().map(str::to_owned);
        let expires = given.and_then(|properties| properties.message_expiry_s).and_then(|seconds| {
            let left_ms = (i64::from(seconds) * 1000).saturating_sub_unsigned(record.age_ms);
            rfc3339_of_unix_ms(now_unix_ms.saturating_add(left_ms))
        });
        Self {
            v: Some(VERSION),
            sequence: Some(record.sequence),
            id: Some(origin.map_or_else(|| format!("{own}/{}", record.sequence), Origin::id)),
            // A clock beyond all years is none.
            time: rfc3339_of_unix_ms(accepted_unix_ms).or_else(|| rfc3339_of_unix_ms(0)),
            clock: Some(if synced { Clock::Synced } else { Clock::Unsynced }),
            client: Some(text(&message.client)).filter(|client| !client.is_empty()),
            topic: message.topic.as_str().to_owned(),
            qos: message.qos.number(),
            retain: message.retain,
            expires,
            payload_format: given.and_then(|properties| properties.payload_format),
            content_type: given.and_then(|properties| properties.content_type.as_ref()).map(text),
            response_topic: given.and_then(|properties| properties.response_topic.as_ref()).map(text),
            correlation_data_base64: given
                .and_then(|properties| properties.correlation_data.as_ref())
                .map(|data| BASE64.encode(data)),
            user_properties: given
                .map_or(&[][..], |properties| &properties.user)
                .iter()
                .map(|(name, value)| (text(name), text(value)))
                .collect(),
            dead: None,
            payload_base64: payload.is_none().then(|| BASE64.encode(&message.payload)),
            payload,
        }
    }

    /// Reads a line. The error says what is wrong, and what would be right.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            v: Option<serde_json::Value>,
        }
        if let Ok(Version { v: Some(v) }) = serde_json::from_slice(text)
            && v != VERSION
        {
            return Err(format!("version {v} of the format; this program knows version {VERSION}"));
        }
        serde_json::from_slice(text).map_err(|error| {
            let error = error.to_string();
            // There is only one line: its number within the text says nothing.
            error.rsplit_once(" at line ").map_or(error.clone(), |(what, place)| {
                format!("{what} (column {})", place.rsplit(' ').next().unwrap_or_default())
            })
        })
    }

    /// The payload.
    pub fn payload(&self) -> Result<Bytes, String> {
        match (&self.payload, &self.payload_base64) {
            (Some(text), None) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            (None, Some(base64)) => BASE64
                .decode(base64)
                .map(Bytes::from)
                .map_err(|error| format!("`payload_base64` is no base64 (RFC 4648, padded): {error}")),
            (None, None) => Err("there is neither `payload` nor `payload_base64`".to_owned()),
            (Some(_), Some(_)) => Err("`payload` and `payload_base64` are both there; one is expected".to_owned()),
        }
    }

    /// The message that is imported, as of `now_unix_ms`; its origin is among its properties.
    pub fn message(&self, now_unix_ms: i64) -> Result<Message, String> {
        let topic = TopicName::new(self.topic.as_str()).map_err(|error| format!("`topic` {error}"))?;
        let qos = QoS::from_number(self.qos).ok_or_else(|| format!("`qos` is {}; expected 0, 1 or 2", self.qos))?;
        let expiry_s = |expires: &String| -> Result<u32, String> {
            let left_ms = unix_ms("expires", expires)?.saturating_sub(now_unix_ms).max(0);
            Ok(u32::try_from(left_ms / 1000).unwrap_or(u32::MAX))
        };
        let correlation_data = self.correlation_data_base64.as_ref().map(|base64| {
            let data = BASE64.decode(base64);
            let data = data.map_err(|error| format!("`correlation_data_base64` is no base64: {error}"))?;
            if data.len() > MQTT_TEXT_MAX { Err(too_long("correlation_data_base64")) } else { Ok(Bytes::from(data)) }
        });
        if self.user_properties.len() > USER_PROPERTIES_MAX {
            return Err(format!("more than {USER_PROPERTIES_MAX} `user_properties`"));
        }
        let user = self
            .user_properties
            .iter()
            .map(|(name, value)| Ok::<_, String>((text("user_properties", name)?, text("user_properties", value)?)));
        if self.payload_format.is_some_and(|format| format > 1) {
            return Err("`payload_format` is neither 0 (bytes) nor 1 (UTF-8)".to_owned());
        }
        let optional = |name, value: &Option<String>| value.as_ref().map(|value| text(name, value)).transpose();
        let properties = Properties {
            payload_format: self.payload_format,
            message_expiry_s: self.expires.as_ref().map(expiry_s).transpose()?,
            content_type: optional("content_type", &self.content_type)?,
            response_topic: optional("response_topic", &self.response_topic)?,
            correlation_data: correlation_data.transpose()?,
            user: user.collect::<Result<_, _>>()?,
            origin: self.origin()?.map(Box::new),
        };
        Ok(Message {
            topic,
            payload: self.payload()?,
            qos,
            retain: self.retain,
            client: optional("client", &self.client)?.unwrap_or_default(),
            properties: (!properties.is_empty()).then(|| Box::new(properties)),
        })
    }

    fn origin(&self) -> Result<Option<Origin>, String> {
        let (id, time) = match (&self.id, &self.time) {
            (Some(id), Some(time)) => (id, time),
            (None, None) => return Ok(None),
            (Some(_), None) => return Err("`id` without `time`; leave out both, or neither".to_owned()),
            (None, Some(_)) => return Err("`time` without `id`; leave out both, or neither".to_owned()),
        };
        let is_name = |name: &str| {
            (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        };
        let parts = id.rsplit_once('/').and_then(|(source, sequence)| {
            let (gateway, stream) = source.split_once('/')?;
            let sequence: u64 = sequence.parse().ok().filter(|sequence| *sequence < 1 << 62)?;
            (is_name(gateway) && is_name(stream)).then_some((source, sequence))
        });
        let Some((source, sequence)) = parts else {
            return Err("`id` is not <gateway>/<stream>/<number>, as export writes it".to_owned());
        };
        let clock_synced = self.clock != Some(Clock::Unsynced);
        Ok(Some(Origin { source: source.into(), sequence, accepted_unix_ms: unix_ms("time", time)?, clock_synced }))
    }
}

fn text(name: &str, value: &str) -> Result<ByteString, String> {
    match value {
        value if value.len() > MQTT_TEXT_MAX => Err(too_long(name)),
        value if value.contains('\0') => Err(format!("`{name}` has the character U+0000, which MQTT does not allow")),
        value => Ok(ByteString::from(value)),
    }
}

fn too_long(name: &str) -> String {
    format!("`{name}` is longer than {MQTT_TEXT_MAX} bytes, which MQTT cannot carry")
}

fn unix_ms(name: &str, text: &str) -> Result<i64, String> {
    let parsed = OffsetDateTime::parse(text, &Rfc3339).ok();
    parsed
        .and_then(|time| i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000_000)).ok())
        .ok_or_else(|| format!("`{name}` is no time of RFC 3339 such as 2026-11-21T10:00:00.000Z"))
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
