//! CONNECT (MQTT 5, section 3.1; MQTT 3.1.1, section 3.1).

use std::{fmt, time::Duration};

use bytes::{Buf, BytesMut};
use bytestring::ByteString;

use super::{
    DecodeError, Manner, Version,
    properties::{Allowed, Received},
    wire::{Reader, peek},
};
use crate::{
    message::{Message, QoS},
    topic::TopicName,
};

/// What a client said when it connected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    /// Empty where the client leaves the choice to us.
    pub(crate) client_id: ByteString,
    /// Clean Start (MQTT 5) or Clean Session (3.1.1).
    pub(crate) clean_start: bool,
    /// 0 = off.
    pub(crate) keep_alive_s: u16,
    /// Seconds that the session outlives the connection; `u32::MAX` = for ever. 3.1.1: 0 or for ever.
    pub(crate) session_expiry_s: u32,
    /// Most unacknowledged QoS 1 and 2 messages that the client takes.
    pub(crate) receive_maximum: u16,
    /// Largest packet that the client takes, in bytes.
    pub(crate) maximum_packet_size: u32,
    /// Highest topic alias that the client takes; 0 = none.
    pub(crate) topic_alias_maximum: u16,
    /// Whether it asks to be told in words what went wrong (Request Problem Information 1, said and not left out).
    pub(crate) wants_reason_strings: bool,
    /// Whether it asks for enhanced authentication.
    pub(crate) enhanced_auth: bool,
    pub(crate) will: Option<Will>,
    pub(crate) username: Option<ByteString>,
    pub(crate) password: Option<Password>,
}

/// What a client says to prove who it is.
#[derive(PartialEq, Eq)]
pub(crate) struct Password(pub(crate) Box<[u8]>);

impl fmt::Debug for Password {
    /// Without the password: this is printed with the packet around it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// What is to be published when the client goes without a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Will {
    /// Its `client` is set once the client id is known.
    pub(crate) message: Message,
    pub(crate) delay: Duration,
}

const CONNECT: u8 = 0x10;

/// Takes the first packet off the buffer; `None` while it is not complete. Anything but a CONNECT fails at its first byte.
pub(crate) fn decode_connect(buffer: &mut BytesMut, max: u32) -> Result<Option<Connect>, DecodeError> {
    match buffer.first() {
        None => return Ok(None),
        Some(first) if first & 0xF0 != CONNECT => {
            return Err(DecodeError::Protocol("the first packet is not a CONNECT"));
        }
        Some(&CONNECT) => {}
        Some(_) => return Err(DecodeError::Malformed("reserved flags of the fixed header")),
    }
    let Some(frame) = peek(buffer, max, false)? else { return Ok(None) };
    if buffer.len() < frame.total {
        return Ok(None);
    }
    let connect = Connect::read(&mut Reader::copying(&buffer[frame.header..frame.total]));
    buffer.advance(frame.total);
    connect.map(Some)
}

/// The version that the beginning of a CONNECT names, for the form of the answer when the rest is wrong.
pub(crate) fn version_of(buffer: &[u8]) -> Option<Version> {
    let frame = peek(buffer, u32::MAX, false).ok()??;
    match buffer.get(frame.header..frame.header + 7)? {
        b"\0\x04MQTT\x05" => Some(Version::V5),
        b"\0\x04MQTT\x04" => Some(Version::V311),
        _ => None,
    }
}

impl Connect {
    /// How the client wants to be answered.
    pub(crate) fn manner(&self) -> Manner {
        Manner {
            version: self.version,
            max_packet: usize::try_from(self.maximum_packet_size).unwrap_or(usize::MAX),
            reason_strings: self.wants_reason_strings,
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let version = read_version(reader)?;
        let flags = Flags::read(reader, version)?;
        let keep_alive_s = reader.u16()?;
        let properties = match version {
            Version::V311 => Received::default(),
            Version::V5 => Received::read(reader, Allowed::CONNECT)?,
        };
        let client_id = ByteString::from(reader.text()?);
        let will = flags.will.map(|will| Will::read(reader, version, will)).transpose()?;
        let username = if flags.username { Some(ByteString::from(reader.text()?)) } else { None };
        let password = if flags.password { Some(Password(reader.binary()?.into())) } else { None };
        reader.end()?;
        let session_expiry_s = match version {
            Version::V311 if flags.clean_start => 0,
            Version::V311 => u32::MAX,
            Version::V5 => properties.session_expiry_s.unwrap_or(0),
        };
        Ok(Self {
            version,
            client_id,
            clean_start: flags.clean_start,
            keep_alive_s,
            session_expiry_s,
            receive_maximum: properties.receive_maximum.unwrap_or(u16::MAX),
            maximum_packet_size: properties.maximum_packet_size.unwrap_or(u32::MAX),
            topic_alias_maximum: properties.topic_alias_maximum.unwrap_or(0),
            wants_reason_strings: properties.request_problem == Some(1),
            enhanced_auth: properties.auth_method,
            will,
            username,
            password,
        })
    }
}

fn read_version(reader: &mut Reader<'_>) -> Result<Version, DecodeError> {
    let name = reader.binary()?;
    let level = reader.u8()?;
    match (name, level) {
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQTT", 5) => Ok(Version::V5),
        (b"MQIsdp", _) => Err(DecodeError::Version { level, answer_v5: false }),
        // Mosquitto's bridges set the top bit; they try again without it after a 3.x answer.
        (b"MQTT", _) => Err(DecodeError::Version { level, answer_v5: (6..0x80).contains(&level) }),
        _ => Err(DecodeError::ProtocolName),
    }
}

struct Flags {
    clean_start: bool,
    will: Option<(QoS, bool)>,
    username: bool,
    password: bool,
}

impl Flags {
    fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let bits = reader.u8()?;
        if bits & 0x01 != 0 {
            return Err(DecodeError::Malformed("reserved connect flag"));
        }
        let will_qos = QoS::from_number((bits >> 3) & 3).ok_or(DecodeError::Malformed("will QoS 3"))?;
        let will_retain = bits & 0x20 != 0;
        let will = bits & 0x04 != 0;
        if !will && (will_qos != QoS::AtMostOnce || will_retain) {
            return Err(DecodeError::Malformed("will QoS or retain without a will"));
        }
        let (username, password) = (bits & 0x80 != 0, bits & 0x40 != 0);
        if password && !username && version == Version::V311 {
            return Err(DecodeError::Malformed("password without a user name"));
        }
        Ok(Self { clean_start: bits & 0x02 != 0, will: will.then_some((will_qos, will_retain)), username, password })
    }
}

impl Will {
    fn read(reader: &mut Reader<'_>, version: Version, (qos, retain): (QoS, bool)) -> Result<Self, DecodeError> {
        let properties = match version {
            Version::V311 => Received::default(),
            Version::V5 => Received::read(reader, Allowed::WILL)?,
        };
        let delay = Duration::from_secs(u64::from(properties.will_delay_s.unwrap_or(0)));
        let topic = TopicName::new(reader.text()?)?;
        let payload = reader.binary()?;
        let payload = reader.own(payload);
        let properties = properties.into_message();
        Ok(Self { message: Message { topic, payload, qos, retain, client: ByteString::new(), properties }, delay })
    }
}
