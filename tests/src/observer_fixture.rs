//! Servers for the observer's tests: Node.js with a real mediasoup behind the console of each kind
//! of server (`tests/observer/server.js`), driven by lines of JSON.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::process::Guard;
use crate::sfu::Build;
use crate::wait;

/// A running server.
#[derive(Debug)]
pub struct Fixture {
    process: Guard,
    stdin: ChildStdin,
    answers: Receiver<Value>,
    socket: PathBuf,
}

impl Fixture {
    /// Starts a server of this kind with so many rooms and so many peers in each, its console at
    /// `socket`.
    pub fn start(
        kind: &str,
        build: &Build,
        socket: &Path,
        rooms: usize,
        peers: usize,
    ) -> Result<Self> {
        let mut command = node(build);
        command.arg(script("server.js")).arg(kind).arg(socket);
        command.args([rooms, peers].map(|number| number.to_string()));
        Self::spawn(command, socket)
    }

    /// The same as another user, in whatever else the command that comes before makes for it.
    pub fn start_as(
        user: u32,
        before: &[&str],
        kind: &str,
        build: &Build,
        socket: &Path,
    ) -> Result<Self> {
        let mut words = before.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        // Its user is nobody special; where this checkout lies, it may read.
        let user = user.to_string();
        words.extend(
            ["setpriv", "--clear-groups", "--reuid", &user, "--regid", &user].map(str::to_owned),
        );
        words.extend(
            ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"].map(str::to_owned),
        );
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("node");
        command.env("NODE_PATH", build.dir().join("node_modules"));
        command.arg(script("server.js")).arg(kind).arg(socket).args(["1", "2"]);
        Self::spawn(command, socket)
    }

    /// Starts a server with the observer's script loaded, its agent's socket at `socket`.
    pub fn start_with_agent(build: &Build, agent: &Path, socket: &Path) -> Result<Self> {
        let mut command = node(build);
        command.arg("--require").arg(agent).arg(script("server.js"));
        command.args(["agent", "", "2", "2"]).env("MEDIASOUP_EXPORTER_SOCKET", socket);
        Self::spawn(command, socket)
    }

    /// Starts the server that holds 500 producers and 2,000 consumers, before all others where
    /// that is allowed: what else the machine does is not what is measured.
    pub fn start_load(build: &Build, socket: &Path) -> Result<Self> {
        let mut command = Command::new("chrt");
        command.args(["-f", "1", "node"]).env("NODE_PATH", build.dir().join("node_modules"));
        command.arg(script("load.js")).arg("edumeet3").arg(socket).args(["500", "2000"]);
        Self::spawn(command, socket)
    }

    /// Starts a server whose objects have the shape of mediasoup 3.6; it needs no mediasoup.
    pub fn start_old(socket: &Path) -> Result<Self> {
        Self::start_old_with(Command::new("node"), socket)
    }

    /// The same, by a command that ends where Node.js' arguments begin.
    pub fn start_old_with(mut command: Command, socket: &Path) -> Result<Self> {
        command.arg(script("old.js")).arg(socket);
        Self::spawn(command, socket)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Starts the SFU in Python, its agent's socket at `socket`.
    pub fn start_in_python(socket: &Path) -> Result<Self> {
        let mut command = Command::new("python3");
        // Nothing is written where this checkout lies.
        command.arg("-B").arg(script("sfu.py")).arg(socket).args(["2", "2"]);
        Self::spawn(command, socket)
    }

    /// Starts a server by this command, which names its observer socket.
    pub fn spawn(command: Command, socket: &Path) -> Result<Self> {
        let mut process = Guard::spawn("the observed server", command)?;
        let stdin = process.stdin().context("the server's stdin")?;
        let stdout = process.stdout().context("the server's stdout")?;
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            let parsed = lines.filter_map(|line| serde_json::from_str(&line).ok());
            let _ = parsed.map(|answer| sender.send(answer)).take_while(Result::is_ok).count();
        });
        let mut fixture = Self { process, stdin, answers, socket: socket.to_owned() };
        fixture.answer().context("the server did not get ready")?;
        Ok(fixture)
    }

    /// Its observer socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Has it do something; returns its answer.
    pub fn ask(&mut self, command: &Value) -> Result<Value> {
        writeln!(self.stdin, "{command}").context("write to the server")?;
        self.answer().with_context(|| format!("ask the server {command}"))
    }

    /// What an observer has to find.
    pub fn truth(&mut self) -> Result<Value> {
        self.ask(&json!({ "do": "truth" })).map(sorted)
    }

    /// Listeners, sockets and globals that a visitor could leave behind.
    pub fn census(&mut self) -> Result<Value> {
        self.ask(&json!({ "do": "census" }))
    }

    /// Fails when it has ended.
    pub fn alive(&mut self) -> Result<()> {
        self.process.alive()
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(mut self) -> Result<()> {
        self.process.signal(libc::SIGKILL)?;
        self.process.wait(wait::LONG).map(drop)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.process.signal(signal)
    }

    fn answer(&mut self) -> Result<Value> {
        let answer = match self.answers.recv_timeout(wait::LONG) {
            Ok(answer) => answer,
            Err(error) => {
                self.process.alive()?;
                bail!("{error}: {}", self.process.log());
            }
        };
        match answer.get("error") {
            Some(error) => bail!("{error}"),
            None => Ok(answer),
        }
    }
}

/// Node.js, which finds this mediasoup.
pub fn node(build: &Build) -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", build.dir().join("node_modules"));
    command
}

/// A file of the servers'.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("observer").join(name)
}

/// The value with its lists in an order that does not depend on who told them when.
pub fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => {
            let mut items: Vec<Value> = items.into_iter().map(sorted).collect();
            items.sort_by_cached_key(ToString::to_string);
            Value::Array(items)
        }
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (name, sorted(value))).collect())
        }
        value => value,
    }
}

/// Entries of the lists of two objects that only one of them has.
pub fn differences(seen: &Value, truth: &Value) -> Vec<String> {
    let mut differences = Vec::new();
    for (name, truth) in truth.as_object().into_iter().flatten() {
        let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let (seen, truth) = (items(&seen[name]), items(truth));
        let missing = truth.iter().filter(|item| !seen.contains(item));
        differences.extend(missing.map(|item| format!("not seen in {name}: {item}")));
        let extra = seen.iter().filter(|item| !truth.contains(item));
        differences.extend(extra.map(|item| format!("not true in {name}: {item}")));
    }
    differences
}
