//! The scrape thread with books that only take notes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;
use crate::exposition::{Format, Tails};

/// A time that no test lasts.
const NEVER: Duration = Duration::from_secs(3600);

#[derive(Clone, Default)]
struct Notes {
    readings: Arc<AtomicUsize>,
    snapshots: Arc<AtomicUsize>,
    records: Arc<AtomicUsize>,
    names: Arc<Mutex<Vec<IpAddr>>>,
    told: Arc<AtomicUsize>,
    /// How much had been told when the sources were looked at, and when a reading was taken after that.
    looked: Arc<Mutex<Vec<usize>>>,
    shared: Arc<AtomicUsize>,
    /// Of the last reading.
    selection: Arc<Mutex<Option<Selection>>>,
    /// A snapshot waits for it.
    gate: Arc<Mutex<Option<mpsc::Receiver<()>>>>,
}

impl Books for Notes {
    fn tell(&mut self, _: SourceId, events: Vec<Event>) {
        self.told.fetch_add(events.len(), Ordering::SeqCst);
    }

    fn observe(&mut self, _: Arc<dyn Ownership>) {}

    fn renew(&mut self, _: crate::labels::Renewal) {}

    fn connections(&mut self) -> Connections {
        let key = |port| JoinKey {
            proto: crate::model::Proto::Udp,
            local_port: port as u16,
            remote: ([192, 0, 2, 1], 1).into(),
        };
        let told = (0..self.told.load(Ordering::SeqCst)).map(key).collect();
        Connections { told, refused: 0 }
    }

    fn look(&mut self) {
        self.looked.lock().unwrap().push(self.told.load(Ordering::SeqCst));
    }

    fn refresh(&mut self, _: Occasion, selection: Selection) {
        *self.selection.lock().unwrap() = Some(selection);
        self.readings.fetch_add(1, Ordering::SeqCst);
    }

    fn snapshot(&mut self, _: Selection) -> Snapshot {
        self.snapshots.fetch_add(1, Ordering::SeqCst);
        // Not within the `if let`, which would hold the lock while waiting.
        let gate = self.gate.lock().unwrap().take();
        if let Some(gate) = gate {
            gate.recv().unwrap();
        }
        let reading = self.readings.load(Ordering::SeqCst);
        let text = |format: &str| format!("{format} {reading}").into();
        Snapshot::of_tails(Tails { text: text("Text"), open_metrics: text("OpenMetrics") })
    }

    fn record(&mut self) {
        self.records.fetch_add(1, Ordering::SeqCst);
    }

    fn past(&mut self) -> Past {
        Past::default()
    }

    fn end(&mut self) {}

    fn learn(&mut self, ip: IpAddr, _: Option<Arc<str>>) {
        self.names.lock().unwrap().push(ip);
    }

    fn shared(&mut self, scrapes: u64) {
        self.shared.store(scrapes as usize, Ordering::SeqCst);
    }
}

const TEXT: Wanted = Wanted { format: Format::Text, selection: Selection::ALL, own: true };
const OPEN: Wanted = Wanted { format: Format::OpenMetrics, selection: Selection::ALL, own: true };

/// Asks; what is answered is how the text ends.
fn scrape(orders: &Orders, wanted: Wanted) -> impl FnOnce() -> Option<String> + Send + use<> {
    let (waiting, text) = oneshot::channel();
    orders.scrape(wanted, waiting).unwrap();
    move || {
        let mut text = text.blocking_recv().ok()?;
        let pieces: Vec<_> = std::iter::from_fn(|| text.next_piece().unwrap()).collect();
        let tail = pieces.iter().rfind(|piece| !piece.starts_with(b"# EOF"))?;
        String::from_utf8(tail.to_vec()).ok()
    }
}

fn end(orders: Orders, thread: JoinHandle<()>) {
    drop(orders);
    thread.join().unwrap();
}

#[test]
fn a_young_reading_is_shared() {
    let notes = Notes::default();
    let pace = Pace { share: NEVER, idle: NEVER, step: None };
    let (orders, thread) = start(notes.clone(), pace).unwrap();
    assert_eq!(scrape(&orders, TEXT)().as_deref(), Some("Text 1"));
    assert_eq!(scrape(&orders, OPEN)().as_deref(), Some("OpenMetrics 1"));
    end(orders, thread);
    assert_eq!(notes.shared.load(Ordering::SeqCst), 2);
}

