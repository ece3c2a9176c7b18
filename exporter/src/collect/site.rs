//! What the web server sees of the rest: where scrapes are ordered, and what pages show.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::collect::orders::Orders;
use crate::kernel::Counting;
use crate::ledger::Fill;
use crate::model::Reading;
use crate::observer::Observer;
use crate::sandbox::Sandbox;
use crate::state::State;
use crate::telemetry::{Telemetry, VERSION};
use crate::views::{self, Answer, Asked, Setting};
use crate::web::{App, Busy, Ended, Overview, Page, SourceStatus, View, Waiting, Wanted};

/// Figures of the last reading, written by the scrape thread and read by pages.
#[derive(Debug, Default)]
pub struct Board {
    ready: AtomicBool,
    figures: Mutex<Figures>,
}

/// Numbers only: nothing here tells of anybody.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    rooms: usize,
    peers: u64,
    transports: usize,
    producers: usize,
    consumers: usize,
    flows: u64,
    streams: u64,
    strangers: u64,
    series: u64,
}

impl Figures {
    /// `peers` are those in rooms: not every server tells them, but most say whose a transport is.
    pub(super) fn of(state: &State, fill: &Fill, peers: u64, reading: Option<&Reading>) -> Self {
        let fills = reading.map_or(&[][..], |reading| &reading.tables);
        let strangers = fills.iter().find(|fill| fill.table == "stranger_flows");
        Self {
            rooms: state.rooms().len(),
            peers,
            transports: state.transports.len(),
            producers: state.producers.len(),
            consumers: state.consumers.len(),
            flows: fill.flows,
            streams: fill.streams,
            strangers: strangers.map(|fill| fill.entries).unwrap_or_default(),
            series: fill.series,
        }
    }

    fn lines(&self) -> Vec<(String, String)> {
        let Self { rooms, peers, transports, producers, consumers, .. } = *self;
        let Self { flows, streams, strangers, series, .. } = *self;
        let told = [
            ("Rooms", rooms as u64),
            ("Peers in rooms", peers),
            ("Transports", transports as u64),
            ("Producers", producers as u64),
            ("Consumers", consumers as u64),
        ];
        let counted = [
            ("Counted flows", flows),
            ("Counted streams", streams),
            ("Flows of strangers, on which one side has spoken only", strangers),
            ("Series, of those that --max-series bounds", series),
        ];
        let lines = told.into_iter().chain(counted);
        lines.map(|(name, value)| (name.into(), value.to_string())).collect()
    }
}

impl Board {
    /// Whether a first reading is there.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub(super) fn show(&self, figures: Figures) {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = figures;
        self.ready.store(true, Ordering::Release);
    }
}

/// The [`App`] behind the web server.
pub struct Site {
    /// To the scrape thread.
    pub orders: Orders,
    /// From the scrape thread.
    pub board: Arc<Board>,
    /// For its status only.
    pub counting: Arc<Counting>,
    /// For its statuses only.
    pub observer: Arc<Observer>,
    /// Counts requests.
    pub telemetry: Arc<Telemetry>,
    /// Of the threads that serve.
    pub sandbox: Sandbox,
    /// Views of the past, if there are any.
    pub views: Option<Views>,
}

/// What views are made with.
#[derive(Clone, Debug)]
pub struct Views {
    setting: Arc<Setting>,
    /// Views that are made at a time: each takes a processor for as long as it looks back.
    places: Arc<Semaphore>,
    /// Kilobytes that clients have yet to take: however slowly they read, their pages take no more memory.
    room: Arc<Semaphore>,
}

/// Views at a time: the SFU's processors are not theirs.
const VIEWS: usize = 1;
/// Kilobytes of pages that clients are taking, of all together; several of the largest.
const ROOM: usize = 16 << 10;

/// A page, and its place in the room until a client has taken it.
struct Held {
    body: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Views {
    /// Of this host.
    pub fn new(setting: Setting) -> Self {
        let (places, room) = (Semaphore::new(VIEWS).into(), Semaphore::new(ROOM).into());
        Self { setting: Arc::new(setting), places, room }
    }

    /// Makes one, in a thread of its own.
    async fn make(self, orders: Orders, wanted: views::Wanted) -> View {
        let Self { setting, places, room } = self;
        // Until there is room for what was made: pages that wait for room are a page at a time, too.
        let _place = places.acquire_owned().await;
        let Some(past) = orders.past().await else { return text(503, "the exporter ends\n") };
        let make = move || views::answer(&past, &setting, &wanted);
        match tokio::task::spawn_blocking(make).await {
            Ok(Answer { status, content_type, body }) => {
                let kilobytes = (body.len() / 1024 + 1).min(ROOM) as u32;
                let Ok(_room) = room.acquire_many_owned(kilobytes).await else {
                    return text(503, "the exporter ends\n");
                };
                let body = Bytes::from_owner(Held { body, _room });
                View { status, content_type, body }
            }
            Err(_) => text(500, "the view failed\n"),
        }
    }
}

fn text(status: u16, text: &str) -> View {
    let body = text.to_owned().into();
    View { status, content_type: "text/plain; charset=utf-8", body }
}

impl App for Site {
    fn scrape(&self, wanted: Wanted, waiting: Waiting) -> Result<(), Busy> {
        self.orders.scrape(wanted, waiting)
    }

