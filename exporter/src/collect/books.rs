//! What the scrape thread keeps: the counting, what servers told, the ledger, and the exporter's own
//! metrics, brought together at each reading.
//!
//! Each source fails alone: its series stay as they were, its `up` falls, and the others go on.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use crate::collect::site::{Board, Figures};
use crate::collect::{Books, Occasion};
use crate::exposition::{Cursor, Scrape, Selection, foreign};
use crate::host::workers::Workers;
use crate::kernel::{Counting, Method};
use crate::labels::Tick;
use crate::ledger::Update;
use crate::model::{Reading, SocketStats};
use crate::observer::Observer;
use crate::resolver::Questions;
use crate::sockets;
use crate::state::State;
use crate::telemetry::{SourceReport, Telemetry};
use crate::web::Wanted;

/// Workers are looked for so often: it reads a directory of every process.
const WORKERS_AGE: Duration = Duration::from_secs(10);
/// Scrapes in quick succession are one tick of the ledger. A page that asks each second must not use
/// up the two ticks for which a closed connection is still shown to a Prometheus that asks each 15
/// seconds, nor those for which traffic waits for a busy server to claim it.
const TICK: Duration = Duration::from_secs(5);
/// When nobody scrapes for so long, ticks go on without scrapes: what closed must be let go of.
const ABANDONED: Duration = Duration::from_secs(300);

/// Everything that a scrape is made from.
pub struct Parts {
    /// Counts packets.
    pub counting: Arc<Counting>,
    /// Listens to servers.
    pub observer: Arc<Observer>,
    /// What they told; locked while it is joined, and by the observer for each event.
    pub state: Arc<Mutex<State>>,
    /// Labels and series.
    pub scrape: Scrape,
    /// Where names are asked for; `None`: nowhere.
    pub questions: Option<Questions>,
    /// Finds the SFU's processes.
    pub workers: Arc<Workers>,
    /// The SFU's ports, where the operator told them.
    pub ports: Option<RangeInclusive<u16>>,
    /// Most series of a scrape, for the metrics.
    pub max_series: u64,
    /// Own metrics.
    pub telemetry: Arc<Telemetry>,
    /// What pages show.
    pub board: Arc<Board>,
}

/// [`Books`] over the real sources.
pub struct Ledgers {
    parts: Parts,
    tick: Tick,
    ticked: Option<Instant>,
    kernel: Trial,
    sockets: Trial,
    refreshed: Instant,
}

impl Ledgers {
    /// Nothing read yet.
    pub fn new(parts: Parts) -> Self {
        parts.telemetry.counting(parts.counting.method().as_str());
        Self {
            parts,
            tick: 0,
            ticked: None,
            kernel: Trial::default(),
            sockets: Trial::default(),
            refreshed: Instant::now(),
        }
    }

    fn tick(&mut self, occasion: Occasion) -> Tick {
        let pause = match occasion {
            Occasion::Scrape => TICK,
            Occasion::Idle => ABANDONED,
        };
        if self.ticked.is_none_or(|last| last.elapsed() >= pause) {
            self.tick += 1;
            self.ticked = Some(Instant::now());
        }
        self.tick
    }

    fn read_kernel(&mut self) -> Option<Reading> {
        let counting = &self.parts.counting;
        self.kernel.run("read the counters", || counting.read())
    }

    fn read_sockets(&mut self) -> Option<Vec<SocketStats>> {
        let (ports, workers) = (self.parts.ports.as_ref(), self.parts.workers.within(WORKERS_AGE));
        self.sockets.run("read the sockets", || sockets::read(&workers, ports))
    }

    fn report(&self, reading: Option<&Reading>) {
        let Parts { counting, observer, scrape, questions, telemetry, .. } = &self.parts;
        if let Some(reading) = reading {
            telemetry.reading(reading);
        }
        let mut reports = Vec::new();
        if counting.method() != Method::None {
            reports.push(self.kernel.report(counting.method().as_str()));
            let status = counting.status();
            telemetry.interfaces(&status.interfaces, status.failing.keys());
            telemetry.total("host_looks", status.looks);
            telemetry.owned(status.owned.by.as_str(), status.owned.sockets);
            telemetry.total("sockets_refused", status.owned.refused);
            telemetry.total("binds_lost", status.owned.lost);
            telemetry.total("attach_failures", status.failures);
            telemetry.total("capture_lost", status.capture_lost.unwrap_or_default());
        }
        reports.push(self.sockets.report("sockets"));
        let statuses = observer.statuses();
        let now = SystemTime::now();
        reports.extend(statuses.iter().map(|status| SourceReport {
            name: format!("observer:{}", status.path.display()),
            up: status.up,
            took: status.sync,
            last_success: status.last_heard.and_then(|ago| now.checked_sub(ago)),
        }));
        telemetry.sources(&reports);
        let sum = |of: fn(&crate::observer::Tally) -> u64| {
            statuses.iter().map(|status| of(&status.tally)).sum()
        };
        telemetry.total("observer_attempts", sum(|tally| tally.attempts));
        telemetry.total("observer_meetings", sum(|tally| tally.meetings));
        telemetry.total("observer_bytes", sum(|tally| tally.bytes));
        telemetry.total("observer_lines", sum(|tally| tally.lines));
        telemetry.total("observer_bad_lines", sum(|tally| tally.bad_lines));
        telemetry.total("observer_long_lines", sum(|tally| tally.oversized_lines));
        let fill = scrape.fill();
        telemetry.table("series", fill.series, self.parts.max_series);
        telemetry.total("series_refused", fill.refused_total);
        telemetry.series_missing(fill.refused);
        let text = scrape.text_counts();
        telemetry.total("labels_shortened", text.shortened);
        telemetry.total("labels_cleaned", text.replaced);
        telemetry.total("names_refused", scrape.name_fill().1);
        if let Some(questions) = questions {
            let (lookups, failures) = questions.counts();
            telemetry.total("name_lookups", lookups);
            telemetry.total("name_failures", failures);
        }
    }
}

