//! Upstreams of many temperaments: no sound message dies, every poisonous one does, order is kept, connections are bounded.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tidegate::{
    stats::StreamStats,
    uplink::{Backoff, Settings},
};

use crate::{
    gateway::{Gateway, message, settings},
    peer::{ACCEPTED, Fake, Peer},
};

/// What an upstream does with a message.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Take,
    Refuse(u8),
    HangUp,
    /// Never a word on this one.
    Silence,
}

/// What an upstream knows when it decides.
struct Case<'a> {
    topic: &'a str,
    number: u64,
    bytes: usize,
    /// Since the upstream was started.
    elapsed: Duration,
    /// How many connections there were before this one.
    connection: usize,
    /// How many messages it was sent before this one, on all connections.
    count: u64,
}

type Temper = dyn Fn(&Case<'_>) -> Answer + Send + Sync;

/// What an upstream took, in order, by topic's first level behind `up/plant-7/`.
#[derive(Default)]
struct Taken(Mutex<HashMap<String, Vec<u64>>>);

struct Upstream {
    fake: Fake,
    taken: Arc<Taken>,
}

impl Upstream {
    async fn start(temper: impl Fn(&Case<'_>) -> Answer + Send + Sync + 'static) -> Self {
        let (temper, taken) = (Arc::new(temper) as Arc<Temper>, Arc::new(Taken::default()));
        let (begin, count) = (Instant::now(), Arc::new(Mutex::new(0)));
        let book = Arc::clone(&taken);
        let fake = Fake::start(move |connection, peer| {
            serve(peer, connection, begin, Arc::clone(&count), Arc::clone(&temper), Arc::clone(&book))
        })
        .await;
        Self { fake, taken }
    }

    /// Numbers of a stream in the order in which they were first taken.
    fn first_taken(&self, stream: &str) -> Vec<u64> {
        let taken = self.taken.0.lock().unwrap();
        let mut seen = BTreeSet::new();
        taken.get(stream).into_iter().flatten().copied().filter(|number| seen.insert(*number)).collect()
    }
}

async fn serve(
    mut peer: Peer,
    connection: usize,
    begin: Instant,
    count: Arc<Mutex<u64>>,
    temper: Arc<Temper>,
    taken: Arc<Taken>,
) -> Option<()> {
    peer.greet(ACCEPTED).await?;
    loop {
        let publish = peer.publish().await?;
        let topic = std::str::from_utf8(&publish.topic).unwrap();
        let number = crate::gateway::number(&publish);
        let count = {
            let mut count = count.lock().unwrap();
            *count += 1;
            *count - 1
        };
        let case = Case { topic, number, bytes: publish.payload.len(), elapsed: begin.elapsed(), connection, count };
        match temper(&case) {
            Answer::Take => {
                let stream = topic.split('/').nth(2).unwrap().to_owned();
                taken.0.lock().unwrap().entry(stream).or_default().push(number);
                peer.acknowledge(publish.pkid).await?;
            }
            Answer::Refuse(code) => peer.refuse(publish.pkid, code).await?,
            Answer::HangUp => return None,
            Answer::Silence => {}
        }
    }
}

fn quick(port: u16) -> Settings {
    Settings {
        backoff: Backoff { min: Duration::from_millis(2), max: Duration::from_millis(20) },
        progress_timeout: Duration::from_millis(100),
        ..settings(port)
    }
}

/// Sends `count` messages through an upstream and checks that just the `poison` dies, for this reason.
async fn check(
    what: &str,
    upstream: &Upstream,
    count: u64,
    poison: &[u64],
    reason: &str,
    most_connections: usize,
) -> StreamStats {
    let mut gateway = Gateway::new(&["s"]);
    let payload =
        |number: u64| if number % 100 == 50 { format!("{number} {}", "x".repeat(500)) } else { number.to_string() };
    let topic = |number: u64| format!("s/{}", number % 10);
    gateway.publish(0, (1..=count).map(|number| message(&topic(number), payload(number))).collect()).await;
    gateway.start(quick(upstream.fake.port));
    let books = gateway.drained(0).await;
    gateway.stop(Duration::ZERO).await;
    let dead: u64 = books.dead.iter().filter(|(word, _)| word == reason).map(|(_, count)| count).sum();
    assert_eq!((dead, books.dead_total()), (poison.len() as u64, poison.len() as u64), "{what}: {books:?}");
    assert_eq!(books.forwarded, count - dead, "{what}: {books:?}");
    let sound: Vec<_> = (1..=count).filter(|number| !poison.contains(number)).collect();
    let taken = upstream.first_taken("s");
    // Nobody can tell an upstream that recovers between two tries from one that takes the second and not the first.
    let early = (0..taken.len()).filter(|place| taken[*place..].iter().any(|later| *later < taken[*place])).count();
    let most_early = usize::from(what.starts_with("sick"));
    let mut sorted = taken.clone();
    sorted.sort_unstable();
    assert!(sorted == sound && early <= most_early, "{what}: {} of {} came, {early} early", taken.len(), sound.len());
    let connections = upstream.fake.connections();
    assert!(connections <= most_connections, "{what}: {connections} connections");
    books
}

fn poison_every_tenth(count: u64) -> Vec<u64> {
    (1..=count).filter(|number| number % 10 == 3).collect()
}

#[tokio::test]
async fn a_topic_without_a_right_costs_one_trial_and_few_connections() {
    let denied = |case: &Case<'_>| if case.topic.ends_with("/3") { Answer::Refuse(0x87) } else { Answer::Take };
    let upstream = Upstream::start(denied).await;
    let poison = poison_every_tenth(400);
    check("a denied topic", &upstream, 400, &poison, "refused", 10).await;
}

#[tokio::test]
async fn messages_larger_than_the_upstream_says_are_found_whatever_the_code() {
    for code in [0x80, 0x83, 0x87, 0x97, 0x95] {
        let upstream =
            Upstream::start(move |case| if case.bytes > 400 { Answer::Refuse(code) } else { Answer::Take }).await;
        check(&format!("size, 0x{code:02x}"), &upstream, 300, &[50, 150, 250], "refused", 30).await;
    }
}

#[tokio::test]
async fn messages_on_which_the_upstream_hangs_up_are_found_also_two_in_a_row() {
    let poison = [1, 77, 78];
    let upstream =
        Upstream::start(move |case| if poison.contains(&case.number) { Answer::HangUp } else { Answer::Take }).await;
    check("hangs up on some", &upstream, 300, &poison, "hung-up", 200).await;
}

#[tokio::test]
async fn a_message_that_is_never_answered_is_found() {
    let upstream =
        Upstream::start(
            |case| if case.topic.contains("/s/") && case.number == 20 { Answer::Silence } else { Answer::Take },
        )
        .await;
    let mut gateway = Gateway::new(&["s", "other"]);
    gateway.publish_numbers(0, 1..=200).await;
    gateway.start(quick(upstream.fake.port));
    // Enough to follow it are left when it is first suspected.
    gateway.until("left once", |stats| stats.connects == 2).await;
    gateway.publish_numbers(0, 201..=220).await;
    gateway.publish_numbers(1, 1..=100).await;
    assert_eq!(gateway.drained(1).await.forwarded, 100);
    let books = gateway.drained(0).await;
    assert_eq!((books.forwarded, &books.dead[..]), (219, &[("unanswered".to_owned(), 1)][..]));
    assert_eq!(upstream.first_taken("s"), (1..=220).filter(|number| *number != 20).collect::<Vec<_>>());
    assert!(upstream.fake.connections() < 40, "{}", upstream.fake.connections());
    gateway.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn an_upstream_that_fails_on_everything_for_long_costs_nothing() {
    // At waits of 2 to 20 ms, some hundred tries: an hour or two at those of a real gateway.
    const SICK: Duration = Duration::from_millis(1500);
    for sick in [
        Answer::Refuse(0x97),
        Answer::Refuse(0x87),
        Answer::Refuse(0x80),
        Answer::Refuse(0x9b),
        Answer::HangUp,
        Answer::Silence,
    ] {
        let upstream = Upstream::start(move |case| if case.elapsed < SICK { sick } else { Answer::Take }).await;
        check("sick for long", &upstream, 300, &[], "", 400).await;
    }
}

#[tokio::test]
async fn an_upstream_that_hangs_up_right_after_its_greeting_for_long_costs_nothing() {
    let begin = Instant::now();
    let mut fake = Fake::start(move |_, mut peer| async move {
        peer.greet(ACCEPTED).await?;
        if begin.elapsed() < Duration::from_millis(1500) { None } else { peer.acknowledge_all().await }
    })
    .await;
    let mut gateway =
        crate::fake::gateway_with(300, fake.port, |settings| *settings = quick(settings.urls[0].port)).await;
    let books = gateway.drained(0).await;
    assert_eq!((books.forwarded, books.dead_total()), (300, 0), "{books:?}");
    assert!(fake.connections() > 30, "{}", fake.connections());
    let mut seen = BTreeSet::new();
    let first: Vec<_> = fake.numbers().into_iter().filter(|number| seen.insert(*number)).collect();
    assert_eq!(first, (1..=300).collect::<Vec<_>>());
    gateway.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn an_upstream_that_fails_at_random_costs_nothing() {
    for (percent, sick) in [(1, Answer::HangUp), (10, Answer::HangUp), (30, Answer::HangUp)] {
        let upstream = Upstream::start(move |_| if fastrand::u8(..100) < percent { sick } else { Answer::Take }).await;
        check(&format!("hangs up on {percent} %"), &upstream, 300, &[], "", 1000).await;
    }
    // Refused in a window with others that are taken: those behind it have overtaken it.
    let upstream =
        Upstream::start(|_| if fastrand::u8(..100) < 20 { Answer::Refuse(0x97) } else { Answer::Take }).await;
    let mut gateway =
        crate::fake::gateway_with(300, upstream.fake.port, |settings| *settings = quick(settings.urls[0].port)).await;
    let books = gateway.drained(0).await;
    assert_eq!((books.forwarded, books.dead_total()), (300, 0), "{books:?}");
    gateway.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn a_quota_that_comes_and_goes_costs_nothing() {
    let by_time =
        |case: &Case<'_>| if case.elapsed.as_millis() % 60 < 30 { Answer::Refuse(0x97) } else { Answer::Take };
    let by_count = |case: &Case<'_>| if case.count % 400 < 200 { Answer::Take } else { Answer::Refuse(0x97) };
    for upstream in [Upstream::start(by_time).await, Upstream::start(by_count).await] {
        let change = |settings: &mut Settings| *settings = quick(settings.urls[0].port);
        let mut gateway = crate::fake::gateway_with(2000, upstream.fake.port, change).await;
        let books = gateway.drained(0).await;
        assert_eq!((books.forwarded, books.dead_total()), (2000, 0), "{books:?}");
        gateway.stop(Duration::ZERO).await;
    }
    // One message at a time, nothing is overtaken.
    let upstream = Upstream::start(by_time).await;
    let mut gateway = crate::fake::gateway_with(1000, upstream.fake.port, |settings| {
        *settings = Settings { max_inflight: 1, ..quick(settings.urls[0].port) };
    })
    .await;
    assert_eq!(gateway.drained(0).await.forwarded, 1000);
    let taken = upstream.first_taken("s");
    let early = (0..taken.len()).filter(|place| taken[*place..].iter().any(|later| *later < taken[*place])).count();
    assert!(early <= 2, "{early} early");
    gateway.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn one_broken_server_behind_a_balancer_costs_nothing() {
    for broken in [2, 3] {
        let upstream =
            Upstream::start(move |case| if case.connection % broken == 0 { Answer::HangUp } else { Answer::Take })
                .await;
        check(&format!("every {broken}nd is broken"), &upstream, 300, &[], "", 100).await;
    }
}

#[tokio::test]
async fn a_poison_in_one_stream_does_not_hold_up_another() {
    for sick in [Answer::HangUp, Answer::Refuse(0x87), Answer::Silence] {
        let upstream = Upstream::start(move |case| if case.topic.ends_with("a/x") { sick } else { Answer::Take }).await;
        let mut gateway = Gateway::new(&["a", "b"]);
        // A whole stream that the upstream does not take: nothing of it dies, for it may be a right that is missing.
        gateway.publish_numbers(0, 1..=200).await;
        gateway.publish_numbers(1, 1..=2000).await;
        gateway.start(quick(upstream.fake.port));
        assert_eq!(gateway.drained(1).await.forwarded, 2000);
        gateway.publish_numbers(1, 2001..=2100).await;
        assert_eq!(gateway.drained(1).await.forwarded, 2100);
        gateway.stop(Duration::ZERO).await;
        let books = gateway.books(0);
        assert_eq!((books.backlog_messages, books.dead_total()), (200, 0), "{books:?}");
        assert_eq!(upstream.first_taken("b"), (1..=2100).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_stream_without_a_right_flows_in_order_once_it_is_granted() {
    for code in [0x87, 0x90] {
        // Granted while it is tried now and then. In the middle of the first window the rest of that would be taken, and overtake.
        let refused = AtomicU64::new(0);
        let upstream = Upstream::start(move |case| {
            let is_refused = case.topic.contains("/a/") && refused.fetch_add(1, Ordering::Relaxed) < 400;
            if is_refused { Answer::Refuse(code) } else { Answer::Take }
        })
        .await;
        let mut gateway = Gateway::new(&["a", "b"]);
        for stream in 0..2 {
            gateway.publish_numbers(stream, 1..=1000).await;
        }
        gateway.start(quick(upstream.fake.port));
        // A code that speaks of the message costs some their place before it is clear that it speaks of all.
        let most_dead = if code == 0x90 { 64 } else { 0 };
        let books = gateway.drained(0).await;
        assert!(books.dead_total() <= most_dead, "{books:?}");
        assert_eq!(gateway.drained(1).await.forwarded, 1000);
        assert_eq!(upstream.first_taken("a"), (1 + books.dead_total()..=1000).collect::<Vec<_>>());
        gateway.stop(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn a_poison_with_nothing_behind_it_waits_and_is_found_when_others_come() {
    let upstream = Upstream::start(|case| if case.number == 1 { Answer::HangUp } else { Answer::Take }).await;
    let mut gateway = Gateway::new(&["s"]);
    gateway.publish_numbers(0, 1..=1).await;
    gateway.start(quick(upstream.fake.port));
    gateway.until("tried often", |stats| stats.connects > 40).await;
    assert_eq!((gateway.books(0).backlog_messages, gateway.books(0).dead_total()), (1, 0));
    gateway.publish_numbers(0, 2..=50).await;
    let books = gateway.drained(0).await;
    assert_eq!((books.forwarded, &books.dead[..]), (49, &[("hung-up".to_owned(), 1)][..]));
    gateway.stop(Duration::ZERO).await;
}
