//! The properties of MQTT 5 (section 2.2.2), read with every rule about which, how often and where.

use bytestring::ByteString;

use super::{DecodeError, wire::Reader};
use crate::{message::Properties, topic::TopicName};

/// Most user properties taken in one packet; each costs some 64 bytes of memory for 5 bytes on the wire.
pub(crate) const USER_PROPERTIES_MAX: usize = 256;

const PAYLOAD_FORMAT: u8 = 0x01;
const MESSAGE_EXPIRY: u8 = 0x02;
const CONTENT_TYPE: u8 = 0x03;
const RESPONSE_TOPIC: u8 = 0x08;
const CORRELATION_DATA: u8 = 0x09;
pub(crate) const SUBSCRIPTION_ID: u8 = 0x0B;
pub(crate) const SESSION_EXPIRY: u8 = 0x11;
pub(crate) const ASSIGNED_CLIENT_ID: u8 = 0x12;
pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
const AUTH_METHOD: u8 = 0x15;
const AUTH_DATA: u8 = 0x16;
const REQUEST_PROBLEM: u8 = 0x17;
const WILL_DELAY: u8 = 0x18;
const REQUEST_RESPONSE: u8 = 0x19;
pub(crate) const REASON_STRING: u8 = 0x1F;
pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub(crate) const TOPIC_ALIAS: u8 = 0x23;
const USER_PROPERTY: u8 = 0x26;
pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;

/// Which packet the properties belong to, as the set of properties that a client may put into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowed(u64);

const fn set(ids: &[u8]) -> Allowed {
    let mut bits = 0;
    let mut at = 0;
    while at < ids.len() {
        bits |= 1 << ids[at];
        at += 1;
    }
    Allowed(bits)
}

impl Allowed {
    pub(crate) const CONNECT: Self = set(&[
        SESSION_EXPIRY,
        RECEIVE_MAXIMUM,
        MAXIMUM_PACKET_SIZE,
        TOPIC_ALIAS_MAXIMUM,
        REQUEST_RESPONSE,
        REQUEST_PROBLEM,
        USER_PROPERTY,
        AUTH_METHOD,
        AUTH_DATA,
    ]);
    pub(crate) const WILL: Self = set(&[
        WILL_DELAY,
        PAYLOAD_FORMAT,
        MESSAGE_EXPIRY,
        CONTENT_TYPE,
        RESPONSE_TOPIC,
        CORRELATION_DATA,
        USER_PROPERTY,
    ]);
    pub(crate) const PUBLISH: Self = set(&[
        PAYLOAD_FORMAT,
        MESSAGE_EXPIRY,
        CONTENT_TYPE,
        RESPONSE_TOPIC,
        CORRELATION_DATA,
        TOPIC_ALIAS,
        USER_PROPERTY,
    ]);
    pub(crate) const ACK: Self = set(&[REASON_STRING, USER_PROPERTY]);
    pub(crate) const SUBSCRIBE: Self = set(&[SUBSCRIPTION_ID, USER_PROPERTY]);
    pub(crate) const UNSUBSCRIBE: Self = set(&[USER_PROPERTY]);
    pub(crate) const DISCONNECT: Self = set(&[SESSION_EXPIRY, REASON_STRING, USER_PROPERTY]);
    pub(crate) const AUTH: Self = set(&[AUTH_METHOD, AUTH_DATA, REASON_STRING, USER_PROPERTY]);

    const fn has(self, id: u8) -> bool {
        id < 64 && self.0 & (1 << id) != 0
    }
}

/// Everything a client can say in properties.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// What belongs to a message.
    pub(crate) message: Properties,
    pub(crate) subscription_id: Option<u32>,
    pub(crate) session_expiry_s: Option<u32>,
    /// Request Problem Information, where the client says something about it.
    pub(crate) request_problem: Option<u8>,
    pub(crate) topic_alias_maximum: Option<u16>,
    pub(crate) auth_method: bool,
    auth_data: bool,
    pub(crate) will_delay_s: Option<u32>,
    pub(crate) receive_maximum: Option<u16>,
    pub(crate) topic_alias: Option<u16>,
    pub(crate) maximum_packet_size: Option<u32>,
    users: usize,
}

