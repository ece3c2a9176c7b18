//! `mediasoup-exporter explain`: all that an exporter knows of somebody, or why it knows nothing.
//!
//! A client like `top`. What is said is made in `report`: documents and metrics in, text out.

mod report;

use anyhow::{Context, bail};

use crate::client::Client;
use crate::config::Explain;
use crate::labels::text::inert;
use crate::printed::print;
use crate::views::{Document, page_of};

use report::{Found, KINDS};

/// Says it.
pub fn run(options: &Explain) -> anyhow::Result<()> {
    let client = Client::new(&options.exporter)?;
    let mut found = Vec::new();
    for by in KINDS {
        let body = client.get(&path(by, options))?;
        let document: Document = serde_json::from_str(&body).context("this is no exporter")?;
        found.push(Found { by, document });
    }
    let own = client.get("/metrics?families=self,strangers")?;
    // Whoever answers is believed, and his text is not let loose on a terminal.
    let text = inert(&report::text(&options.what, &found, &own));
    print(&text)?;
    if found.iter().all(|found| found.document.rows.is_empty()) {
        bail!(
            "nothing of the last {} has `{}` in a name, an id or an address",
            options.span,
            inert(&options.what)
        );
    }
    Ok(())
}

fn path(by: &str, options: &Explain) -> String {
    // One word, whatever it has in it.
    let word = format!("\"{}\"", options.what.replace('"', ""));
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("by", by).append_pair("q", &word).append_pair("for", &options.span);
    query.append_pair("limit", "200");
    format!("/api/v1/{}?{}", page_of(by), query.finish())
}
