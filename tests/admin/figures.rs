//! Support: a gateway with known figures.

use tidegate::{message::Message, record::Record};

use super::*;

/// A gateway with known figures.
#[derive(Default)]
pub(super) struct Figures {
    pub(super) not_ready: Mutex<Vec<String>>,
    pub(super) panics: bool,
    pub(super) paused: AtomicBool,
    /// What was published.
    pub(super) published: Mutex<Vec<Message>>,
    /// How often the store's figures were asked for.
    pub(super) store_asked: AtomicU64,
}

impl Sources for Figures {
    fn gateway_id(&self) -> String {
        "plant-7".to_owned()
    }
    fn uptime(&self) -> Duration {
        Duration::from_millis(90_500)
    }
    fn clock_synced(&self) -> bool {
        true
    }
    fn streams(&self) -> Vec<StreamStats> {
        assert!(!self.panics, "the figures are broken");
        let telemetry = StreamStats {
            name: "telemetry".to_owned(),
            to: Some("cloud".to_owned()),
            accepted: 1000,
            forwarded: 800,
            expired: 20,
            dropped: vec![("full-oldest".to_owned(), 5), ("offline".to_owned(), 5)],
            dead: vec![("too-large".to_owned(), 3)],
            purged: 7,
            backlog_messages: 160,
            backlog_bytes: 32_000,
            oldest_age: Some(Duration::from_millis(12_345)),
            limit_messages: Some(200),
            limit_bytes: None,
            configured: true,
            kept_messages: 9,
            kept_bytes: 900,
            replayed: 4,
            replay_left: Some(5),
            paused: self.paused.load(Ordering::Relaxed),
        };
        assert!(telemetry.balances());
        let odd = StreamStats { name: "odd \"name\"\\\n".to_owned(), ..StreamStats::default() };
        vec![telemetry, odd]
    }
    fn operate(&self, order: Order) -> admin::Answer<u64> {
        let done = match order {
            Order::Pause { stream } if stream == "telemetry" => {
                self.paused.store(true, Ordering::Relaxed);
                Ok(0)
            }
            Order::Resume { stream } if stream == "telemetry" => {
                self.paused.store(false, Ordering::Relaxed);
                Ok(0)
            }
            Order::Purge { stream, to: u64::MAX } if stream == "telemetry" => Ok(160),
            Order::Purge { stream, to: 7 } if stream == "telemetry" => Ok(1),
            Order::Replay { stream, since_unix_ms: 1_795_257_690_290, until_unix_ms: i64::MAX }
                if stream == "telemetry" =>
            {
                Ok(5)
            }
            Order::StopReplay { stream } if stream == "telemetry" => Ok(3),
            Order::RetryDead { id: 7 } | Order::PurgeDead { id: 7 } => Ok(1),
            Order::PurgeAllDead { stream } => Ok(if stream.is_some() { 2 } else { 3 }),
            Order::Purge { stream, .. } if stream == "stuck" => return Box::pin(std::future::pending()),
            other @ (Order::Pause { .. }
            | Order::Resume { .. }
            | Order::Purge { .. }
            | Order::Replay { .. }
            | Order::StopReplay { .. }
            | Order::RetryDead { .. }
            | Order::PurgeDead { .. }) => {
                Err(Refused { why: Why::NotFound, message: format!("there is nothing for {other:?}") })
            }
        };
        Box::pin(std::future::ready(done))
    }
    fn dead(&self, question: admin::DeadQuestion) -> admin::Answer<Vec<DeadLetter>> {
        let letter = |id, whole| DeadLetter {
            id,
            stream: "telemetry".to_owned(),
            seq: 5,
            reason: "too-large".to_owned(),
            detail: "the packet would be 9 bytes; the upstream takes 8".to_owned(),
            died_unix_ms: Some(1_795_257_690_290),
            accepted_unix_ms: None,
            bytes: 9,
            client: Some("c".to_owned()),
            topic: Some("t".to_owned()),
            message: bool::then(whole, || tidegate::message::Message {
                topic: tidegate::topic::TopicName::new("t").unwrap(),
                payload: bytes::Bytes::from_static(b"\xff"),
                qos: tidegate::message::QoS::AtLeastOnce,
                retain: false,
                client: "c".into(),
                properties: None,
            }),
        };
        let letters = match question {
            admin::DeadQuestion::One(7) => vec![letter(7, true)],
            admin::DeadQuestion::One(_) => vec![],
            admin::DeadQuestion::List { after, limit, .. } => {
                (after + 1..).take(limit).map(|id| letter(id, false)).collect()
            }
        };
        Box::pin(std::future::ready(Ok(letters)))
    }
    fn messages(&self, question: admin::MessagesQuestion) -> admin::Answer<admin::Messages> {
        let record = |sequence, payload: &'static [u8]| Record {
            sequence,
            accepted_unix_ms: 1_795_257_690_290,
            clock_synced: true,
            age_ms: 5,
            message: tidegate::message::Message {
                topic: tidegate::topic::TopicName::new("t/x").unwrap(),
                payload: bytes::Bytes::from_static(payload),
                qos: tidegate::message::QoS::AtLeastOnce,
                retain: false,
                client: "c".into(),
                properties: None,
            },
        };
        let found = if question.stream == "telemetry" {
            let all = [record(7, b"21.5"), record(8, b"\xff")];
            let is_asked = |record: &Record| (question.from..=question.to).contains(&record.sequence);
            let records: Vec<_> = all.into_iter().filter(is_asked).map(|record| (record, None)).collect();
            let next = (records.len() > question.limit).then_some(8);
            let records = records.into_iter().take(question.limit).collect();
            Ok(admin::Messages { head: 7, end: 9, count: Some(2), records, next, unreadable: 0 })
        } else {
            Err(Refused { why: Why::NotFound, message: "there is no such stream".to_owned() })
        };
        Box::pin(std::future::ready(found))
    }
    fn import(&self, stream: String, messages: Vec<Message>, again: bool) -> admin::Answer<admin::Taken> {
        let count = messages.len() as u64;
        let taken = match &*stream {
            "telemetry" if again => Ok(admin::Taken { accepted: count, skipped: 0, stop: None }),
            "telemetry" => Ok(admin::Taken { accepted: count.saturating_sub(1), skipped: 1, stop: None }),
            "full" => Ok(admin::Taken { accepted: 1, skipped: 0, stop: Some(("stream full".to_owned(), false)) }),
            _ => Err(Refused { why: Why::NotFound, message: "there is no such stream".to_owned() }),
        };
        Box::pin(std::future::ready(taken))
    }
    fn publish(&self, message: Message) -> admin::Answer<Published> {
        let done = match message.topic.as_str() {
            "full" => Err(Refused { why: Why::Full, message: "the stream `s` is full".to_owned() }),
            "suspended" => Err(Refused { why: Why::Suspended, message: "the disk fails: I/O error".to_owned() }),
            "stopping" => Err(Refused { why: Why::Stopping, message: "the gateway stops".to_owned() }),
            "$SYS/x" => Err(Refused { why: Why::Reserved, message: "topics below $SYS are ours".to_owned() }),
            "stuck" => {
                self.published.lock().unwrap().push(message);
                return Box::pin(std::future::pending());
            }
            _ => Ok(Published { streams: vec!["telemetry".to_owned()], sessions: 2, retained: message.retain }),
        };
        self.published.lock().unwrap().push(message);
        Box::pin(std::future::ready(done))
    }
    fn publish_max_bytes(&self) -> usize {
        1000
    }
    fn clients(&self, question: &ClientQuestion) -> ClientPage {
        let connection = ClientConnection {
            user: "anonymous".to_owned(),
            listener: "sensors".to_owned(),
            address: "127.0.0.1:5".to_owned(),
            version: "5",
            clean_start: true,
            keep_alive_s: 60,
        };
        let client = |number: usize| {
            let away = number.is_multiple_of(2);
            ClientStats {
                id: format!("c{number:02}"),
                since: Duration::from_millis(1500),
                connection: (!away).then(|| connection.clone()),
                lasting: away,
                ends_in: away.then(|| Duration::from_secs(60)),
                in_flight: 1,
                queued_messages: 2,
                queued_bytes: 3,
                subscriptions: 4,
            }
        };
        let wanted = |client: &ClientStats| {
            let state = if client.connection.is_some() { question.connected } else { question.away };
            state && question.after.as_deref().is_none_or(|after| &*client.id > after)
        };
        let mut clients: Vec<_> = (1..=10).map(client).filter(wanted).collect();
        let more = clients.len() > question.limit;
        clients.truncate(question.limit);
        ClientPage { clients, connected: 5, away: 5, more }
    }
    fn disconnect(&self, client_id: String) -> admin::Answer<()> {
        let refused = |why, message: &str| Err(Refused { why, message: message.to_owned() });
        let done = match &*client_id {
            "c01" | "/a b+#\n\u{e9}?" => Ok(()),
            "c02" => refused(Why::NotConnected, "the client is not connected"),
            _ => refused(Why::NotFound, "there is no such client"),
        };
        Box::pin(std::future::ready(done))
    }
    fn dead_stats(&self) -> DeadStats {
        DeadStats { messages: 3, bytes: 27, retried: 2, purged: 1, dropped: 0 }
    }
    fn store(&self) -> StoreStats {
        self.store_asked.fetch_add(1, Ordering::Relaxed);
        StoreStats {
            bytes: 4096,
            free_bytes: 1 << 40,
            written_bytes: 4096,
            last_commit_ago: Some(Duration::from_millis(250)),
            refusing: None,
            suspended: None,
            stalled: None,
            salvages: 2,
            lost_messages: 7,
            quarantine_bytes: 4096,
            checked: Some(0.5),
        }
    }
    fn uplinks(&self) -> Vec<UplinkStats> {
        vec![UplinkStats {
            name: "cloud".to_owned(),
            state: UplinkState::Waiting,
            since: Duration::from_secs(3),
            last_error: Some("connection refused".to_owned()),
            in_flight: 0,
            connects: 4,
            url: None,
        }]
    }
    fn listeners(&self) -> Vec<ListenerStats> {
        vec![ListenerStats { name: "sensors".to_owned(), bind: "127.0.0.1:1883".to_owned(), connections: 12 }]
    }
    fn not_ready(&self) -> Vec<String> {
        self.not_ready.lock().unwrap().clone()
    }
    fn not_live(&self) -> Vec<String> {
        Vec::new()
    }
}
