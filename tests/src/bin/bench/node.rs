//! A scrape of a real mediasoup by the exporter, beside the way in which an exporter within Node.js
//! takes it: each transport dumped, each stream's statistics asked for, one request after the other.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use exporter_tests::exporter::Exporter;
use exporter_tests::netns::Netns;
use exporter_tests::process::{Guard, TempDir};
use exporter_tests::sfu::Build;
use exporter_tests::wait;
use serde_json::Value;

use crate::Effort;
use crate::figures::{Figure, Spread, Target};

const VERSION: &str = "3.12.16";
/// Until the observer has heard of every stream.
const HEARD: Duration = Duration::from_secs(120);

/// Measures.
pub fn measure(effort: Effort) -> Result<Vec<Figure>> {
    let (producers, consumers) = if effort.quick { (500, 2_000) } else { (2_000, 8_000) };
    let name = format!("a scrape of {producers} producers and {consumers} consumers");
    let figure = Figure::new("node", name, "ms").target(Target::Faster(50.0));
    let Some(build) = Build::find(VERSION) else {
        return Ok(vec![figure.note("no mediasoup here: `cargo xtask setup` builds one")]);
    };
    let folder = TempDir::new("bench")?;
    let socket = folder.path().join("observer.sock");
    let host = Arc::new(Netns::new("bench")?);
    let mut server = Server::start(&host, &build, &socket, [producers, consumers])?;
    let socket = socket.to_str().context("a path that is not UTF-8")?;
    let flags = ["--source", "none", "--numeric", "--observer", socket];
    let exporter =
        Exporter::start(&host, &[&flags[..], &["--observer.stats-interval", "0s"]].concat(), &[])?;
    wait::until("every consumer in the text", HEARD, || {
        let text = exporter.metrics()?;
        let heard = text.matches("\nmediasoup_consumer_info{").count() >= consumers;
        Ok(heard.then_some(()))
    })?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut requests, mut bytes) = (0, [0, 0]);
    for _ in 0..effort.rounds {
        let before = server.ask("requests")?;
        let begin = Instant::now();
        bytes[0] = exporter.metrics()?.len();
        ours.push(begin.elapsed().as_secs_f64() * 1e3);
        requests += number(&server.ask("requests")?, "requests")? as u64
            - number(&before, "requests")? as u64;
        let scrape = server.ask("scrape")?;
        theirs.push(number(&scrape, "milliseconds")?);
        bytes[1] = number(&scrape, "bytes")? as usize;
    }
    let note = format!(
        "wall time; {requests} worker requests in {} scrapes; {:.1} MB of text beside {:.1} MB",
        effort.rounds,
        bytes[0] as f64 / 1e6,
        bytes[1] as f64 / 1e6,
    );
    let figure = figure.measured(Spread::of(&ours)).beside("from within Node", Spread::of(&theirs));
    Ok(vec![figure.note(note)])
}

fn number(value: &Value, name: &str) -> Result<f64> {
    value[name].as_f64().with_context(|| format!("no {name} in {value}"))
}

/// Node.js with mediasoup, an observer's console and the other exporter's way of scraping.
struct Server {
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    process: Guard,
}

impl Server {
    fn start(host: &Netns, build: &Build, socket: &Path, streams: [usize; 2]) -> Result<Self> {
        let modules = build.dir().join("node_modules");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("observer/replaced.js");
        let mut command = host.command("node");
        command.env("NODE_PATH", modules).arg(script).arg(socket);
        command.args(streams.map(|number| number.to_string()));
        let mut process = Guard::spawn("the server with an exporter of its own", command)?;
        let stdin = process.stdin().context("the server's stdin")?;
        let lines = BufReader::new(process.stdout().context("the server's stdout")?).lines();
        let mut server = Self { stdin, lines, process };
        server.answer().context("the server did not get ready")?;
        Ok(server)
    }

    fn ask(&mut self, what: &str) -> Result<Value> {
        writeln!(self.stdin, "{what}")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value> {
        let Some(line) = self.lines.next() else {
            bail!("the server ended: {}", self.process.log());
        };
        let answer: Value = serde_json::from_str(&line?)?;
        match answer.get("error") {
            Some(error) => bail!("{error}"),
            None => Ok(answer),
        }
    }
}
