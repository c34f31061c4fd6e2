//! Why messages on their way upstream become dead letters: a closed set of words, the label `reason` of `tidegate_stream_dead_total`.
//!
//! The store adds `damaged`: a row that made no sense when it was read.

/// Larger than the upstream's Maximum Packet Size, or the protocol's, with topic, properties, marks and envelope as it would really be sent.
pub const TOO_LARGE: &str = "too-large";
/// The stream's template gives no valid topic for it.
pub const TOPIC: &str = "topic";
/// The upstream refuses it: at once for codes that speak of the message itself, else proven by a trial.
pub const REFUSED: &str = "refused";
/// The upstream ends the connection whenever it is sent this message: proven by a trial.
pub const HUNG_UP: &str = "hung-up";
/// The upstream never acknowledges it: proven by a trial.
pub const UNANSWERED: &str = "unanswered";