#[test]
fn a_reading_is_shared_only_with_those_it_has_enough_for() {
    let notes = Notes::default();
    let pace = Pace { share: Duration::ZERO, idle: NEVER, step: None };
    let (orders, thread) = start(notes.clone(), pace).unwrap();
    let kernel = Wanted { selection: Selection::kernel(), ..TEXT };
    assert_eq!(scrape(&orders, kernel)().as_deref(), Some("Text 2"));
    assert_eq!(*notes.selection.lock().unwrap(), Some(Selection::kernel()));
    end(orders, thread);

    let young = Taken { at: Instant::now(), selection: Selection::kernel() };
    assert!(young.serves(Selection::kernel(), NEVER));
    assert!(!young.serves(Selection::ALL, NEVER));
    assert!(!young.serves(Selection::kernel(), Duration::ZERO));
}

#[test]
fn an_old_reading_is_taken_anew() {
    let notes = Notes::default();
    let pace = Pace { share: Duration::ZERO, idle: NEVER, step: None };
    let (orders, thread) = start(notes.clone(), pace).unwrap();
    assert_eq!(scrape(&orders, TEXT)().as_deref(), Some("Text 2"));
    assert_eq!(scrape(&orders, TEXT)().as_deref(), Some("Text 3"));
    end(orders, thread);
    assert_eq!(notes.shared.load(Ordering::SeqCst), 0);
}

#[test]
fn scrapes_that_wait_together_share_a_reading() {
    let notes = Notes::default();
    let (open, gate) = mpsc::channel();
    *notes.gate.lock().unwrap() = Some(gate);
    let pace = Pace { share: Duration::ZERO, idle: NEVER, step: None };
    let (orders, thread) = start(notes.clone(), pace).unwrap();
    let first = scrape(&orders, TEXT);
    while notes.gate.lock().unwrap().is_some() {
        std::thread::yield_now();
    }
    let waiting: Vec<_> = [TEXT, OPEN, TEXT, TEXT].map(|wanted| scrape(&orders, wanted)).into();
    open.send(()).unwrap();
    assert_eq!(first().as_deref(), Some("Text 2"));
    let texts: Vec<_> = waiting.into_iter().map(|wait| wait().unwrap()).collect();
    assert_eq!(texts, ["Text 3", "OpenMetrics 3", "Text 3", "Text 3"]);
    end(orders, thread);
    assert_eq!(notes.readings.load(Ordering::SeqCst), 3);
    assert_eq!(notes.snapshots.load(Ordering::SeqCst), 2);
}

#[test]
fn without_scrapes_readings_go_on() {
    let notes = Notes::default();
    let pace = Pace { share: NEVER, idle: Duration::from_millis(1), step: None };
    let (orders, thread) = start(notes.clone(), pace).unwrap();
    while notes.readings.load(Ordering::SeqCst) < 5 {
        std::thread::yield_now();
    }
    end(orders, thread);
}

#[test]
fn who_asked_and_left_harms_nobody() {
    let notes = Notes::default();
    let (orders, thread) =
        start(notes.clone(), Pace { share: NEVER, idle: NEVER, step: None }).unwrap();
    let (waiting, text) = oneshot::channel();
    drop(text);
    orders.scrape(TEXT, waiting).unwrap();
    assert_eq!(scrape(&orders, TEXT)().as_deref(), Some("Text 1"));
    end(orders, thread);
}

/// However many stop reading in the middle, whoever comes is answered, and no more than a few snapshots
/// are kept for them.
#[test]
fn readers_that_stop_share_a_few_snapshots() {
    let notes = Notes::default();
    let (orders, thread) =
        start(notes.clone(), Pace { share: Duration::ZERO, idle: NEVER, step: None }).unwrap();
    let mut stuck = Vec::new();
    for _ in 0..100 {
        let (waiting, text) = oneshot::channel();
        orders.scrape(TEXT, waiting).unwrap();
        let mut text = text.blocking_recv().unwrap();
        assert!(text.next_piece().is_ok());
        stuck.push(text);
    }
    end(orders, thread);
    assert_eq!(notes.snapshots.load(Ordering::SeqCst), 2);
    assert_eq!(notes.shared.load(Ordering::SeqCst), 98);
}

