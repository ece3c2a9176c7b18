//! `mediasoup-exporter top`: the views of an exporter in a terminal. A client like any other: it asks for JSON and
//! shows it.
//!
//! `state` knows what is shown and what a key means, `screen` how it looks; both are values in, values out. Only the loop here speaks with anybody.

mod screen;
mod state;
mod words;

use std::io::IsTerminal;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use crate::client::Client;
use crate::config::Top;
use crate::labels::text::inert;
use crate::printed;
use crate::views::Document;

use state::{Reply, State};

/// Between two looks at the exporter, which makes a step every five seconds.
const REFRESH: Duration = Duration::from_secs(2);
/// Between two looks at the keyboard.
const BLINK: Duration = Duration::from_millis(100);
/// Columns of a table that is printed where no terminal says how many it has.
const WIDTH: u16 = 160;

/// Shows it until somebody has seen enough.
pub fn run(options: &Top) -> anyhow::Result<()> {
    let client = Client::new(&options.exporter)?;
    let mut state = State::new(options);
    if options.once || options.json {
        return print(options, &client, &mut state);
    }
    if !std::io::stdout().is_terminal() {
        bail!("top: this is no terminal; --once prints a table, --json a document");
    }
    // The first answer also tells whether somebody is there, before the screen is taken.
    state.take(Reply { asked: state.path(), answer: Ok(client.get(&state.path())?) });
    let mut terminal = ratatui::try_init().context("take the terminal")?;
    let result = show(&mut terminal, client, &mut state);
    ratatui::restore();
    result
}

fn print(options: &Top, client: &Client, state: &mut State) -> anyhow::Result<()> {
    let body = client.get(&state.path())?;
    let text = match options.json {
        true => {
            // A script is to get a document or nothing.
            serde_json::from_str::<Document>(&body).context("this is no exporter")?;
            body
        }
        false => {
            let asked = state.path();
            state.take(Reply { asked, answer: Ok(body) });
            if let Some(why) = state.trouble() {
                bail!("{}: {why}", options.exporter.url);
            }
            let width = ratatui::crossterm::terminal::size().map_or(WIDTH, |(width, _)| width);
            let width = if std::io::stdout().is_terminal() { width } else { WIDTH };
            inert(&screen::table(state, width))
        }
    };
    printed::print(&text)
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    client: Client,
    state: &mut State,
) -> anyhow::Result<()> {
    // A slow exporter must not hold up the keyboard.
    let (ask, asks) = mpsc::channel::<String>();
    let (tell, told) = mpsc::channel();
    let asking = std::thread::Builder::new().name("ask".into());
    asking.spawn(move || {
        while let Ok(path) = asks.recv() {
            // Only the last of those that wait is wanted.
            let asked = asks.try_iter().last().unwrap_or(path);
            let answer = client.get(&asked).map_err(|error| format!("{error:#}"));
            if tell.send(Reply { asked, answer }).is_err() {
                return;
            }
        }
    })?;
    let mut due = Instant::now() + REFRESH;
    loop {
        terminal.draw(|frame| screen::draw(state, frame)).context("draw")?;
        told.try_iter().for_each(|reply| state.take(reply));
        if event::poll(BLINK).context("read the keyboard")?
            && let Event::Key(key) = event::read().context("read the keyboard")?
            && key.kind == KeyEventKind::Press
        {
            state.press(key);
        }
        if state.is_over() {
            return Ok(());
        }
        let is_due = Instant::now() >= due && state.is_live();
        if state.is_stale() || is_due {
            due = Instant::now() + REFRESH;
            state.asked();
            ask.send(state.path()).context("the asking thread ended")?;
        }
    }
}
