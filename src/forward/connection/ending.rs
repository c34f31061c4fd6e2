//! The end of a connection: who is blamed for it, what is sent again, and what comes next.

use std::time::Instant;

use super::{Cause, Connection, End, Next, STEADY_AFTER, Why};
use crate::{
    forward::{
        status::{NO_PROGRESS, PUBLISH_REFUSED},
        suspects::{Failure, Outcome, Verdict, verdict},
    },
    uplink::{Session, Upstream},
};

impl<U: Upstream> Connection<'_, U> {
    pub(super) async fn end(mut self, cause: Cause) -> End {
        let is_takeover = matches!(&cause, Cause::Failed(error) if error.is_takeover());
        let was_good = (self.took_any && !is_takeover) || self.since.elapsed() >= STEADY_AFTER;
        let was_due = self.task.suspects.hurries();
        let half_given_up = self.blame(&cause);
        let follower_is_due = !was_due && self.task.suspects.hurries();
        self.task.forget_connection();
        // Ids that only held deliveries are in would keep the window shut for everybody else.
        let is_jammed = self.task.suspects.held() > 0 && self.task.ledger.room() == 0;
        let mut may_resume = !(self.wants_new_session || half_given_up || is_jammed);
        let waiting = self.task.waiting();
        let next = match cause {
            Cause::Drained(why) => {
                let next = match &why {
                    Why::Stop => Next::Stop,
                    Why::FailBack | Why::LeftBehind => Next::Reconnect,
                    Why::Refused(_) => Next::BackOff,
                };
                self.session.close(why == Why::Stop).await;
                match why {
                    Why::Stop => {}
                    Why::FailBack => {
                        self.task.fail_back.going_back(Instant::now());
                        self.task.status.failing_back();
                    }
                    Why::LeftBehind => self.task.status.fetching_again(),
                    Why::Refused(detail) => self.task.status.lost(PUBLISH_REFUSED, detail, was_good, waiting),
                }
                next
            }
            Cause::NoProgress => {
                may_resume = false;
                self.task.status.lost(NO_PROGRESS, self.no_progress_text(), was_good, waiting);
                Next::BackOff
            }
            Cause::Overtaken { lane, seq } => {
                may_resume = false;
                let (stream, url) = (&self.task.feeds[lane].route.name, &self.greeting.url);
                let text = format!("{url}: message {seq} of `{stream}` is not acknowledged, though later ones are");
                self.task.status.lost(NO_PROGRESS, text, was_good, waiting);
                Next::BackOff
            }
            Cause::Failed(error) => {
                self.task.status.lost(error.reason(), error.to_string(), was_good, waiting);
                if self.task.stop.is_requested() { Next::Stop } else { Next::BackOff }
            }
        };
        let next = if follower_is_due && next == Next::BackOff { Next::Reconnect } else { next };
        End { next, was_good, may_resume }
    }

    fn no_progress_text(&self) -> String {
        let limit = self.task.settings.progress_timeout;
        format!("{}: nothing was acknowledged for {limit:?}", self.greeting.url)
    }

    /// Says whether a delivery was given up that the upstream may hold half of.
    fn blame(&mut self, cause: &Cause) -> bool {
        let now = Instant::now();
        let (failure, code) = match cause {
            Cause::Failed(error) if error.may_blame_message() => {
                let story = format!("the upstream ended the connection when it was sent: {error}");
                (Some(Failure::HungUp { story }), error.disconnect_code())
            }
            Cause::NoProgress => (Some(Failure::Unanswered { story: self.no_progress_text() }), None),
            Cause::Overtaken { lane, seq } => {
                let limit = self.task.settings.progress_timeout;
                let story = format!("the upstream did not acknowledge it within {limit:?}, though later ones");
                let outcome = self.task.suspects.overtaken(*lane, *seq, story.clone(), now, fastrand::f64());
                return self.judged(*lane, *seq, outcome, &Failure::Unanswered { story });
            }
            Cause::Failed(_) | Cause::Drained(_) => (None, None),
        };
        let alone = self.task.ledger.in_flight() == 1;
        let code = code.filter(|code| alone && verdict(*code) == Verdict::Message);
        let mut half_given_up = false;
        for lane in 0..self.task.feeds.len() {
            let Some(seq) = self.task.ledger.oldest_in_flight(lane) else { continue };
            let Some(failure) = &failure else {
                self.task.suspects.put_off(lane, now, fastrand::f64());
                continue;
            };
            let suspects = &mut self.task.suspects;
            let outcome = match (code, failure) {
                (Some(code), Failure::HungUp { story }) => {
                    suspects.refused(lane, seq, code, story.clone(), now, fastrand::f64())
                }
                (Some(_) | None, _) => suspects.lost(lane, seq, failure.clone(), alone, now, fastrand::f64()),
            };
            half_given_up |= self.judged(lane, seq, outcome, failure);
        }
        half_given_up
    }

    fn judged(&mut self, lane: usize, seq: u64, outcome: Outcome, failure: &Failure) -> bool {
        match outcome {
            Outcome::Dead(dead) | Outcome::Convicted(dead) => {
                self.task.bury(lane, dead);
                true
            }
            Outcome::Held => {
                if self.task.suspects.suspect(lane) == Some(seq) {
                    let failures = self.task.suspects.failures(lane);
                    self.task.status.held(&self.task.feeds[lane].route.name, seq, failure, failures);
                }
                false
            }
            Outcome::None | Outcome::Closed => false,
        }
    }
}
