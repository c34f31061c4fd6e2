//! `$SYS`: what the gateway says of itself, as retained messages, in Mosquitto's names where it has them.
//!
//! | below `$SYS/` | is |
//! | --- | --- |
//! | `broker/...` | what mosquitto(8) lists under "broker status", from the same counters as the metrics |
//! | `broker/connection/UPLINK/state` | 1 while the uplink is connected, as Mosquitto says it of a bridge |
//! | `tidegate/...` | what Mosquitto has no name for: refusals and drops by reason; streams, uplinks, store, listeners |
//!
//! Mosquitto's `heap/current` and `heap/maximum` are not there: the allocator does not say, and the resident memory of
//! the process, which `tidegate/process/resident_bytes` has, is something else.
//!
//! - The values live here, in memory, and never in the store: a restart makes them anew, and flash is not worn.
//! - They go to subscribers at QoS 0, so that they never wait for a client that is away. (Mosquitto sends them at up to
//!   QoS 2, and a session that is away fills its queue with them.)
//! - Every [`INTERVAL`], and only while somebody is subscribed below `$SYS`, they are computed, and those that changed
//!   are sent. Where nobody was, they are computed when somebody subscribes, who gets them as retained messages.
//!   Only the load averages are sampled at all times (nine subtractions): nobody could make up for them later.
//! - They are the gateway's own: clients cannot publish below `$SYS` (MQTT 5, section 4.7.2), wills included, and no
//!   stream takes them, whatever its `from`, because they do not pass the intake.
//! - Filters that begin with a wildcard do not match them, as no topic that begins with `$`.

mod facts;
mod load;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use self::load::Loads;
use super::{fanout::Publication, hub::Hub};
use crate::{
    beat,
    message::{Message, QoS},
    topic::{TopicFilter, TopicName},
};

/// The first level of all these topics.
const ROOT: &str = "$SYS";

/// How often values are computed and sent; as Mosquitto's `sys_interval`.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

/// What others have to say below `$SYS/`: pairs of name and value. Called now and then, from a task; must not block.
pub type SysFacts = Box<dyn Fn() -> Vec<(String, String)> + Send + Sync>;

/// The values.
pub(crate) struct Sys {
    started: Instant,
    values: Mutex<Values>,
    /// Handed in once the other rooms are there.
    more: OnceLock<SysFacts>,
}

#[derive(Debug)]
struct Values {
    by_topic: BTreeMap<TopicName, Arc<Publication>>,
    loads: Loads,
    sampled: Instant,
    /// Nobody was subscribed when it was last looked: the values are old, or not there at all.
    idle: bool,
}

impl fmt::Debug for Sys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sys").field("started", &self.started).field("values", &self.values).finish_non_exhaustive()
    }
}

/// Whether a topic is the gateway's own, to which clients must not publish.
pub(crate) fn is_reserved(topic: &TopicName) -> bool {
    is_below_root(topic.as_str())
}

fn is_below_root(text: &str) -> bool {
    text.strip_prefix(ROOT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Sys {
    pub(crate) fn new(now: Instant) -> Self {
        let values = Values { by_topic: BTreeMap::new(), loads: Loads::default(), sampled: now, idle: true };
        Self { started: now, values: Mutex::new(values), more: OnceLock::new() }
    }

    /// What others have to say, from now on; the first call counts.
    pub(crate) fn add(&self, facts: SysFacts) {
        // A second one would be a mistake of the program, and harms nobody.
        let _ = self.more.set(facts);
    }

    /// The retained messages for a new subscription.
    pub(crate) fn matching(&self, hub: &Hub, filter: &TopicFilter) -> Vec<Arc<Publication>> {
        if !is_below_root(filter.as_str()) {
            return Vec::new();
        }
        let mut values = self.values();
        if std::mem::replace(&mut values.idle, false) {
            self.compute(&mut values, hub, Instant::now());
        }
        let matching = values.by_topic.iter().filter(|(topic, _)| filter.matches(topic));
        matching.map(|(_, publication)| Arc::clone(publication)).collect()
    }

    fn values(&self) -> MutexGuard<'_, Values> {
        // Whole after every statement, so a panic elsewhere does not spoil it.
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Computes everything, and gives what changed.
    fn compute(&self, values: &mut Values, hub: &Hub, now: Instant) -> Vec<Message> {
        let mut facts = facts::broker(hub, now.saturating_duration_since(self.started));
        facts.extend(values.loads.facts());
        facts.extend(self.more.get().into_iter().flat_map(|more| more()));
        let mut changed = Vec::new();
        let mut by_topic = BTreeMap::new();
        for (name, value) in facts {
            // Names come from the configuration, and are checked there.
            let Ok(topic) = TopicName::new(format!("{ROOT}/{name}")) else { continue };
            let publication = match values.by_topic.remove(&topic) {
                Some(old) if old.message.payload == value.as_bytes() => old,
                Some(_) | None => {
                    let message = message(topic.clone(), value);
                    changed.push(message.clone());
                    Arc::new(Publication::new(message, now))
                }
            };
            by_topic.insert(topic, publication);
        }
        values.by_topic = by_topic;
        changed
    }

    /// One interval has passed: gives what is to be sent.
    fn tick(&self, hub: &Hub, now: Instant) -> Vec<Message> {
        let wanted = hub.fanout.is_subscribed_below(ROOT);
        let mut values = self.values();
        let elapsed = now.saturating_duration_since(std::mem::replace(&mut values.sampled, now));
        values.loads.sample(facts::loads(hub), elapsed);
        values.idle = !wanted;
        if wanted { self.compute(&mut values, hub, now) } else { Vec::new() }
    }
}

fn message(topic: TopicName, value: String) -> Message {
    let (qos, client) = (QoS::AtMostOnce, bytestring::ByteString::new());
    Message { topic, payload: value.into(), qos, retain: true, client, properties: None }
}

/// Keeps the values up to date until the broker stops.
pub(crate) async fn run(hub: Arc<Hub>) {
    loop {
        tokio::select! {
            () = beat::wait(INTERVAL) => {}
            () = hub.stopping.cancelled() => return,
        }
        let now = Instant::now();
        let changed = hub.sys.tick(&hub, now);
        // First all of these, for a round holds the subscriptions too.
        let routes: Vec<_> = changed.iter().map(|message| hub.fanout.route(message).onward).collect();
        let mut round = hub.fanout.round(now);
        for (message, onward) in changed.into_iter().zip(routes) {
            hub.deliver(message, &[], onward, false, &mut round);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_the_root_is_reserved() {
        for (topic, reserved) in
            [("$SYS", true), ("$SYS/a", true), ("$SYSTEM", false), ("a/$SYS", false), ("$sys/a", false)]
        {
            assert_eq!(is_reserved(&TopicName::new(topic).unwrap()), reserved, "{topic}");
        }
    }
}
