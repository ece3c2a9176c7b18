//! What the terminal shows, and what a key means. No terminal, no clock, no network.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::config::Top;
use crate::views::{Document, KINDS, Line, page_of, within};

/// Columns that rows can be sorted by.
const ORDERS: [&str; 9] =
    ["verdict", "loss_in", "loss_out", "in", "out", "jitter", "rtt", "score", "name"];

/// Steps of going back in time.
const SPANS: [&str; 4] = ["1m", "10m", "1h", "6h"];

/// An answer, and what was asked.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) asked: String,
    pub(super) answer: Result<String, String>,
}

/// What is shown.
#[derive(Debug)]
pub(super) struct State {
    pub(super) by: String,
    pub(super) filter: String,
    pub(super) sort: String,
    pub(super) span: String,
    /// Where the time ends; empty: now.
    pub(super) at: String,
    pub(super) document: Document,
    pub(super) selected: usize,
    pub(super) paused: bool,
    /// The filter, while it is typed.
    pub(super) typing: Option<String>,
    pub(super) helps: bool,
    trouble: Option<String>,
    /// What was shown before somebody went down.
    above: Vec<(String, String, usize)>,
    stale: bool,
    over: bool,
}

impl State {
    pub(super) fn new(options: &Top) -> Self {
        let Top { by, filter, sort, span, at, .. } = options.clone();
        Self {
            by,
            filter,
            sort,
            span,
            at,
            document: Document::default(),
            selected: 0,
            paused: false,
            typing: None,
            helps: false,
            trouble: None,
            above: Vec::new(),
            stale: false,
            over: false,
        }
    }

    /// What to ask the exporter for.
    pub(super) fn path(&self) -> String {
        let page = page_of(&self.by);
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("by", &self.by).append_pair("q", &self.filter);
        query.append_pair("sort", &self.sort).append_pair("for", &self.span);
        query.append_pair("at", &self.at).append_pair("limit", "500").append_pair("plots", "yes");
        format!("/api/v1/{page}?{}", query.finish())
    }

    /// An answer came. One to what is not asked any more is nothing.
    pub(super) fn take(&mut self, reply: Reply) {
        if reply.asked != self.path() {
            return;
        }
        let document = reply.answer.and_then(|body| {
            serde_json::from_str::<Document>(&body).map_err(|_| "this is no exporter".to_owned())
        });
        match document {
            Ok(document) => {
                // Who is selected stays so, wherever he stands now.
                let key = self.row().map(|row| row.key.clone());
                let rows = &document.rows;
                let at = key.and_then(|key| rows.iter().position(|row| row.key == key));
                self.selected = at.unwrap_or(self.selected).min(rows.len().saturating_sub(1));
                (self.document, self.trouble) = (document, None);
            }
            Err(why) => self.trouble = Some(why),
        }
    }

    /// Why what is shown is old, or nothing.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Who is selected.
    pub(super) fn row(&self) -> Option<&Line> {
        self.document.rows.get(self.selected)
    }

    /// Somebody wants something else than is shown.
    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    /// It is asked for.
    pub(super) fn asked(&mut self) {
        self.stale = false;
    }

    /// What is shown goes on.
    pub(super) fn is_live(&self) -> bool {
        !self.paused && self.at.is_empty()
    }

