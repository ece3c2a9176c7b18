//! What a terminal would show of a console's output: text without colours and cursor movements, as
//! far back as a prompt can be.
//!
//! Pure.

/// Bytes of text that are kept: a prompt and what was echoed before it.
const KEPT: usize = 8 * 1024;

/// Text of a console since the last [`Screen::clear`].
#[derive(Debug, Default)]
pub(super) struct Screen {
    text: String,
    state: Escape,
    /// Bytes since the last clear, shown or not.
    fed: usize,
}

/// Where in an escape sequence (ECMA-48 §5.4, §8.3.89) the stream is.
#[derive(Debug, Default, Clone, Copy)]
enum Escape {
    #[default]
    Text,
    /// After ESC.
    Begun,
    /// In a control sequence: `ESC [` parameters, until a byte in `@`–`~`.
    Control,
    /// In an operating system command: until BEL or ESC `\`.
    Command,
}

impl Screen {
    /// Takes in output; sequences may be cut anywhere.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.fed += bytes.len();
        for byte in bytes {
            self.state = match (self.state, byte) {
                (Escape::Text | Escape::Command, 0x1b) => Escape::Begun,
                (Escape::Text, byte) => {
                    // The prompts are ASCII; other text is of no interest here.
                    if byte.is_ascii_graphic() || *byte == b' ' || *byte == b'\n' {
                        self.text.push(char::from(*byte));
                    }
                    Escape::Text
                }
                (Escape::Begun, b'[') => Escape::Control,
                (Escape::Begun, b']') => Escape::Command,
                (Escape::Begun, _) | (Escape::Control, 0x40..=0x7e) | (Escape::Command, 0x07) => {
                    Escape::Text
                }
                (state, _) => state,
            };
        }
        if self.text.len() > 2 * KEPT {
            self.text.drain(..self.text.len() - KEPT);
        }
    }

    /// Forgets what was shown.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.fed = 0;
    }

    /// The text since the last clear, or the end of it.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Bytes since the last clear.
    pub(super) fn fed(&self) -> usize {
        self.fed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chunks: &[&str], text: &str) {
        let mut screen = Screen::default();
        chunks.iter().for_each(|chunk| screen.feed(chunk.as_bytes()));
        assert_eq!(screen.text(), text);
    }

    #[test]
    fn colours_and_cursor_movements_do_not_show() {
        check(&["\x1b[1G\x1b[0Jcmd> \x1b[6G"], "cmd> ");
        check(&["\x1b[32mgreen\x1b[39m\r\n"], "green\n");
        check(&["\x1b", "[1", "Gterm", "inal> \x1b[1", "1G"], "terminal> ");
        check(&["\x1b]0;title\x07text \x1b]0;other\x1b\\more"], "text more");
        check(&["gr\u{fc}n\0"], "grn");
    }

    #[test]
    fn only_the_end_is_kept() {
        let mut screen = Screen::default();
        for _ in 0..100 {
            screen.feed(&[b'x'; 1000]);
        }
        screen.feed(b"cmd> ");
        assert!(screen.text().len() <= 2 * KEPT);
        assert!(screen.text().ends_with("cmd> "));
        assert_eq!(screen.fed(), 100_005);
    }
}
