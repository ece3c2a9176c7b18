//! Brings the script into an unmodified server through its console: opens the server's REPL and types
//! a loader that takes the console's own connection over. From then on the connection carries the
//! script's lines, and nothing of the console is left.
//!
//! A console is not to be left without a word: when its client goes away while it writes, Node.js
//! ends the whole server, because nothing listens for that error (in edumeet 4; from Node.js 16 on
//! readline brings this about in all). So this client never hangs up before the loader, which adds a
//! listener, has the connection. It waits, on one connection, for a server that hangs (the caller's
//! `stalled` tells that it does), and whatever happens it leaves by the console's own door.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::screen::Screen;

/// Output without the expected prompt, after which the other end is taken for no console.
const GARBAGE: usize = 1 << 20;

/// How long leaving may take. The process may be asked to end meanwhile, and has a second for it.
const FAREWELL: Duration = Duration::from_millis(700);

const COMMAND_PROMPT: &str = "cmd> ";
const REPL_PROMPT: &str = "terminal> ";
const EDITOR_GREETING: &str = "Entering editor mode";
const REFUSED: &str = "mediasoup-exporter cannot";

/// What is typed into the REPL, in short lines.
pub(super) const LOADER: &str = include_str!("loader.js");

/// What a typed line has at most: each costs the server's event loop one turn.
const LINE: usize = 100;

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
    stage: Stage,
    /// What the loader writes first when it has the connection; typed in two halves, so that the
    /// echo is not taken for it.
    mark: String,
    /// How long the server may be silent before `stalled` hears of it.
    patience: Duration,
    stalled: &'a (dyn Fn(&str) + Send + Sync),
    shutdown: watch::Receiver<bool>,
}

/// Where in the console the conversation is, or which answer is on its way: it decides how to leave.
#[derive(Clone, Copy)]
enum Stage {
    /// The command prompt is to come.
    Arriving,
    Command,
    /// The REPL's prompt is to come.
    BeforeRepl,
    Repl,
    /// The editor's greeting is to come.
    BeforeEditor,
    Editor,
    /// The loader is being evaluated: the REPL's prompt is to come, or the mark.
    Handover,
    /// The console is no more: who goes away now harms nobody.
    Taken,
}

/// What the loader's evaluation comes to.
enum Answer {
    /// The loader has the connection.
    Mark,
    /// It could not take it over, and has ended it.
    Refused,
    /// The REPL goes on as if nothing were.
    Prompt,
}