    /// Somebody has seen enough.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyEvent) {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            self.over = true;
        } else if self.typing.is_some() {
            self.write(key.code);
        } else if self.helps {
            self.helps = false;
        } else {
            self.command(key.code);
        }
    }

    fn write(&mut self, key: KeyCode) {
        let Some(text) = &mut self.typing else { return };
        match key {
            KeyCode::Char(c) if text.chars().count() < 1000 => text.push(c),
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Enter => {
                self.filter = self.typing.take().unwrap_or_default();
                self.renew();
            }
            KeyCode::Esc => self.typing = None,
            _ => {}
        }
    }

    fn command(&mut self, key: KeyCode) {
        let last = self.document.rows.len().saturating_sub(1);
        match key {
            KeyCode::Char('q') => self.over = true,
            KeyCode::Char('?' | 'h') => self.helps = true,
            KeyCode::Char('/') => self.typing = Some(self.filter.clone()),
            KeyCode::Char(' ') => self.pause(),
            KeyCode::Char('b') => {
                let kinds = KINDS.map(|(kind, _)| kind);
                self.by = next(&kinds, &self.by, 1);
                self.renew();
            }
            KeyCode::Char('s') => {
                self.sort = next(&ORDERS, &self.sort, 1);
                self.renew();
            }
            KeyCode::Char('r') => {
                self.sort = match self.sort.strip_prefix('-') {
                    Some(column) => column.to_owned(),
                    None => format!("-{}", self.sort),
                };
                self.renew();
            }
            KeyCode::Char('+') => self.widen(1),
            KeyCode::Char('-') => self.widen(SPANS.len() - 1),
            KeyCode::Left => self.travel(-1),
            KeyCode::Right => self.travel(1),
            KeyCode::Char('n') => {
                self.at.clear();
                self.renew();
            }
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.selected = (self.selected + 1).min(last),
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(10),
            KeyCode::PageDown => self.selected = (self.selected + 10).min(last),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = last,
            KeyCode::Enter => self.go_down(),
            KeyCode::Esc | KeyCode::Backspace => self.go_up(),
            _ => {}
        }
    }

    fn renew(&mut self) {
        self.stale = true;
    }

    fn pause(&mut self) {
        self.paused = !self.paused;
        self.stale |= !self.paused;
    }

    fn widen(&mut self, by: usize) {
        self.span = next(&SPANS, &self.span, by);
        self.renew();
    }

    /// A minute back, or forth as far as now.
    fn travel(&mut self, minutes: i64) {
        let Ok(end) = humantime::parse_rfc3339(&self.document.to) else { return };
        let since = end.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        self.at = match minutes > 0 && self.at.is_empty() {
            true => return,
            false => (since + 60 * minutes).max(0).to_string(),
        };
        self.renew();
    }

    /// To what is within the row.
    fn go_down(&mut self) {
        let Some(row) = self.row() else { return };
        if self.by == "stream" {
            return;
        }
        let room = row.rooms.first().map(String::as_str);
        let Some((by, filter)) = within(&self.by, &row.key, room) else { return };
        let above = (self.by.clone(), self.filter.clone(), self.selected);
        self.above.push(above);
        (self.by, self.filter, self.selected) = (by.to_owned(), filter, 0);
        self.renew();
    }

    fn go_up(&mut self) {
        if let Some((by, filter, selected)) = self.above.pop() {
            (self.by, self.filter, self.selected) = (by, filter, selected);
            self.renew();
        }
    }
}

