//! MQTT 5.0, by sections of the specification.

mod data;