impl Received {
    /// Reads the property length and the properties.
    pub(crate) fn read(reader: &mut Reader<'_>, allowed: Allowed) -> Result<Self, DecodeError> {
        let len = reader.varint()?;
        let mut received = Self::default();
        if len == 0 {
            return Ok(received);
        }
        let mut block = Reader::copying(reader.take(len as usize)?);
        let mut seen = 0u64;
        while !block.is_empty() {
            let id = block.u8()?;
            if id == SUBSCRIPTION_ID && allowed == Allowed::PUBLISH {
                return Err(DecodeError::Protocol("subscription identifier in a PUBLISH from a client"));
            }
            if !allowed.has(id) {
                return Err(DecodeError::Malformed("property that does not belong into this packet"));
            }
            if id != USER_PROPERTY && seen & (1 << id) != 0 {
                return Err(DecodeError::Protocol("property given twice"));
            }
            seen |= 1 << id;
            received.read_one(id, &mut block)?;
        }
        if received.auth_data && !received.auth_method {
            return Err(DecodeError::Protocol("authentication data without a method"));
        }
        Ok(received)
    }

    fn read_one(&mut self, id: u8, block: &mut Reader<'_>) -> Result<(), DecodeError> {
        let message = &mut self.message;
        match id {
            PAYLOAD_FORMAT => message.payload_format = Some(zero_or_one(block)?),
            MESSAGE_EXPIRY => message.message_expiry_s = Some(block.u32()?),
            CONTENT_TYPE => message.content_type = Some(ByteString::from(block.text()?)),
            RESPONSE_TOPIC => {
                let text = ByteString::from(block.text()?);
                TopicName::new(text.clone()).map_err(|_| DecodeError::Protocol("response topic is no topic name"))?;
                message.response_topic = Some(text);
            }
            CORRELATION_DATA => {
                let data = block.binary()?;
                message.correlation_data = Some(block.own(data));
            }
            SUBSCRIPTION_ID => self.subscription_id = Some(not_zero(block.varint()?)?),
            SESSION_EXPIRY => self.session_expiry_s = Some(block.u32()?),
            AUTH_METHOD => self.auth_method = block.text().map(|_| true)?,
            AUTH_DATA => self.auth_data = block.binary().map(|_| true)?,
            REQUEST_PROBLEM => self.request_problem = Some(zero_or_one(block)?),
            REQUEST_RESPONSE => zero_or_one(block).map(|_| ())?,
            WILL_DELAY => self.will_delay_s = Some(block.u32()?),
            REASON_STRING => block.text().map(|_| ())?,
            RECEIVE_MAXIMUM => self.receive_maximum = Some(not_zero(block.u16()?)?),
            TOPIC_ALIAS_MAXIMUM => self.topic_alias_maximum = Some(block.u16()?),
            TOPIC_ALIAS => self.topic_alias = Some(block.u16()?),
            MAXIMUM_PACKET_SIZE => self.maximum_packet_size = Some(not_zero(block.u32()?)?),
            USER_PROPERTY => self.read_user(block)?,
            _ => return Err(DecodeError::Malformed("unknown property")),
        }
        Ok(())
    }

    fn read_user(&mut self, block: &mut Reader<'_>) -> Result<(), DecodeError> {
        self.users += 1;
        if self.users > USER_PROPERTIES_MAX {
            return Err(DecodeError::Quota("user properties"));
        }
        self.message.user.push((ByteString::from(block.text()?), ByteString::from(block.text()?)));
        Ok(())
    }

    /// What travels with the message; `None` where there is nothing.
    pub(crate) fn into_message(self) -> Option<Box<Properties>> {
        (!self.message.is_empty()).then(|| Box::new(self.message))
    }
}

fn zero_or_one(block: &mut Reader<'_>) -> Result<u8, DecodeError> {
    match block.u8()? {
        value @ (0 | 1) => Ok(value),
        _ => Err(DecodeError::Protocol("property that is neither 0 nor 1")),
    }
}

fn not_zero<T: Default + PartialEq>(value: T) -> Result<T, DecodeError> {
    if value == T::default() { Err(DecodeError::Protocol("property that must not be 0")) } else { Ok(value) }
}
