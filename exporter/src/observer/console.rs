//! Brings the script into an unmodified server through its console: opens the server's REPL, types
//! a loader of a few lines that connects to a [`Rendezvous`], and leaves the console again.
//!
//! A console is not to be left without a word: when its client goes away while it writes, Node.js
//! ends the whole server, because edumeet 4 has no listener for that error. So this client never
//! hangs up. It waits, on one connection, for a server that hangs (the caller's `stalled` tells that
//! it does), and whatever happens it leaves by the console's own door.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::rendezvous::Rendezvous;
use super::screen::Screen;

/// Output without the expected prompt, after which the other end is taken for no console.
const GARBAGE: usize = 1 << 20;

/// How long leaving may take. The process may be asked to end meanwhile, and has a second for it.
const FAREWELL: Duration = Duration::from_millis(700);

const COMMAND_PROMPT: &str = "cmd> ";
const REPL_PROMPT: &str = "terminal> ";
const EDITOR_GREETING: &str = "Entering editor mode";
const LOADED: &str = "mediasoup-exporter loads";

/// What speaks at the other end of a socket.
pub(super) enum Speaker {
    /// A console, at its command prompt.
    Console,
    /// The script itself (agent mode); these bytes of it were read already.
    Agent(Vec<u8>),
}

/// A conversation with a console.
pub(super) struct Dialog<'a> {
    stream: UnixStream,
    screen: Screen,
    place: Place,
    /// How long the server may be silent before `stalled` hears of it.
    patience: Duration,
    stalled: &'a (dyn Fn(&str) + Send + Sync),
    shutdown: watch::Receiver<bool>,
}

/// Where in the console the conversation is, or which answer is on its way: it decides how to leave.
#[derive(Clone, Copy)]
enum Place {
    /// The command prompt is to come.
    Arriving,
    Command,
    /// The REPL's prompt is to come.
    BeforeRepl,
    Repl,
    /// The editor's greeting is to come.
    BeforeEditor,
    Editor,
}

impl<'a> Dialog<'a> {
    pub(super) fn new(
        stream: UnixStream,
        patience: Duration,
        stalled: &'a (dyn Fn(&str) + Send + Sync),
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        let screen = Screen::default();
        Self { stream, screen, place: Place::Arriving, patience, stalled, shutdown }
    }

    /// Waits for whoever speaks first: a console shows its prompt, an agent says hello.
    pub(super) async fn listen(&mut self) -> anyhow::Result<Speaker> {
        let mut first = Vec::new();
        loop {
            let read = self.read("waiting for a prompt").await?;
            if first.len() < 4096 {
                first.extend_from_slice(&read);
            }
            if first.starts_with(b"{") {
                return Ok(Speaker::Agent(first));
            }
            if self.screen.text().contains(COMMAND_PROMPT) {
                self.place = Place::Command;
                return Ok(Speaker::Console);
            }
        }
    }

    /// The stream, for an agent.
    pub(super) fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Types the loader and waits until the script has come to the rendezvous. Whatever happens,
    /// leaves the console.
    pub(super) async fn load(
        mut self,
        rendezvous: anyhow::Result<Rendezvous>,
    ) -> anyhow::Result<UnixStream> {
        let met = match rendezvous {
            Ok(rendezvous) => self.type_loader(&rendezvous).await,
            Err(error) => Err(error),
        };
        self.farewell().await;
        met
    }

    /// Leaves the console, if the server lets it. Best effort: nothing depends on it here.
    pub(super) async fn farewell(mut self) {
        let _ = timeout(FAREWELL, self.leave()).await;
    }

    async fn type_loader(&mut self, rendezvous: &Rendezvous) -> anyhow::Result<UnixStream> {
        self.say("t\n", Place::BeforeRepl).await?;
        self.expect(&[REPL_PROMPT], "opening the REPL").await?;
        // In editor mode each line is only echoed: no preview, no evaluation until the end.
        self.say(".editor\n", Place::BeforeEditor).await?;
        self.expect(&[EDITOR_GREETING], "entering the REPL's editor mode").await?;
        for line in loader(&rendezvous.told().to_string_lossy(), rendezvous.token()) {
            self.say(&format!("{line}\n"), Place::Editor).await?;
            let tail = line.len().saturating_sub(16);
            self.expect(&[&line[tail..]], "typing the loader").await?;
        }
        self.say("\x04", Place::BeforeRepl).await?;
        let answers = [LOADED, "Error", "Uncaught"];
        let answer = self.expect(&answers, "evaluating the loader").await?;
        if answer != 0 {
            bail!("the server's REPL refused the loader: {}", self.last_words());
        }
        self.meet(rendezvous).await
    }

    async fn meet(&mut self, rendezvous: &Rendezvous) -> anyhow::Result<UnixStream> {
        if let Ok(met) = timeout(self.patience, rendezvous.meet()).await {
            return met;
        }
        let question = "global[Symbol.for('mediasoup-exporter.error')]\n";
        self.say(question, Place::BeforeRepl).await?;
        let codes = ["'ENOENT'", "'EACCES'", "'ECONNREFUSED'", "'E", "undefined"];
        let code = self.expect(&codes, "asking why the script does not come").await?;
        let path = rendezvous.told().display();
        match code {
            0 => bail!(
                "the server cannot see {path}: it has another file system. Give its socket as \
                 --observer /proc/PID/root/tmp/…, or load the agent (--print-agent) with \
                 node --require"
            ),
            1 => bail!(
                "the server may not open {path}: run the exporter as the server's user or as \
                 root, or load the agent (--print-agent) with node --require"
            ),
            4 => bail!("the script did not come to {path}, and says no error"),
            _ => bail!("the script could not connect to {path}: {}", self.last_words()),
        }
    }

