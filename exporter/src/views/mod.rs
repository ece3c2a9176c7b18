//! What people look at: tables of addresses, networks, rooms, peers and streams, now and at some time before.
//!
//! The history comes in, and what was asked for; a page, JSON or CSV goes out. Nothing is shown here that the
//! history does not have, and that has only what labels say.

mod attributes;
mod documents;
mod figures;
mod filter;
mod html;
mod matrix;
mod query;
mod scene;
mod sums;
mod table;
#[cfg(test)]
mod tests;
mod traffic;
mod verdict;
mod within;
mod words;

use std::sync::Arc;

use foldhash::HashMap;

use crate::history::{Past, PeerKey};
use crate::labels::block::Block;
pub(crate) use attributes::Attributes;
pub use documents::{Document, Line};
pub(crate) use figures::Figures;
pub(crate) use filter::Filter;
pub(crate) use query::moment as parse_moment;
use query::{Form, Query, VIEWS};
use scene::Scene;
pub use scene::{Hidden, Setting};
pub use traffic::{Carried, Ends, Traffic};
pub use verdict::{Cause, Thresholds, Verdict};
pub use within::{KINDS, page_of, within};
pub(crate) use words::{ago, millis, moment, percent};

/// What a browser needs beside the pages.
const ASSETS: [(&str, &str, &str); 2] = [
    ("/assets/views.css", "text/css; charset=utf-8", include_str!("../../assets/views.css")),
    ("/assets/views.js", "text/javascript; charset=utf-8", include_str!("../../assets/views.js")),
];

/// Pages' paths and what they are of.
pub fn links() -> Vec<(String, &'static str)> {
    VIEWS.iter().map(|(path, by)| (format!("/{path}"), html::heading(*by))).collect()
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP's.
    pub status: u16,
    /// What the body is.
    pub content_type: &'static str,
    /// All of it.
    pub body: Vec<u8>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Something that is always the same.
    Asset(&'static str, &'static str),
    /// A view, which needs the past.
    View(Box<Wanted>),
    /// Something that cannot be understood: why, as what was asked for.
    Unclear {
        /// What the body is.
        content_type: &'static str,
        /// All of it.
        body: String,
    },
}

/// A view that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    query: Query,
    /// The page's path, to which its links lead.
    path: &'static str,
}

impl Eq for Wanted {}

/// What a path and a query ask for; `None` where no view is.
pub fn asked(path: &str, query: Option<&str>) -> Option<Asked> {
    if let Some((_, kind, text)) = ASSETS.iter().find(|(name, _, _)| *name == path) {
        return Some(Asked::Asset(kind, text));
    }
    if path == "/api/v1/openapi.json" {
        return Some(Asked::Asset(JSON, documents::OPENAPI));
    }
    let (form, name) = match path.strip_prefix("/api/v1/") {
        Some(name) => (Form::Json, name),
        None => (Form::Html, path.strip_prefix('/')?),
    };
    let (path, by) = VIEWS.iter().find(|(known, _)| *known == name)?;
    Some(match Query::new(*by, form).take(query.unwrap_or_default()) {
        Ok(query) => Asked::View(Box::new(Wanted { query, path })),
        Err(why) if form == Form::Html => Asked::Unclear {
            content_type: HTML,
            body: html::unclear(path, *by, query.unwrap_or_default(), &why),
        },
        Err(why) => {
            Asked::Unclear { content_type: "text/plain; charset=utf-8", body: format!("{why}\n") }
        }
    })
}

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// Who has a bad call now.
pub fn verdicts(past: &Past, thresholds: &Thresholds) -> HashMap<PeerKey, Verdict> {
    verdict::verdicts(past, past.now, thresholds, false)
}

/// Verdicts as labels of a metric.
pub fn complaints(verdicts: &HashMap<PeerKey, Verdict>) -> Vec<Arc<str>> {
    let labels = |((room, peer), verdict): (&PeerKey, &Verdict)| {
        let block = Block::open().label("room_id", room).label("peer_id", peer);
        block.label("verdict", verdict.cause.as_label()).close()
    };
    let mut complaints: Vec<_> = verdicts.iter().map(labels).collect();
    complaints.sort_unstable();
    complaints
}

/// Answers out of the past.
pub fn answer(past: &Past, setting: &Setting, wanted: &Wanted) -> Answer {
    let Wanted { query, path } = wanted;
    let Setting { host, thresholds, hidden } = setting;
    let scene = &Scene { host, thresholds, epoch: past.epoch };
    let table = table::table(past, query, thresholds);
    let (content_type, body) = match query.form {
        Form::Html => (HTML, html::page(&table, scene, past, query, path)),
        Form::Json => (JSON, documents::json(&table, scene, query, *hidden)),
        Form::Csv => ("text/csv; charset=utf-8; header=present", documents::csv(&table, scene)),
    };
    Answer { status: 200, content_type, body }
}