impl Books for Ledgers {
    fn refresh(&mut self, occasion: Occasion, selection: Selection) {
        self.refreshed = Instant::now();
        let reading = self.read_kernel();
        let sockets = self.read_sockets();
        let tick = self.tick(occasion);
        let figures = {
            let parts = &mut self.parts;
            let state = parts.state.lock().unwrap_or_else(PoisonError::into_inner);
            let (reading, sockets) = (reading.as_ref(), sockets.as_deref());
            let update = Update { tick, reading, state: &state, sockets };
            parts.scrape.update_for(update, selection);
            Figures::of(&state, &parts.scrape.fill(), state.dropped().values().sum())
        };
        if let Some(questions) = &self.parts.questions {
            let wanted = self.parts.scrape.wanted_names(questions.room());
            // No more were taken than there is room for.
            for ip in wanted {
                questions.ask(ip);
            }
        }
        self.parts.telemetry.total("state_dropped", figures.dropped);
        self.report(reading.as_ref());
        self.parts.board.show(figures);
    }

    fn write(&mut self, wanted: Wanted, out: &mut dyn FnMut(Bytes) -> bool) {
        let Parts { scrape, telemetry, .. } = &self.parts;
        telemetry.scraped(self.refreshed.elapsed());
        let mut cursor = Cursor::new(wanted.format, wanted.selection);
        if wanted.own {
            cursor = cursor.with_tail(foreign::text(&telemetry.gather(), wanted.format));
        }
        while let Some(piece) = scrape.next_piece(&mut cursor) {
            if !out(piece) {
                return;
            }
        }
    }

    fn learn(&mut self, ip: IpAddr, name: Option<Arc<str>>) {
        self.parts.scrape.put_name(ip, name);
    }

    fn shared(&mut self, scrapes: u64) {
        self.parts.telemetry.total("scrapes_shared", scrapes);
    }
}

/// How reading a source went.
#[derive(Debug, Default)]
struct Trial {
    up: bool,
    took: Option<Duration>,
    last_success: Option<SystemTime>,
    /// Reasons that were told already: each is told once until the source works again.
    told: BTreeSet<String>,
}

/// Different reasons that are told at most in a row.
const MOST_TOLD: usize = 8;

impl Trial {
    fn run<T, E: Display>(&mut self, what: &str, read: impl FnOnce() -> Result<T, E>) -> Option<T> {
        let start = Instant::now();
        let result = read();
        self.took = Some(start.elapsed());
        self.up = result.is_ok();
        match result {
            Ok(value) => {
                self.last_success = Some(SystemTime::now());
                self.told.clear();
                Some(value)
            }
            Err(error) => {
                let reason = format!("{error:#}");
                if self.told.len() < MOST_TOLD && self.told.insert(reason.clone()) {
                    tracing::warn!("{what}: {reason}; its series stay as they were");
                }
                None
            }
        }
    }

    fn report(&self, name: &str) -> SourceReport {
        let Self { up, took, last_success, told: _ } = *self;
        SourceReport { name: name.into(), up, took, last_success }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_remembers_its_last_success() {
        let mut trial = Trial::default();
        assert_eq!(trial.run("try", || Ok::<_, String>(1)), Some(1));
        let success = trial.report("a").last_success;
        assert!(success.is_some() && trial.up);
        assert_eq!(trial.run("try", || Err::<(), _>("no".to_owned())), None);
        let report = trial.report("a");
        assert_eq!((report.up, report.last_success), (false, success));
        for reason in 0..100 {
            trial.run("try", || Err::<(), _>(reason.to_string()));
        }
        assert_eq!(trial.told.len(), MOST_TOLD);
        trial.run("try", || Ok::<_, String>(()));
        assert!(trial.told.is_empty());
    }
}