    fn view(&self, path: &str, query: Option<&str>) -> Option<BoxFuture<'static, View>> {
        let views = self.views.clone()?;
        Some(match views::asked(path, query)? {
            Asked::Asset(content_type, body) => {
                ready(View { status: 200, content_type, body: body.into() }).boxed()
            }
            Asked::Unclear { content_type, body } => {
                ready(View { status: 400, content_type, body: body.into() }).boxed()
            }
            Asked::View(wanted) => views.make(self.orders.clone(), *wanted).boxed(),
        })
    }

    fn ready(&self) -> bool {
        self.board.is_ready()
    }

    fn overview(&self) -> Overview {
        let figures = *self.board.figures.lock().unwrap_or_else(PoisonError::into_inner);
        let views = self.views.as_ref().map(|_| views::links()).unwrap_or_default();
        Overview {
            version: VERSION.clone(),
            views,
            sources: self.sources(),
            facts: figures.lines(),
        }
    }

    fn answered(&self, page: Page, status: u16) {
        self.telemetry.answered(page.as_str(), status);
    }

    fn ended(&self, why: Ended) {
        self.telemetry.ended(why.as_str());
    }
}

impl Site {
    fn sources(&self) -> Vec<SourceStatus> {
        let status = self.counting.status();
        let mut detail = match status.interfaces.is_empty() {
            true => "on no interface".to_owned(),
            false => format!("on {}", status.interfaces.join(", ")),
        };
        for step in self.counting.step_downs() {
            detail = format!("{detail}; {}", step.why);
        }
        for (interface, why) in &status.failing {
            detail = format!("{detail}; not on {interface}: {why}");
        }
        for (interface, whose) in &status.behind {
            detail = format!("{detail}; on {interface} behind {whose}");
        }
        if let Some(why) = &status.owned.why {
            detail = format!("{detail}; ports looked for each second: {why}");
        }
        if status.is_pinned {
            detail = format!("{detail}; pinned: counting goes on when the exporter ends");
        }
        if let Some(why) = &status.unpinned {
            detail = format!("{detail}; not pinned: {why}");
        }
        let mut sources = vec![SourceStatus {
            name: format!("Counting: {}", self.counting.method()),
            up: !status.interfaces.is_empty(),
            detail,
        }];
        sources.push(SourceStatus {
            name: "Sandbox of threads that serve".into(),
            up: self.sandbox.is_complete(),
            detail: self.sandbox.describe(),
        });
        sources.extend(self.observer.statuses().into_iter().map(|status| SourceStatus {
            name: format!("Observer {}", status.path.display()),
            up: status.up,
            detail: match status.error {
                Some(error) => error,
                None => format!("believed because {}", status.ground.as_str()),
            },
        }));
        let (refusals, refused) = self.observer.refusals();
        let rest = refused - refusals.len();
        sources.extend(refusals.into_iter().map(|refusal| SourceStatus {
            name: format!("Not listened to: {}", refusal.path.display()),
            up: false,
            detail: format!("user {}: {}", refusal.uid, refusal.why),
        }));
        if rest > 0 {
            let (name, detail) = (format!("Not listened to: {rest} more"), String::new());
            sources.push(SourceStatus { name, up: false, detail });
        }
        sources.extend(self.observer.unmatched().into_iter().map(|pattern| SourceStatus {
            name: format!("Observer {}", pattern.display()),
            up: false,
            detail: "no socket matches".into(),
        }));
        sources.extend(without_server(&self.observer.unobserved()));
        sources
    }
}

/// Workers that are named one by one; all are counted.
const MOST_NAMED: usize = 16;

/// The row of workers of which no server tells.
fn without_server(workers: &[u32]) -> Option<SourceStatus> {
    let named: Vec<String> = workers.iter().take(MOST_NAMED).map(u32::to_string).collect();
    let more = match workers.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!workers.is_empty()).then(|| SourceStatus {
        name: format!("Workers without a server: {}", workers.len()),
        up: false,
        detail: format!(
            "process {}{more}: name the server's socket with --observer auto --observer PATH, or load the \
             agent (--print-agent) there",
            named.join(", ")
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_without_a_server_are_named_up_to_a_bound() {
        assert!(without_server(&[]).is_none());
        let detail = |count: u32| {
            let workers: Vec<u32> = (1..=count).collect();
            without_server(&workers).unwrap().detail
        };
        assert!(detail(2).starts_with("process 1, 2: name"));
        assert!(detail(20).contains("15, 16 and 4 more: name"));
    }
}