#[test]
fn names_reach_the_books_and_orders_are_bounded() {
    let notes = Notes::default();
    let (open, gate) = mpsc::channel();
    *notes.gate.lock().unwrap() = Some(gate);
    let pace = Pace { share: NEVER, idle: NEVER, step: None };
    let (orders, thread) = start(notes.clone(), pace).unwrap();
    let first = scrape(&orders, TEXT);
    while notes.gate.lock().unwrap().is_some() {
        std::thread::yield_now();
    }
    let ip = IpAddr::from([192, 0, 2, 1]);
    orders.name(ip, None);
    let mut waiting = Vec::new();
    let refused = loop {
        let (order, text) = oneshot::channel();
        match orders.scrape(TEXT, order) {
            Ok(()) => waiting.push(text),
            Err(Busy) => break text,
        }
    };
    assert_eq!(waiting.len(), SCRAPES);
    assert!(refused.blocking_recv().is_err());
    open.send(()).unwrap();
    assert!(first().is_some());
    assert!(waiting.into_iter().all(|text| text.blocking_recv().is_ok()));
    assert_eq!(*notes.names.lock().unwrap(), [ip]);
    end(orders, thread);
}

#[test]
fn what_was_told_is_taken_in_before_who_asks_is_answered() {
    let notes = Notes::default();
    let (orders, thread) =
        start(notes.clone(), Pace { share: Duration::ZERO, idle: NEVER, step: None }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let known = runtime.block_on(async {
        for _ in 0..3 * READINGS {
            orders.tell(SourceId(1), vec![Event::Synced]).await;
        }
        orders.connections().await
    });
    assert_eq!(known.map(|known| known.told.len()), Some(3 * READINGS));
    scrape(&orders, TEXT)();
    assert_eq!(*notes.looked.lock().unwrap(), [0, 3 * READINGS]);
    end(orders, thread);
}

/// A server that tells faster than it is taken in waits; it fills neither memory nor others' places.
#[test]
fn readings_wait_for_their_places() {
    let notes = Notes::default();
    let (open, gate) = mpsc::channel();
    *notes.gate.lock().unwrap() = Some(gate);
    let (orders, thread) =
        start(notes.clone(), Pace { share: NEVER, idle: NEVER, step: None }).unwrap();
    let first = scrape(&orders, TEXT);
    while notes.gate.lock().unwrap().is_some() {
        std::thread::yield_now();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for _ in 0..READINGS {
            orders.tell(SourceId(1), vec![Event::Synced]).await;
        }
        let mut late = std::pin::pin!(orders.tell(SourceId(1), vec![Event::Synced]));
        let mut nobody = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(late.as_mut().poll(&mut nobody).is_pending());
        let (waiting, _text) = oneshot::channel();
        assert!(orders.scrape(TEXT, waiting).is_ok(), "a scrape has a place of its own");
        open.send(()).unwrap();
        late.await;
    });
    assert!(first().is_some());
    end(orders, thread);
    assert_eq!(notes.told.load(Ordering::SeqCst), READINGS + 1);
}

#[test]
fn steps_of_the_history_end_whether_or_not_somebody_asks() {
    let notes = Notes::default();
    let pace = Pace { share: NEVER, idle: NEVER, step: Some(Duration::from_millis(1)) };
    let (orders, thread) = start(notes.clone(), pace).unwrap();
    while notes.records.load(Ordering::SeqCst) < 3 {
        std::thread::yield_now();
    }
    assert_eq!(notes.readings.load(Ordering::SeqCst), 1, "steps share a reading that is young");
    end(orders, thread);

    let notes = Notes::default();
    let pace = Pace { share: Duration::ZERO, ..pace };
    let (orders, thread) = start(notes.clone(), pace).unwrap();
    while notes.records.load(Ordering::SeqCst) < 3 {
        std::thread::yield_now();
    }
    assert!(notes.readings.load(Ordering::SeqCst) >= 3, "each has a reading of its own");
    end(orders, thread);

    let notes = Notes::default();
    let pace = Pace { step: None, ..pace };
    let (orders, thread) = start(notes.clone(), pace).unwrap();
    scrape(&orders, TEXT)();
    assert_eq!(notes.records.load(Ordering::SeqCst), 0);
    end(orders, thread);
}
