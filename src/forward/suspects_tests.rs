//! Tests of suspects: one stream, its suspect and its followers against upstreams of every kind, without clock or socket.

use super::*;
use proptest::prelude::*;

const BACKOFF: Backoff = Backoff { min: Duration::from_millis(500), max: Duration::from_secs(60) };

/// What became of the suspect.
#[derive(Debug, PartialEq)]
enum End {
    Taken,
    Dead(Dead),
    /// It still waits.
    Held,
}

/// How a trial went.
#[derive(Debug)]
struct Story {
    end: End,
    tries: u32,
    followers_taken: u32,
    took: Duration,
}

fn refusal(code: u8) -> Failure {
    Failure::Refused { code, story: "no".to_owned() }
}

fn hung_up() -> Failure {
    Failure::HungUp { story: "gone".to_owned() }
}

/// Message 1 has failed so often that it is a suspect. `fails` says whether the upstream fails on the next message it is sent: number and count of tries.
fn trial(failure: &Failure, steps: u32, rng: &mut fastrand::Rng, mut fails: impl FnMut(u64, u32) -> bool) -> Story {
    let begin = Instant::now();
    let (mut now, mut tries, mut next, mut followers_taken) = (begin, 0, 2, 0);
    let mut suspects = Suspects::new(1, BACKOFF);
    suspects.connected(true);
    let failed = |suspects: &mut Suspects, seq, now, random| match failure {
        Failure::Refused { code, story } => suspects.refused(0, seq, *code, story.clone(), now, random),
        Failure::HungUp { .. } | Failure::Unanswered { .. } => {
            suspects.lost(0, seq, failure.clone(), true, now, random)
        }
    };
    while !suspects.is_held(0) {
        failed(&mut suspects, 1, now, rng.f64());
    }
    let mut end = End::Held;
    while tries < steps {
        now = now.max(suspects.next_due(|_| true).unwrap());
        let Try { turn, .. } = suspects.due(now, |_| true).unwrap();
        let seq =
            if turn == Turn::Suspect { 1 } else { (next..10_000).find(|seq| suspects.may_follow(0, *seq)).unwrap() };
        let outcome = if fails(seq, tries) {
            failed(&mut suspects, seq, now, rng.f64())
        } else {
            if seq != 1 {
                (next, followers_taken) = (seq + 1, followers_taken + 1);
            }
            suspects.taken(0, seq, now, rng.f64())
        };
        tries += 1;
        match outcome {
            Outcome::Closed => end = End::Taken,
            Outcome::Dead(dead) | Outcome::Convicted(dead) => end = End::Dead(dead),
            Outcome::None | Outcome::Held => continue,
        }
        break;
    }
    Story { end, tries, followers_taken, took: now - begin }
}

proptest! {
    #[test]
    fn a_poison_dies_after_bounded_tries_and_time(seed in any::<u64>(), code in prop::option::of(prop::sample::select(vec![0x80_u8, 0x87, 0x97])), also in 0_u64..5) {
        let failure = code.map_or_else(hung_up, refusal);
        // Some right behind it are poisonous as well.
        let story = trial(&failure, 1000, &mut fastrand::Rng::with_seed(seed), |seq, _| seq <= 1 + also);
        let End::Dead(dead) = &story.end else { return Err(TestCaseError::fail(format!("{story:?}"))) };
        prop_assert_eq!((dead.seq, dead.reason), (1, if code.is_some() { REFUSED } else { HUNG_UP }));
        prop_assert!(story.tries <= PATIENCE + 5 * (PASSES + 4) + 2 * 32, "{story:?}");
        prop_assert_eq!(story.followers_taken, PASSES);
        prop_assert!(also > 0 || story.took < Duration::from_secs(600), "{story:?}");
    }

    #[test]
    fn an_upstream_that_takes_nothing_kills_nothing_and_is_left_in_peace(seed in any::<u64>()) {
        let mut followers = 0;
        let story = trial(&hung_up(), 2000, &mut fastrand::Rng::with_seed(seed), |seq, _| { followers += u32::from(seq != 1); true });
        prop_assert_eq!(&story.end, &End::Held);
        // 2000 tries at half a minute each on average; nobody but the suspect but now and then.
        prop_assert!(story.took > Duration::from_secs(2000 * 20), "{story:?}");
        prop_assert!(followers <= 2000 / MOST_PATIENCE + 12, "{followers}");
    }

    #[test]
    fn an_upstream_that_recovers_takes_the_suspect(seed in any::<u64>(), sick in 0_u32..500, refuses in any::<bool>()) {
        let failure = if refuses { refusal(0x97) } else { hung_up() };
        let story = trial(&failure, 2000, &mut fastrand::Rng::with_seed(seed), |_, tries| tries < sick);
        prop_assert_eq!(&story.end, &End::Taken);
        prop_assert!(story.followers_taken <= 1 && story.tries <= sick + 2, "{story:?}");
    }

    #[test]
    fn an_upstream_that_fails_in_a_pattern_takes_the_suspect(seed in any::<u64>(), period in 2_u32..6, place in 0_u32..6, one_works in any::<bool>()) {
        let fails = |tries: u32| (tries % period == place % period) != one_works;
        let story = trial(&hung_up(), 2000, &mut fastrand::Rng::with_seed(seed), |_, tries| fails(tries));
        prop_assert_eq!(&story.end, &End::Taken);
        prop_assert_eq!(story.followers_taken, 0);
    }
}

