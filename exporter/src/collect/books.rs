//! What the scrape thread keeps: the counting, what servers told, the ledger, and the exporter's own
//! metrics, brought together at each reading.
//!
//! Each source fails alone: its series stay as they were, its `up` falls, and the others go on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::collect::orders::{Books, Connections, Occasion};
use crate::collect::site::{Board, Figures};
use crate::collect::uncounted::Uncounted;
use crate::exposition::families::Group;
use crate::exposition::{Format, Scrape, Selection, Snapshot, Tails, foreign};
use crate::history::{History, Past};
use crate::host::addresses::MAX_LOCAL;
use crate::host::interfaces::MOST_INTERFACES;
use crate::host::load;
use crate::host::workers::Workers;
use crate::journal::{self, Journal};
use crate::kernel::{Counting, Method};
use crate::labels::{Renewal, Tick};
use crate::ledger::Update;
use crate::model::{Reading, SocketStats};
use crate::observer::{Observer, Status};
use crate::resolver::Questions;
use crate::sockets;
use crate::state::{Event, Kind, Ownership, Reason, SourceId, State};
use crate::telemetry::{SourceReport, Telemetry};
use crate::views::{self, Thresholds};

/// Workers are looked for so often: it reads a directory of every process.
const WORKERS_AGE: Duration = Duration::from_secs(10);
/// Scrapes in quick succession are one tick of the ledger. A page that asks each second must not use
/// up the two ticks for which a closed connection is still shown to a Prometheus that asks each 15
/// seconds, nor those for which traffic waits for a busy server to claim it.
const TICK: Duration = Duration::from_secs(5);
/// When nobody scrapes for so long, ticks go on without scrapes: what closed must be let go of.
const ABANDONED: Duration = Duration::from_secs(300);
/// As long as nobody has ever scraped, nobody misses what closed, and who looks at pages should not wait for what no
/// server claims.
const UNSCRAPED: Duration = Duration::from_secs(15);

/// For the journal's last lines to reach the disk.
pub const LAST_LINES: Duration = Duration::from_secs(3);

/// Everything that a scrape is made from.
pub struct Parts {
    /// Counts packets.
    pub counting: Arc<Counting>,
    /// Listens to servers.
    pub observer: Arc<Observer>,
    /// Labels and series.
    pub scrape: Scrape,
    /// Where names are asked for; `None`: nowhere.
    pub questions: Option<Questions>,
    /// Finds the SFU's processes.
    pub workers: Arc<Workers>,
    /// The SFU's ports, where the operator told them.
    pub ports: Option<RangeInclusive<u16>>,
    /// What is kept of the past, if anything.
    pub history: Option<History>,
    /// Where what ended is written, if anywhere.
    pub journal: Option<Journal>,
    /// When a call is bad.
    pub thresholds: Thresholds,
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
    /// What servers told.
    state: State,
    /// How they were when they were last looked at: what they had told by then has been taken in.
    looked: Vec<Status>,
    /// Sources of which something was refused, and that was said.
    warned: BTreeSet<SourceId>,
    /// What of those that do not speak was refused: their workers have ended, and with them their ports.
    refused_silent: BTreeMap<SourceId, u64>,
    uncounted: Uncounted,
    /// Since then the state's seconds count.
    started: Instant,
    tick: Tick,
    ticked: Option<Instant>,
    is_scraped: bool,
    kernel: Trial,
    sockets: Trial,
    load: Trial,
    refreshed: Instant,
}

impl Ledgers {
    /// Nothing read yet.
    pub fn new(parts: Parts) -> Self {
        parts.telemetry.counting(parts.counting.method().as_str());
        Self {
            parts,
            state: State::default(),
            looked: Vec::new(),
            warned: BTreeSet::new(),
            refused_silent: BTreeMap::new(),
            uncounted: Uncounted::default(),
            started: Instant::now(),
            tick: 0,
            ticked: None,
            is_scraped: false,
            kernel: Trial::default(),
            sockets: Trial::default(),
            load: Trial::default(),
            refreshed: Instant::now(),
        }
    }

    fn tick(&mut self, occasion: Occasion) -> Tick {
        self.is_scraped |= occasion == Occasion::Scrape;
        let pause = match occasion {
            Occasion::Scrape => TICK,
            Occasion::Idle if !self.is_scraped => UNSCRAPED,
            Occasion::Idle => ABANDONED,
        };
        if self.ticked.is_none_or(|last| last.elapsed() >= pause) {
            self.tick += 1;
            self.ticked = Some(Instant::now());
        }
        self.tick
    }

