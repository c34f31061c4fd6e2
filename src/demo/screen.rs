//! What a person sees while the demo runs: lines that stay, and below them figures that move.
//!
//! Everything goes to stderr; a stderr that is gone is no reason to stop. On a terminal the moving part is redrawn in
//! place, elsewhere a plain line is written every second. Colours only on a terminal without `NO_COLOR`.

use std::{
    collections::VecDeque,
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// Rates on the screen are taken over this time.
const RATE_WINDOW: Duration = Duration::from_secs(1);
/// Time between two drawings of the moving part.
const REDRAW_EVERY: Duration = Duration::from_millis(100);
/// Time between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(1);
/// Cells of the backlog's bar.
const BAR_CELLS: u64 = 40;

/// The screen.
pub(super) struct Screen {
    begin: Instant,
    terminal: bool,
    colour: bool,
    /// Lines of the moving part that stand on the terminal.
    drawn: usize,
    last_drawn: Option<Instant>,
    history: VecDeque<(Instant, u64, u64)>,
    /// The backlog that fills the bar.
    full_bar: u64,
}

/// The figures of a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moment {
    pub(super) phase: &'static str,
    pub(super) sent: u64,
    pub(super) acknowledged: u64,
    /// `None` while the gateway is down.
    pub(super) backlog: Option<u64>,
    pub(super) arrived: u64,
}

/// The meaning of a line that stays.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mark {
    Good,
    Bad,
    Plain,
}

impl Screen {
    /// `full_bar`: the backlog that is to be expected, which fills the bar.
    pub(super) fn new(full_bar: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let colour = terminal && colours_wanted();
        Self {
            begin: Instant::now(),
            terminal,
            colour,
            drawn: 0,
            last_drawn: None,
            history: VecDeque::new(),
            full_bar: full_bar.max(1),
        }
    }

    /// A line of the introduction, without time.
    pub(super) fn say(&mut self, line: &str) {
        let erase = self.erase();
        write(&format!("{erase}{line}\n"));
    }

    /// A line that stays: something happened.
    pub(super) fn event(&mut self, mark: Mark, line: &str) {
        let erase = self.erase();
        let (sign, code) = match mark {
            Mark::Good => ("▲", "32"),
            Mark::Bad => ("▼", "31"),
            Mark::Plain => ("·", "36"),
        };
        let seconds = self.begin.elapsed().as_secs_f64();
        write(&format!("{erase}  {seconds:>5.1} s  {}  {line}\n", self.paint(code, sign)));
        if self.terminal {
            self.last_drawn = None;
        }
    }

    /// Draws the moving part, if it is time to.
    pub(super) fn show(&mut self, moment: Moment) {
        let now = Instant::now();
        self.history.push_back((now, moment.acknowledged, moment.arrived));
        while self.history.front().is_some_and(|(at, ..)| now.duration_since(*at) > RATE_WINDOW) {
            self.history.pop_front();
        }
        let every = if self.terminal { REDRAW_EVERY } else { PLAIN_EVERY };
        if self.last_drawn.is_some_and(|last| now.duration_since(last) < every) {
            return;
        }
        self.last_drawn = Some(now);
        if self.terminal { self.redraw(moment) } else { self.plain(moment) }
    }

    /// Takes the moving part away.
    pub(super) fn clear(&mut self) {
        let erase = self.erase();
        write(&erase);
    }

    /// Control characters that take the moving part away, so that something else can be written in its place.
    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    fn redraw(&mut self, moment: Moment) {
        let (inward, outward) = self.rates();
        let erase = self.erase();
        let seconds = self.begin.elapsed().as_secs_f64();
        let phase = self.paint("1", &format!("{:<9}", moment.phase));
        let backlog = moment.backlog.map_or_else(|| "gateway down".to_owned(), thousands);
        let bar = self.bar(moment.backlog.unwrap_or(0));
        let lines = [
            String::new(),
            format!(
                "  {seconds:>5.1} s  {phase}  sent {:>8}   acknowledged {:>8}   arrived {:>8}",
                thousands(moment.sent),
                thousands(moment.acknowledged),
                thousands(moment.arrived)
            ),
            format!("           in {:>7}/s  out {:>7}/s   backlog {backlog:>8}", thousands(inward), thousands(outward)),
            format!("           {bar}"),
        ];
        self.drawn = lines.len();
        write(&format!("{erase}{}\n", lines.join("\n")));
    }

    fn plain(&self, moment: Moment) {
        let (inward, outward) = self.rates();
        let seconds = self.begin.elapsed().as_secs_f64();
        write(&format!(
            "  {seconds:>5.1} s     {:<9} sent {:>7}  acknowledged {:>7}  backlog {:>7}  arrived {:>7}  in {:>6}/s  out {:>6}/s\n",
            moment.phase,
            thousands(moment.sent),
            thousands(moment.acknowledged),
            moment.backlog.map_or_else(|| "-".to_owned(), thousands),
            thousands(moment.arrived),
            thousands(inward),
            thousands(outward)
        ));
    }

    /// The backlog as a bar.
    fn bar(&self, backlog: u64) -> String {
        let full = (backlog * BAR_CELLS / self.full_bar).min(BAR_CELLS);
        let cells = |count: u64, cell: &str| cell.repeat(usize::try_from(count).unwrap_or_default());
        format!("{}{}", self.paint("33", &cells(full, "█")), self.paint("2", &cells(BAR_CELLS - full, "░")))
    }

    /// Acknowledged and arrived per second.
    fn rates(&self) -> (u64, u64) {
        let (Some(first), Some(last)) = (self.history.front(), self.history.back()) else { return (0, 0) };
        let span = last.0.duration_since(first.0);
        (per_second(last.1 - first.1, span), per_second(last.2 - first.2, span))
    }

    /// Paints text with an SGR code, where there are colours.
    pub(super) fn paint(&self, code: &str, text: &str) -> String {
        paint(self.colour, code, text)
    }
}

/// Paints for stdout, where that is a terminal that may have colours.
pub(super) fn painter_for_stdout() -> impl Fn(&str, &str) -> String {
    let colour = std::io::stdout().is_terminal() && colours_wanted();
    move |code, text| paint(colour, code, text)
}

fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty())
}

fn paint(colour: bool, code: &str, text: &str) -> String {
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

fn write(text: &str) {
    let mut stderr = std::io::stderr().lock();
    // Whether anybody watches does not change the proof.
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// Events a second, rounded.
pub(super) fn per_second(count: u64, span: Duration) -> u64 {
    let milliseconds = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    count.saturating_mul(1000).checked_div(milliseconds).unwrap_or(0)
}

/// `1234567` as `1 234 567`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1 000"), (1_234_567, "1 234 567")] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn a_rate_without_time_is_none() {
        assert_eq!(per_second(5, Duration::ZERO), 0);
        assert_eq!(per_second(5, Duration::from_millis(500)), 10);
        assert_eq!(per_second(u64::MAX, Duration::from_millis(1)), u64::MAX);
    }
}