#[test]
fn an_upstream_that_fails_at_random_kills_as_good_as_nothing() {
    let mut rng = fastrand::Rng::with_seed(7);
    for (percent, most) in [(10, 0), (30, 0), (50, 0), (70, 2), (80, 5), (90, 5)] {
        let mut dead = 0;
        for _ in 0..20_000 {
            let mut dice = rng.fork();
            let story = trial(&hung_up(), 10_000, &mut rng, |_, _| dice.u32(..100) < percent);
            dead += u32::from(matches!(story.end, End::Dead(_)));
        }
        assert!(dead <= most, "{percent} %: {dead} of 20 000");
    }
}

#[test]
fn three_lost_connections_make_a_suspect_and_progress_clears_it() {
    let now = Instant::now();
    let mut suspects = Suspects::new(2, BACKOFF);
    let lose = |suspects: &mut Suspects, seq| suspects.lost(0, seq, hung_up(), false, now, 0.5);
    for seq in [1, 1, 2, 2] {
        assert_eq!(lose(&mut suspects, seq), Outcome::None);
    }
    assert_eq!(suspects.taken(0, 2, now, 0.5), Outcome::None);
    assert_eq!(lose(&mut suspects, 2), Outcome::None);
    assert_eq!(lose(&mut suspects, 2), Outcome::None);
    assert_eq!(lose(&mut suspects, 2), Outcome::Held);
    assert_eq!((suspects.is_held(0), suspects.is_held(1), suspects.suspect(0)), (true, false, Some(2)));
    // Among others it may be none of its fault.
    lose(&mut suspects, 2);
    assert_eq!(suspects.failures(0), STRIKES);
    assert_eq!(suspects.taken(0, 2, now, 0.5), Outcome::Closed);
    assert!(!suspects.is_held(0));
}

#[test]
fn codes_that_speak_of_the_message_are_final_until_they_speak_of_all() {
    assert_eq!([0x90, 0x95, 0x99, 0x9a].map(verdict), [Verdict::Message; 4]);
    assert_eq!([0x80, 0x83, 0x87, 0x97, 0x9b, 0xfe].map(verdict), [Verdict::Perhaps; 6]);
    assert_eq!(verdict(0x91), Verdict::NewSession);
    let now = Instant::now();
    let mut suspects = Suspects::new(1, BACKOFF);
    let refuse = |suspects: &mut Suspects, seq| suspects.refused(0, seq, 0x90, "no".to_owned(), now, 0.5);
    for round in 0..2 {
        for seq in 1..=u64::from(AT_ONCE_MAX) {
            assert!(matches!(refuse(&mut suspects, 1000 * round + seq), Outcome::Dead(_)));
        }
        assert_eq!(refuse(&mut suspects, 1000 * round + 999), Outcome::Held);
        suspects.taken(0, 1000 * round + 999, now, 0.5);
    }
}

#[test]
fn a_known_refusal_needs_no_second_trial_but_somebody_behind_it_that_is_taken() {
    let now = Instant::now();
    let (topic, other) = (TopicName::new("a/b").unwrap(), TopicName::new("a/c").unwrap());
    let mut suspects = Suspects::new(1, BACKOFF);
    suspects.connected(true);
    let refuse = |suspects: &mut Suspects, seq| suspects.refused(0, seq, 0x87, "no".to_owned(), now, 0.5);
    refuse(&mut suspects, 1);
    assert_eq!(suspects.tries(0, &topic, now), None);
    let mut outcome = Outcome::None;
    for seq in 2.. {
        while let Some(at) = suspects.next_due(|_| true)
            && suspects.due(at, |_| true).unwrap().turn == Turn::Suspect
        {
            refuse(&mut suspects, 1);
        }
        outcome = suspects.taken(0, seq, now, 0.5);
        if outcome != Outcome::Held {
            break;
        }
    }
    assert!(matches!(outcome, Outcome::Convicted(_)), "{outcome:?}");
    refuse(&mut suspects, 20);
    assert_eq!(suspects.tries(0, &topic, now), None, "nobody behind it was taken");
    suspects.taken(0, 21, now, 0.5);
    assert_eq!(suspects.tries(0, &other, now), None, "another topic");
    assert_eq!(suspects.tries(0, &topic, now).map(|dead| dead.seq), Some(20));
    assert!(!suspects.is_held(0));
    refuse(&mut suspects, 30);
    suspects.taken(0, 31, now, 0.5);
    assert_eq!(suspects.tries(0, &topic, now + KNOWN_FOR * 2), None, "too long ago");
}
