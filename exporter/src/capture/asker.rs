//! Asks an exporter again and again who belongs to the choice, in a thread without any right.

use std::collections::HashSet;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::capture::choice::{self, Choice, Names, Wanted};
use crate::client::Client;
use crate::host::capabilities;
use crate::views::{Document, Traffic};

/// Between two times.
const PAUSE: Duration = Duration::from_secs(2);
/// Rows of one answer: their streams are in it, too.
const PAGE: usize = 100;
/// Transports at most.
const MOST: usize = 20_000;
/// How far back who is there is known by his traffic.
const SPAN: &str = "1m";

/// The thread's answers; dropping it ends the thread.
pub(super) struct Asker {
    answers: Receiver<anyhow::Result<Answer>>,
    _stop: SyncSender<()>,
}

/// What the exporter said.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) choice: Choice,
    /// The exporter's host, as it calls itself.
    pub(super) host: String,
}

impl Asker {
    /// `despite`: also where a privacy policy hides people.
    pub(super) fn start(client: Client, wanted: Wanted, despite: bool) -> anyhow::Result<Self> {
        let filters = wanted.filters()?;
        let (sender, answers) = mpsc::channel();
        let (_stop, stopped) = mpsc::sync_channel(0);
        let asking = Asking { client, wanted, filters, despite, names: Names::new() };
        let thread = std::thread::Builder::new().name("ask".into());
        thread.spawn(move || asking.run(&sender, &stopped)).context("start a thread")?;
        Ok(Self { answers, _stop })
    }

    /// The next one, if it comes in that time.
    pub(super) fn next(&self, patience: Duration) -> Option<anyhow::Result<Answer>> {
        match self.answers.recv_timeout(patience) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Timeout) => None,
            Err(error) => Some(Err(error).context("the thread that asks has ended")),
        }
    }
}

struct Asking {
    client: Client,
    wanted: Wanted,
    filters: Vec<String>,
    despite: bool,
    names: Names,
}

impl Asking {
    fn run(mut self, answers: &Sender<anyhow::Result<Answer>>, stopped: &Receiver<()>) {
        // Nothing is given up where nothing can be.
        let _ = capabilities::drop_all();
        loop {
            let answer = self.ask();
            if answers.send(answer).is_err()
                || stopped.recv_timeout(PAUSE) != Err(RecvTimeoutError::Timeout)
            {
                return;
            }
        }
    }

    fn ask(&mut self) -> anyhow::Result<Answer> {
        let (mut rows, mut host) = (Vec::new(), String::new());
        for filter in &self.filters {
            host = self.transports(filter, &mut rows)?;
        }
        for transport in choice::unplaced(&self.wanted, &rows) {
            let mut others = Vec::new();
            self.transports(&format!("transport:\"{transport}\""), &mut others)?;
            // Their streams were not asked for.
            rows.extend(others.into_iter().map(|row| Traffic { streams: Vec::new(), ..row }));
        }
        let known: HashSet<String> = choice::named(&rows).into_iter().collect();
        self.names.retain(|name, _| known.contains(name));
        for name in known {
            // The exporter has looked it up the other way round, and back.
            self.names.entry(name).or_insert_with_key(|name| addresses(name));
        }
        Ok(Answer { choice: Choice::of(&self.wanted, &rows, &self.names), host })
    }

    /// All rows that a filter leaves of those who are there. Gives the exporter's host.
    fn transports(&self, filter: &str, rows: &mut Vec<Traffic>) -> anyhow::Result<String> {
        let mut offset = 0;
        loop {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("q", filter).append_pair("for", SPAN).append_pair("traffic", "yes");
            // An order in which nobody changes places.
            query.append_pair("sort", "first").append_pair("limit", &PAGE.to_string());
            query.append_pair("offset", &offset.to_string());
            let body = self.client.get(&format!("/api/v1/transports?{}", query.finish()))?;
            let document: Document = serde_json::from_str(&body).context("this is no exporter")?;
            self.permitted(&document)?;
            let page = document.rows.len();
            let there = document.rows.into_iter().filter(|row| row.live);
            rows.extend(there.filter_map(|row| row.traffic));
            offset += page;
            if page < PAGE || offset >= document.total {
                return Ok(document.host);
            }
            if offset >= MOST {
                bail!("{}: more than {MOST} transports; capture fewer at once", self.wanted);
            }
        }
    }

    fn permitted(&self, document: &Document) -> anyhow::Result<()> {
        match document.deidentified.as_deref() {
            None => bail!(
                "the exporter is of an older version and does not tell whose packets are whose"
            ),
            Some([]) => Ok(()),
            Some(_) if self.despite => Ok(()),
            Some(hidden) => bail!(
                "the exporter is told to hide {} of people (--deidentify, --names), and a capture would show \
                 them: --despite-deidentification, if you may",
                hidden.join(" and ")
            ),
        }
    }
}

fn addresses(name: &str) -> Vec<std::net::IpAddr> {
    let found = (name, 0).to_socket_addrs();
    found.map(|it| it.map(|it: SocketAddr| it.ip()).collect()).unwrap_or_default()
}
