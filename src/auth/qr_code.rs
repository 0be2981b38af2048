//! A setup link as a QR code, in the terminal or as an SVG file.

use fast_qr::{ECL, QRBuilder, QRCode};

/// Light modules around the code. The standard wants 4; phones read codes with 2, and terminals are narrow.
const MARGIN: usize = 2;

/// A QR code.
pub struct QrCode {
    code: QRCode,
}

impl QrCode {
    /// Encodes a text. `None` if it is too long.
    pub fn new(text: &str) -> Option<QrCode> {
        QRBuilder::new(text).ecl(ECL::L).build().ok().map(|code| QrCode { code })
    }

    /// Columns that the code takes in a terminal.
    pub fn columns(&self) -> usize {
        self.code.size + 2 * MARGIN
    }

    fn is_dark(&self, x: usize, y: usize) -> bool {
        let inside = |at: usize| at.checked_sub(MARGIN).filter(|at| *at < self.code.size);
        matches!((inside(x), inside(y)), (Some(x), Some(y)) if self.code[y][x].value())
    }

    /// The code for a terminal: one character for two modules, one above the other, dark on light whatever the
    /// terminal's colours are.
    pub fn for_terminal(&self) -> String {
        let mut text = String::new();
        for y in (0..self.columns()).step_by(2) {
            text += "\x1b[38;5;16;48;5;231m";
            for x in 0..self.columns() {
                text.push(match (self.is_dark(x, y), self.is_dark(x, y + 1)) {
                    (true, true) => '\u{2588}',
                    (true, false) => '\u{2580}',
                    (false, true) => '\u{2584}',
                    (false, false) => ' ',
                });
            }
            text += "\x1b[0m\n";
        }
        text
    }

    /// The code as an SVG image.
    pub fn svg(&self) -> String {
        let size = self.columns();
        let mut path = String::new();
        for y in 0..size {
            for x in (0..size).filter(|x| self.is_dark(*x, y)) {
                path += &format!("M{x} {y}h1v1h-1z");
            }
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {size} {size}\" shape-rendering=\"crispEdges\">\
             <rect width=\"{size}\" height=\"{size}\" fill=\"#fff\"/><path d=\"{path}\"/></svg>\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_has_the_three_squares_of_its_corners() {
        let code = QrCode::new("obsidian://setuplivesync?settings=abc").unwrap();
        let size = code.code.size;
        for (x, y) in [(0, 0), (size - 7, 0), (0, size - 7)] {
            for (dx, dark) in [true, false, true, true, true, false, true].into_iter().enumerate() {
                assert_eq!(code.is_dark(MARGIN + x + dx, MARGIN + y + 3), dark, "the middle of the square at {x}, {y}");
            }
        }
        assert!(!code.is_dark(0, 0) && !code.is_dark(code.columns() - 1, code.columns() - 1), "the margin is light");
        let shown = code.for_terminal();
        assert_eq!(shown.lines().count(), code.columns().div_ceil(2));
        assert!(code.svg().contains(&format!("viewBox=\"0 0 {0} {0}\"", code.columns())));
        assert!(QrCode::new(&"x".repeat(4000)).is_none());
    }
}