    /// Leaves by the console's own door and waits until the server has closed it.
    async fn leave(&mut self) -> anyhow::Result<()> {
        // The farewell takes place during a shutdown, too.
        let (_never, shutdown) = watch::channel(false);
        self.shutdown = shutdown;
        let doing = "leaving the console";
        loop {
            match self.place {
                Place::Arriving => {
                    self.expect(&[COMMAND_PROMPT], doing).await?;
                    self.place = Place::Command;
                }
                Place::BeforeEditor => {
                    self.expect(&[EDITOR_GREETING], doing).await?;
                    self.place = Place::Editor;
                }
                Place::Editor => self.say("\x03", Place::BeforeRepl).await?,
                Place::BeforeRepl => {
                    self.expect(&[REPL_PROMPT], doing).await?;
                    self.place = Place::Repl;
                }
                Place::Repl => self.say(".exit\n", Place::Arriving).await?,
                Place::Command => {
                    self.say("\x04", Place::Command).await?;
                    while self.read(doing).await.is_ok() {}
                    return Ok(());
                }
            }
        }
    }

    /// Types something, after which the conversation is at `place`.
    async fn say(&mut self, text: &str, place: Place) -> anyhow::Result<()> {
        self.screen.clear();
        self.place = place;
        self.stream.write_all(text.as_bytes()).await.context("write to the console")
    }

    /// Waits until one of the texts shows; says which.
    async fn expect(&mut self, texts: &[&str], doing: &str) -> anyhow::Result<usize> {
        loop {
            if let Some(found) = texts.iter().position(|text| self.screen.text().contains(text)) {
                return Ok(found);
            }
            self.read(doing).await?;
        }
    }

    async fn read(&mut self, doing: &str) -> anyhow::Result<Vec<u8>> {
        let mut buffer = vec![0; 4096];
        loop {
            tokio::select! {
                read = self.stream.read(&mut buffer) => {
                    let bytes = read.with_context(|| format!("{doing}: read from the console"))?;
                    if bytes == 0 {
                        bail!("{doing}: the server closed the console");
                    }
                    buffer.truncate(bytes);
                    self.screen.feed(&buffer);
                    if self.screen.fed() > GARBAGE {
                        bail!("{doing}: the other end is no console that this exporter knows");
                    }
                    return Ok(buffer);
                }
                () = tokio::time::sleep(self.patience) => {
                    (self.stalled)(&format!("{doing}: the server does not answer"));
                }
                ended = self.shutdown.wait_for(|shutdown| *shutdown) => {
                    let _ = ended;
                    bail!("{doing}: the exporter ends");
                }
            }
        }
    }

    fn last_words(&self) -> String {
        let text = self.screen.text().trim();
        let start = text.ceil_char_boundary(text.len().saturating_sub(200));
        text[start..].replace('\n', " ")
    }
}

/// The loader, in lines that cost the server's event loop little each. It connects, says the token,
/// and hands the socket to the script that comes back, which ends with a zero byte.
fn loader(path: &str, token: &str) -> Vec<String> {
    let path = serde_json::Value::from(path).to_string();
    let body = format!(
        "(()=>{{var r=require,g=global,k=Symbol.for('mediasoup-exporter.error'),b='',s;\n\
         function fail(e){{g[k]=String(e.code||e.message);setTimeout(()=>{{delete g[k]}},3e4)\n\
         .unref()}}\n\
         s=r('net').connect({path});\n\
         s.setEncoding('utf8');s.on('error',fail);\n\
         s.on('connect',()=>s.write('{token}\\n'));\n\
         s.on('data',function f(d){{b+=d;var i=b.indexOf('\\0');if(i<0)return;\n\
         s.removeListener('data',f);try{{\n\
         r('vm').runInThisContext(b.slice(0,i),'mediasoup-exporter.js')(s,r);\n\
         s.removeListener('error',fail);s.emit('data',b.slice(i+1))}}\n\
         catch(e){{fail(e);s.destroy()}}}});\n\
         return 'mediasoup-exporter '+'loads'}})()"
    );
    body.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_is_typed_in_short_lines_of_plain_ascii() {
        let lines = loader("/tmp/a \"quoted\" path", "0123456789abcdef0123456789abcdef");
        for line in &lines {
            assert!(line.len() <= 100, "{line}");
            assert!(line.is_ascii() && !line.contains('\t'), "{line}");
            // Editor mode repeats a line's indentation on the next line.
            assert!(!line.starts_with(' '), "{line}");
        }
        assert!(lines.concat().contains(r#"connect("/tmp/a \"quoted\" path")"#));
        assert!(!lines.concat().contains(LOADED), "the echo must not look like the answer");
    }
}