    fn report_refusals(&self) {
        let (state, telemetry) = (&self.state, &self.parts.telemetry);
        let mut dropped = 0;
        for kind in Kind::ALL {
            for reason in Reason::ALL {
                telemetry.refused(reason.as_str(), kind.as_str(), state.refused(reason, kind));
            }
            dropped += state.refused(Reason::Full, kind);
        }
        telemetry.total("state_dropped", dropped);
        let refused = state.refused_tuples();
        telemetry.refused_connections(Reason::Port.as_str(), refused.port as u64);
        telemetry.refused_connections(Reason::Foreign.as_str(), refused.foreign as u64);
        telemetry.told_bytes(state.bytes() as u64);
    }

    /// Says once for each source that not all of it is taken in.
    fn warn_of_refusals(&mut self) {
        let Self { state, looked: statuses, warned, refused_silent, .. } = self;
        let is_there = |source: &SourceId| statuses.iter().any(|status| status.id == *source);
        warned.retain(is_there);
        refused_silent.retain(|source, _| is_there(source));
        for Status { id, path, up, .. } in statuses.iter() {
            let refused = state.refused_of(*id);
            if !up {
                refused_silent.insert(*id, refused);
                continue;
            }
            let before = refused_silent.get(id).copied().unwrap_or_default();
            if refused > before && warned.insert(*id) {
                tracing::warn!(
                    "observer {}: not all that this server tells is taken in, because there is no \
                     room for it or because it is not the server's to say; see \
                     mediasoup_exporter_observer_refused_total for what and why",
                    path.display()
                );
            }
        }
    }

    /// Says once for each reason that packets of a told connection are not seen.
    fn report_uncounted(&mut self) {
        let Parts { counting, ports, .. } = &self.parts;
        if counting.method() == Method::None {
            // Nobody asked for it.
            return;
        }
        let counts_somewhere = !counting.status().interfaces.is_empty();
        let is_counted = |port| ports.as_ref().is_none_or(|ports| ports.contains(&port));
        let speaks = |source| self.looked.iter().any(|status| status.id == source && status.up);
        let unseen = self.state.unseen(is_counted, speaks);
        let (figures, warnings) = self.uncounted.look(unseen, counts_somewhere);
        for (reason, connections) in figures {
            self.parts.telemetry.uncounted(reason.as_str(), connections);
        }
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    }

