//! How it looks.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Text;
use ratatui::widgets::{
    Block, Cell, Clear, Paragraph, Row, StatefulWidget, Table, TableState, Widget,
};

use crate::top::state::State;
use crate::top::words::{bars, megabits, millis, percent, verdict};
use crate::views::Line;

const PLOT: u16 = 12;
const HELP: &str = "\
 enter     what is within the row      esc       back
 b         rows are: peer, room, ip, net, asn, country, stream, transport
 s  r      sort by the next column, the other way round
 /         filter: room:lecture loss:>2% net:203.0.113.0/24 -country:DE
 space     pause
 left      a minute back    right   forth    n   now
 +  -      a longer or shorter time
 q         quit";

/// The whole screen.
pub(super) fn draw(state: &State, frame: &mut Frame<'_>) {
    let parts = [Constraint::Length(2), Constraint::Min(3), Constraint::Length(2)];
    let [head, body, foot] = Layout::vertical(parts).areas(frame.area());
    frame.render_widget(Paragraph::new(heading(state)), head);
    rows(state, body, frame.buffer_mut());
    frame.render_widget(Paragraph::new(footing(state)), foot);
    if state.helps {
        let height = HELP.lines().count() as u16 + 2;
        let width = frame.area().width.min(76);
        let [area] = Layout::horizontal([Constraint::Length(width)]).areas(body);
        let area = Rect { height: height.min(area.height), ..area };
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new(HELP).block(Block::bordered().title(" help ")), area);
    }
}

/// The table as plain text, for who prints it.
pub(super) fn table(state: &State, width: u16) -> String {
    let height = state.document.rows.len().clamp(1, 5_000) as u16 + 1;
    let area = Rect::new(0, 0, width.max(60), height);
    let mut buffer = Buffer::empty(area);
    rows(state, area, &mut buffer);
    text(&buffer)
}

fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let lines = buffer.content.chunks(width).map(|cells| {
        let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
        format!("{}\n", line.trim_end())
    });
    lines.collect()
}

fn heading(state: &State) -> Text<'static> {
    let document = &state.document;
    let when = match (state.at.is_empty(), state.paused) {
        (true, false) => "live",
        (true, true) => "paused",
        (false, _) => "then",
    };
    let to = document.to.replace('T', " ").replace('Z', " UTC");
    let suffering = document.rows.iter().filter(|row| row.verdict.is_some()).count();
    let first = format!(
        "mediasoup-exporter top by {}   {}   {when} {to}, {} back   {} rows, {suffering} suffer   [?] help",
        state.by, document.host, state.span, document.total
    );
    let second = match (&state.typing, state.filter.is_empty()) {
        (Some(typed), _) => format!("filter: {typed}█"),
        (None, true) => String::new(),
        (None, false) => format!("filter: {}", state.filter),
    };
    Text::from_iter([first, second])
}

fn footing(state: &State) -> Text<'static> {
    if let Some(why) = state.trouble() {
        return Text::styled(why.to_owned(), Style::new().fg(Color::Red));
    }
    let evidence = state.row().and_then(|row| row.evidence.clone()).unwrap_or_default();
    let keys = "enter  [b]y  [s]ort  [/] filter  space pause  ←→ time  [q]uit";
    Text::from_iter([evidence, keys.to_owned()])
}

fn rows(state: &State, area: Rect, buffer: &mut Buffer) {
    let document = &state.document;
    if document.rows.is_empty() {
        let why = match state.filter.is_empty() {
            true => "Nothing was counted or told in this time.",
            false => "Nothing in this time is like that: the filter leaves nothing over.",
        };
        return Paragraph::new(why).render(area, buffer);
    }
    let columns = columns(area.width);
    let widths = columns.iter().flatten().map(|(width, _, _)| *width);
    let head = columns.iter().flatten().map(|(_, head, is_number)| match (*head, *is_number) {
        ("", _) => Cell::from(state.by.to_uppercase()),
        (head, true) => Cell::from(Text::from(head).right_aligned()),
        (head, false) => Cell::from(head),
    });
    let head = Row::new(head).style(Style::new().add_modifier(Modifier::BOLD));
    let rows = document.rows.iter().map(|line| row(line, &columns));
    let table = Table::new(rows, widths).header(head);
    let table = table.row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut selection = TableState::new().with_selected(state.selected);
    StatefulWidget::render(table, area, buffer, &mut selection);
}

