//! What the server asks of whoever knows the numbers.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::web::accept::Wanted;
use crate::web::limits::Ended;
use crate::web::pages::Overview;

/// Knows the numbers. Every method returns at once.
pub trait App: Send + Sync + 'static {
    /// Takes the order for a scrape; who waits for its text is answered from another thread, or dropped
    /// when there is none. An error when too many orders wait.
    fn scrape(&self, wanted: Wanted, waiting: Waiting) -> Result<(), Busy>;
    /// What the rest of the server does not know: a page of this path, with this query. `None` where there is no
    /// such page.
    fn view(&self, path: &str, query: Option<&str>) -> Option<BoxFuture<'static, View>>;
    /// Whether a first reading is there.
    fn ready(&self) -> bool;
    /// For the landing page.
    fn overview(&self) -> Overview;
    /// A response has begun.
    fn answered(&self, page: Page, status: u16);
    /// A connection or response was ended to make room or because it took too long.
    fn ended(&self, why: Ended);
}

/// A page that the application made.
#[derive(Clone, Debug)]
pub struct View {
    /// HTTP's.
    pub status: u16,
    /// What the body is.
    pub content_type: &'static str,
    /// All of it.
    pub body: Bytes,
}

/// A text that is written while it is taken.
pub trait Text: Send {
    /// The next piece; `None` after the last. Returns at once.
    fn next_piece(&mut self) -> Result<Option<Bytes>, Withdrawn>;
}

/// Where a scrape's text is waited for.
pub type Waiting = oneshot::Sender<Box<dyn Text>>;

/// The text was taken so slowly that what it is written from was needed for others.
#[derive(Debug)]
pub struct Withdrawn;

/// Too many orders wait.
#[derive(Debug)]
pub struct Busy;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Page {
    /// `/`
    Landing,
    /// `/metrics`
    Metrics,
    /// `/-/healthy`
    Healthy,
    /// `/-/ready`
    Ready,
    /// A page of the application's own.
    View,
    /// Anything else.
    Unknown,
}

impl Page {
    pub(super) fn of(path: &str) -> Self {
        match path {
            "/" => Self::Landing,
            "/metrics" => Self::Metrics,
            "/-/healthy" => Self::Healthy,
            "/-/ready" => Self::Ready,
            _ => Self::Unknown,
        }
    }

    /// As a label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Landing => "landing",
            Self::Metrics => "metrics",
            Self::Healthy => "healthy",
            Self::Ready => "ready",
            Self::View => "view",
            Self::Unknown => "unknown",
        }
    }
}