    /// When the exporter began, milliseconds of Unix time, by the clock as it goes now: if it was set, then for what
    /// came before, too.
    fn epoch(&self) -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(self.started.elapsed()).as_millis() as u64
    }

    fn write_journal(&mut self, at_the_end: bool) {
        let epoch = self.epoch();
        let Parts { history, journal, telemetry, .. } = &mut self.parts;
        let (Some(history), Some(journal)) = (history, journal) else { return };
        let ended = history.take_ended(at_the_end);
        if !ended.is_empty() {
            journal.write(&history.lend(epoch), &ended, at_the_end);
        }
        let journal::Tally { written, lost } = journal.tally();
        telemetry.total("journal_written", written);
        telemetry.total("journal_lost", lost);
    }

    fn read_kernel(&mut self) -> Option<Reading> {
        let counting = &self.parts.counting;
        self.kernel.run("read the counters", || counting.read())
    }

    fn read_sockets(&mut self) -> Option<Vec<SocketStats>> {
        let (ports, workers) = (self.parts.ports.as_ref(), self.parts.workers.within(WORKERS_AGE));
        self.sockets.run("read the sockets", || sockets::read(&workers, ports))
    }

    /// What can be read is taken, whatever else cannot.
    fn read_load(&mut self) {
        let workers = self.parts.workers.within(WORKERS_AGE);
        let interfaces = self.parts.counting.status().interfaces;
        self.load.run("read what the host does to packets", || {
            let (load, missing) = load::read(&workers, &interfaces);
            self.parts.scrape.put_load(load);
            missing.is_empty().then_some(()).ok_or_else(|| missing.join("; "))
        });
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
            telemetry.interfaces(&status.interfaces, status.failing.keys(), status.behind.keys());
            telemetry.table("interfaces", status.wanted as u64, MOST_INTERFACES as u64);
            telemetry.table("addresses", status.addresses as u64, MAX_LOCAL.into());
            telemetry.total("host_looks", status.looks);
            telemetry.owned(status.owned.by.as_str(), status.owned.sockets);
            telemetry.pinned(status.is_pinned);
            telemetry.total("sockets_refused", status.owned.refused);
            telemetry.total("binds_lost", status.owned.lost);
            telemetry.total("attach_failures", status.failures);
            telemetry.total("capture_lost", status.capture_lost.unwrap_or_default());
        }
        reports.push(self.sockets.report("sockets"));
        reports.push(self.load.report("host"));
        let statuses = observer.statuses();
        let now = SystemTime::now();
        let before = |id| self.looked.iter().find(|status| status.id == id);
        reports.extend(observer.unmatched().iter().map(|pattern| SourceReport {
            name: format!("observer:{}", pattern.display()),
            up: false,
            took: None,
            last_success: None,
        }));
        reports.extend(statuses.iter().map(|status| SourceReport {
            name: format!("observer:{}", status.path.display()),
            // What came since is not in this reading.
            up: status.up && before(status.id).is_some_and(|before| before.up),
            took: status.sync.filter(|_| before(status.id).is_some_and(|it| it.sync.is_some())),
            last_success: status.last_heard.and_then(|ago| now.checked_sub(ago)),
        }));
        telemetry.sources(&reports);
        telemetry.servers_refused(self.parts.observer.refusals().1);
        telemetry.workers_left_out(self.parts.workers.left_out());
        telemetry.workers_unobserved(self.parts.observer.unobserved().len());
        let sum = |of: fn(&crate::observer::Tally) -> u64| {
            statuses.iter().map(|status| of(&status.tally)).sum()
        };
        telemetry.total("observer_attempts", sum(|tally| tally.attempts));
        telemetry.total("observer_meetings", sum(|tally| tally.meetings));
        telemetry.total("observer_bytes", sum(|tally| tally.bytes));
        telemetry.total("observer_lines", sum(|tally| tally.lines));
        telemetry.total("observer_bad_lines", sum(|tally| tally.bad_lines));
        telemetry.total("observer_long_lines", sum(|tally| tally.oversized_lines));
        self.report_refusals();
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
    fn tell(&mut self, source: SourceId, events: Vec<Event>) {
        events.into_iter().for_each(|event| self.state.apply(source, event));
    }

    fn observe(&mut self, ownership: Arc<dyn Ownership>) {
        self.state.observe(ownership);
    }

    fn renew(&mut self, renewal: Renewal) {
        self.parts.scrape.renew(renewal);
    }

    fn connections(&mut self) -> Connections {
        self.state.settle();
        let refused = self.state.refused_tuples().port;
        Connections { told: self.state.told(), refused }
    }

    fn look(&mut self) {
        self.looked = self.parts.observer.statuses();
    }

    fn refresh(&mut self, occasion: Occasion, selection: Selection) {
        self.refreshed = Instant::now();
        let reading = self.read_kernel();
        let sockets = self.read_sockets();
        if selection.has(Group::Host) {
            self.read_load();
        }
        let tick = self.tick(occasion);
        self.state.settle();
        let Self { parts, state, .. } = self;
        let (reading_of, sockets) = (reading.as_ref(), sockets.as_deref());
        parts.scrape.update_for(Update { tick, reading: reading_of, state, sockets }, selection);
        state.seen(parts.scrape.take_seen());
        if reading.is_some() {
            state.pass(self.started.elapsed().as_secs());
        }
        let figures = Figures::of(state, &parts.scrape.fill(), parts.scrape.peers(), reading_of);
        if let Some(questions) = &self.parts.questions {
            let wanted = self.parts.scrape.wanted_names(questions.room());
            // No more were taken than there is room for.
            for ip in wanted {
                questions.ask(ip);
            }
        }
        let (lost, now) = (self.state.take_lost(), self.started.elapsed().as_millis() as u64);
        if let Some(journal) = &mut self.parts.journal {
            journal.lose(lost, now);
        }
        self.warn_of_refusals();
        self.report_uncounted();
        self.report(reading.as_ref());
        self.parts.board.show(figures);
    }

    fn snapshot(&mut self, selection: Selection) -> Snapshot {
        let Parts { scrape, telemetry, .. } = &mut self.parts;
        telemetry.scraped(self.refreshed.elapsed());
        let own = telemetry.gather();
        let [text, open_metrics] =
            [Format::Text, Format::OpenMetrics].map(|it| foreign::text(&own, it).into());
        scrape.snapshot(selection, Tails { text, open_metrics })
    }

    fn record(&mut self) {
        let now = self.started.elapsed().as_millis() as u64;
        let Parts { history, thresholds, scrape, telemetry, .. } = &mut self.parts;
        if let Some(history) = history {
            history.record(scrape.ledger(), now);
            let verdicts = views::verdicts(&history.lend(0), thresholds);
            scrape.judge(views::complaints(&verdicts));
            telemetry.history(history.bytes(), history.tracks(), history.reach());
            telemetry.total("history_refused", history.refused());
            if let Some(journal) = &mut self.parts.journal {
                journal.look(&verdicts, now);
            }
        }
        self.write_journal(false);
    }

    fn past(&mut self) -> Past {
        let epoch = self.epoch();
        let history = self.parts.history.as_ref();
        history.map(|history| history.lend(epoch)).unwrap_or_default()
    }

    fn end(&mut self) {
        if self.parts.journal.is_none() {
            return;
        }
        // What came since the last step.
        self.refresh(Occasion::Idle, Selection::ALL);
        self.record();
        self.write_journal(true);
        if let Some(journal) = &mut self.parts.journal {
            journal.close(LAST_LINES);
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