/// A column's width, its head, and whether it has numbers. The row's own has no head here.
type Column = (Constraint, &'static str, bool);

/// What there is room for: who it is and what is said of him before all else, pictures last.
fn columns(width: u16) -> [Option<Column>; 12] {
    let all: [(u16, Column); 12] = [
        (0, (Constraint::Fill(3), "", false)),
        (0, (Constraint::Length(if width < 120 { 24 } else { 30 }), "VERDICT", false)),
        (110, (Constraint::Fill(2), "WHO", false)),
        (150, (Constraint::Length(PLOT), "IN", false)),
        (0, (Constraint::Length(7), "Mbit/s", true)),
        (150, (Constraint::Length(PLOT), "OUT", false)),
        (0, (Constraint::Length(7), "Mbit/s", true)),
        (0, (Constraint::Length(8), "LOST IN", true)),
        (0, (Constraint::Length(8), "LOST OUT", true)),
        (95, (Constraint::Length(7), "JITTER", true)),
        (95, (Constraint::Length(7), "RTT", true)),
        (95, (Constraint::Length(2), "SC", true)),
    ];
    all.map(|(from, column)| (from <= width).then_some(column))
}

fn row(row: &Line, columns: &[Option<Column>; 12]) -> Row<'static> {
    let mut who = row.peers.clone();
    who.extend(row.more.then(|| "…".to_owned()));
    let who = match row.rooms.is_empty() {
        true => who.join(", "),
        false => format!("{} ({})", who.join(", "), row.rooms.join(", ")),
    };
    let title = if row.title.is_empty() { "not told".to_owned() } else { row.title.clone() };
    let number = |text: String| Cell::from(Text::from(text).right_aligned());
    let style = match row.verdict {
        Some(_) => Style::new().fg(Color::Red),
        None => Style::new(),
    };
    let cells = [
        Cell::from(title),
        Cell::from(verdict(row)).style(style),
        Cell::from(who),
        Cell::from(bars(row.receive_plot.as_ref(), PLOT.into())),
        number(megabits(row.receive_bits_per_second)),
        Cell::from(bars(row.send_plot.as_ref(), PLOT.into())),
        number(megabits(row.send_bits_per_second)),
        number(percent(row.receive_loss_ratio)),
        number(percent(row.send_loss_ratio)),
        number(millis(row.jitter_seconds)),
        number(millis(row.round_trip_time_seconds)),
        number(row.score.map_or_else(|| "–".into(), |score| score.to_string())),
    ];
    let shown = cells.into_iter().zip(columns).filter(|(_, column)| column.is_some());
    Row::new(shown.map(|(cell, _)| cell))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent};

    use super::*;
    use crate::top::state::tests::state;

    fn shown(state: &State) -> String {
        let mut terminal = Terminal::new(TestBackend::new(150, 12)).unwrap();
        terminal.draw(|frame| draw(state, frame)).unwrap();
        text(terminal.backend().buffer())
    }

    #[test]
    fn the_screen_is_as_it_was() {
        let expected = "\
mediasoup-exporter top by peer   media-2   live 2026-01-31 14:39:05 UTC, 10m back   2 rows, 1 suffer   [?] help

PEER                           VERDICT                  WHO                  IN             Mbit/s OUT            Mbit/s  LOST IN LOST OUT  JITTER     RTT SC
BOB                            uplink, since 14:31      Bob (Lecture 7)      ▁▄█▃             2.20 ████             0.96   11.8 %        –   38 ms       –  3
ADA                            well                     Bob (Lecture 7)      ▁▄█▃             2.20 ████             0.96        –        –   38 ms       –  3





11.8 % of 3456 packets lost before this host
enter  [b]y  [s]ort  [/] filter  space pause  ←→ time  [q]uit
";
        let found = shown(&state());
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&found), words(expected), "{found}");
        assert_eq!(found.lines().count(), 12);
    }

    #[test]
    fn help_filter_and_trouble_are_seen() {
        let mut state = state();
        state.press(KeyEvent::from(KeyCode::Char('?')));
        assert!(shown(&state).contains("what is within the row"));
        state.press(KeyEvent::from(KeyCode::Char('x')));
        "/loss".chars().for_each(|c| state.press(KeyEvent::from(KeyCode::Char(c))));
        assert!(shown(&state).contains("filter: loss█"));
        let asked = state.path();
        state.take(crate::top::state::Reply { asked, answer: Err("no answer in 10s".into()) });
        assert!(shown(&state).contains("no answer in 10s"));
    }

    #[test]
    fn a_printed_table_has_a_line_for_each_row() {
        let printed = table(&state(), 160);
        assert_eq!(printed.lines().count(), 3);
        assert!(printed.lines().nth(1).unwrap().starts_with("BOB"), "{printed}");
        let empty = State::new(&crate::top::state::tests::options());
        assert!(table(&empty, 10).starts_with("Nothing was counted"));
    }

    #[test]
    fn what_strangers_wrote_does_not_act_on_the_terminal() {
        let mut state = state();
        state.document.rows[0].title = "a\u{1b}[31m\nb".into();
        let shown = shown(&state);
        assert!(!shown.contains('\u{1b}') && shown.lines().count() == 12, "{shown:?}");
    }
}