fn next(all: &[&str], now: &str, by: usize) -> String {
    let at = all.iter().position(|it| *it == now.trim_start_matches('-')).unwrap_or(0);
    all[(at + by) % all.len()].to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Exporter;

    pub(in crate::top) fn options() -> Top {
        Top {
            exporter: Exporter {
                url: "http://localhost:8889".into(),
                token_file: None,
                user: None,
                ca_file: None,
            },
            by: "peer".into(),
            filter: String::new(),
            sort: "verdict".into(),
            span: "10m".into(),
            at: String::new(),
            once: false,
            json: false,
        }
    }

    pub(in crate::top) fn document() -> Document {
        let line = |key: &str, verdict: Option<&str>| Line {
            key: key.into(),
            title: key.rsplit('/').next().unwrap().to_uppercase(),
            subtitle: "203.0.113.7".into(),
            rooms: vec!["Lecture 7".into()],
            peers: vec!["Bob".into()],
            live: true,
            receive_bits_per_second: 2_200_000.0,
            send_bits_per_second: 964_000.0,
            receive_loss_ratio: verdict.map(|_| 0.118),
            jitter_seconds: Some(0.0382),
            score: Some(3),
            verdict: verdict.map(str::to_owned),
            evidence: verdict.map(|_| "11.8 % of 3456 packets lost before this host".into()),
            since: verdict.map(|_| "2026-01-31T14:31:05Z".into()),
            receive_plot: Some(vec![0, 5, 9, 3]),
            send_plot: Some(vec![4; 4]),
            ..Line::default()
        };
        Document {
            host: "media-2".into(),
            by: "peer".into(),
            from: "2026-01-31T14:29:05Z".into(),
            to: "2026-01-31T14:39:05Z".into(),
            total: 2,
            offset: 0,
            deidentified: Some(Vec::new()),
            rows: vec![line("Lecture 7/bob", Some("uplink")), line("Lecture 7/ada", None)],
        }
    }

    pub(in crate::top) fn state() -> State {
        let mut state = State::new(&options());
        let answer = Ok(serde_json::to_string(&document()).unwrap());
        state.take(Reply { asked: state.path(), answer });
        state
    }

    fn press(state: &mut State, keys: &str) {
        for c in keys.chars() {
            let code = match c {
                '⏎' => KeyCode::Enter,
                '⎋' => KeyCode::Esc,
                '⌫' => KeyCode::Backspace,
                '←' => KeyCode::Left,
                '→' => KeyCode::Right,
                '↓' => KeyCode::Down,
                c => KeyCode::Char(c),
            };
            state.press(KeyEvent::from(code));
        }
    }

    #[test]
    fn keys_say_what_is_asked_for() {
        let mut state = state();
        assert!(!state.is_stale() && state.is_live());
        press(&mut state, "/loss:>2%⏎");
        assert!(state.is_stale() && state.path().contains("q=loss%3A%3E2%25"), "{}", state.path());
        press(&mut state, "/⌫⌫x⎋");
        assert_eq!(state.filter, "loss:>2%", "what is not entered changes nothing");
        press(&mut state, "bs+");
        let path = state.path();
        assert!(
            path.starts_with("/api/v1/rooms?by=room") && path.contains("sort=loss_in"),
            "{path}"
        );
        assert!(path.contains("for=1h"), "{path}");
        press(&mut state, "rs");
        assert!(state.path().contains("sort=loss_out"));
        press(&mut state, "?q");
        assert!(!state.is_over(), "a key closes the help");
        press(&mut state, "q");
        assert!(state.is_over());
    }

    #[test]
    fn down_and_up_again() {
        let mut state = state();
        press(&mut state, "↓⏎");
        assert_eq!((&*state.by, &*state.filter), ("stream", "room:\"Lecture 7\" peer:ada"));
        press(&mut state, "⎋");
        assert_eq!((&*state.by, &*state.filter, state.selected), ("peer", "", 1));
        press(&mut state, "⎋");
        assert_eq!(state.by, "peer");
    }

    #[test]
    fn back_in_time_and_to_the_present() {
        let mut state = state();
        press(&mut state, "→");
        assert!(state.is_live());
        press(&mut state, "←");
        assert!(!state.is_live() && state.path().contains("at=1769870285"), "{}", state.path());
        press(&mut state, "n");
        assert!(state.is_live());
        press(&mut state, " ");
        assert!(!state.is_live());
    }

    #[test]
    fn who_is_selected_stays_selected_and_what_fails_is_said() {
        let mut state = state();
        press(&mut state, "↓↓");
        let mut moved = document();
        moved.rows.reverse();
        let answer = Ok(serde_json::to_string(&moved).unwrap());
        state.take(Reply { asked: state.path(), answer });
        assert_eq!((state.selected, &*state.row().unwrap().title), (0, "ADA"));
        state.take(Reply { asked: "/old".into(), answer: Err("late".into()) });
        assert_eq!(state.trouble(), None);
        state.take(Reply { asked: state.path(), answer: Err("gone".into()) });
        assert_eq!((state.trouble(), state.document.rows.len()), (Some("gone"), 2));
        state.take(Reply { asked: state.path(), answer: Ok("<html>".into()) });
        assert_eq!(state.trouble(), Some("this is no exporter"));
    }
}