impl<'a> Dialog<'a> {
    pub(super) fn new(
        stream: UnixStream,
        patience: Duration,
        stalled: &'a (dyn Fn(&str) + Send + Sync),
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        let (screen, stage, mark) = (Screen::default(), Stage::Arriving, String::new());
        Self { stream, screen, stage, mark, patience, stalled, shutdown }
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
                self.stage = Stage::Command;
                return Ok(Speaker::Console);
            }
        }
    }

    /// The stream, for an agent.
    pub(super) fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Types the loader and waits until it has the connection, which then waits for the script.
    /// Where that fails, leaves the console.
    pub(super) async fn load(mut self) -> anyhow::Result<UnixStream> {
        match self.take_over().await {
            Ok(()) => Ok(self.stream),
            Err(error) => {
                self.farewell().await;
                Err(error)
            }
        }
    }

    /// Leaves the console, if the server lets it. Best effort: nothing depends on it here.
    pub(super) async fn farewell(mut self) {
        let _ = timeout(FAREWELL, self.leave()).await;
    }

    async fn take_over(&mut self) -> anyhow::Result<()> {
        let halves = (secret()?, secret()?);
        self.mark = format!("{}{}\n", halves.0, halves.1);
        self.say("t\n", Stage::BeforeRepl).await?;
        self.expect(&[REPL_PROMPT], "opening the REPL").await?;
        // In editor mode each line is only echoed: no preview, no evaluation until the end.
        self.say(".editor\n", Stage::BeforeEditor).await?;
        self.expect(&[EDITOR_GREETING], "entering the REPL's editor mode").await?;
        for line in typed(LOADER, &halves) {
            self.say(&format!("{line}\n"), Stage::Editor).await?;
            let tail = line.len().saturating_sub(16);
            self.expect(&[&line[tail..]], "typing the loader").await?;
        }
        self.say("\x04", Stage::Handover).await?;
        match self.handed_over("evaluating the loader").await? {
            Answer::Mark => {
                self.stage = Stage::Taken;
                Ok(())
            }
            Answer::Refused | Answer::Prompt => bail!(
                "the server's REPL does not hand over its connection ({}): load the agent \
                 (--print-agent) with node --require",
                self.last_words()
            ),
        }
    }

    /// Waits for what the loader's evaluation comes to. All that is printed before the mark is the
    /// console's; after it nothing is, until the script is there.
    async fn handed_over(&mut self, doing: &str) -> anyhow::Result<Answer> {
        let mark = self.mark.clone();
        match self.expect(&[&mark, REFUSED, REPL_PROMPT], doing).await? {
            0 => Ok(Answer::Mark),
            1 => Ok(Answer::Refused),
            _ => Ok(Answer::Prompt),
        }
    }

    /// Leaves by the console's own door and waits until the server has closed it.
    async fn leave(&mut self) -> anyhow::Result<()> {
        // The farewell takes place during a shutdown, too.
        let (_never, shutdown) = watch::channel(false);
        self.shutdown = shutdown;
        let doing = "leaving the console";
        loop {
            match self.stage {
                Stage::Arriving => {
                    self.expect(&[COMMAND_PROMPT], doing).await?;
                    self.stage = Stage::Command;
                }
                Stage::BeforeEditor => {
                    self.expect(&[EDITOR_GREETING], doing).await?;
                    self.stage = Stage::Editor;
                }
                Stage::Editor => self.say("\x03", Stage::BeforeRepl).await?,
                Stage::BeforeRepl => {
                    self.expect(&[REPL_PROMPT], doing).await?;
                    self.stage = Stage::Repl;
                }
                Stage::Handover => match self.handed_over(doing).await? {
                    Answer::Mark | Answer::Refused => self.stage = Stage::Taken,
                    Answer::Prompt => self.stage = Stage::Repl,
                },
                Stage::Taken => return Ok(()),
                Stage::Repl => self.say(".exit\n", Stage::Arriving).await?,
                Stage::Command => {
                    self.say("\x04", Stage::Command).await?;
                    while self.read(doing).await.is_ok() {}
                    return Ok(());
                }
            }
        }
    }

    /// Types something, after which the conversation is at `stage`.
    async fn say(&mut self, text: &str, stage: Stage) -> anyhow::Result<()> {
        self.screen.clear();
        self.stage = stage;
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

/// A script as it is typed: without comments and indentation, in lines that cost the server's event
/// loop little each, with the mark's halves in their place.
fn typed(script: &str, mark: &(String, String)) -> Vec<String> {
    let mark = format!("'{}' + '{}'", mark.0, mark.1);
    let script = script.replace("'MARK'", &mark);
    let mut typed: Vec<String> = Vec::new();
    for line in script.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        match typed.last_mut() {
            Some(last) if last.len() + 1 + line.len() <= LINE => {
                last.push(' ');
                last.push_str(line);
            }
            _ => typed.push(line.to_owned()),
        }
    }
    typed
}

/// 64 random bits in hexadecimal digits.
fn secret() -> anyhow::Result<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).context("draw random numbers")?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_is_typed_in_short_lines_of_plain_ascii() {
        let mark = ("0123456789abcdef".to_owned(), "fedcba9876543210".to_owned());
        let lines = typed(LOADER, &mark);
        for line in &lines {
            assert!(line.len() <= LINE, "{line}");
            assert!(line.is_ascii() && !line.contains('\t'), "{line}");
            // Editor mode repeats a line's indentation on the next line.
            assert!(!line.starts_with(' '), "{line}");
            assert!(!line.contains("//"), "{line}");
            // An expression with this in it is evaluated later than in this turn.
            assert!(!line.contains("await"), "{line}");
        }
        let echo = lines.concat();
        assert!(echo.contains(&format!("'{}' + '{}'", mark.0, mark.1)));
        assert!(!echo.contains(&(mark.0 + &mark.1)), "the echo must not look like the answer");
        assert!(!echo.contains(REFUSED), "nor like the other answer");
    }

    #[test]
    fn lines_are_joined_as_far_as_they_fit() {
        let check = |script: &str, expected: &[&str]| {
            assert_eq!(typed(script, &("a".to_owned(), "b".to_owned())), expected);
        };
        check("// Why.\n  one;\n  // Because.\n  two;\n", &["one; two;"]);
        check("say('MARK')", &["say('a' + 'b')"]);
        let (long, short) = ("x".repeat(96), "y".repeat(3));
        check(&format!("{long}\n{short}\n{short}"), &[&format!("{long} {short}"), &short]);
    }
}
