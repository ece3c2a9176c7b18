//! What the server asks of whoever knows the numbers.

use crate::web::accept::Wanted;
use crate::web::body::Sink;
use crate::web::limits::Ended;
use crate::web::pages::Overview;

/// Knows the numbers. Every method returns at once.
pub trait App: Send + Sync + 'static {
    /// Takes the order for a scrape; the text goes into the sink from another thread. An error when
    /// too many orders wait.
    fn scrape(&self, wanted: Wanted, sink: Sink) -> Result<(), Busy>;
    /// Whether a first reading is there.
    fn ready(&self) -> bool;
    /// For the landing page.
    fn overview(&self) -> Overview;
    /// A response has begun.
    fn answered(&self, page: Page, status: u16);
    /// A connection or response was ended to make room or because it took too long.
    fn ended(&self, why: Ended);
}

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
            Self::Unknown => "unknown",
        }
    }
}
