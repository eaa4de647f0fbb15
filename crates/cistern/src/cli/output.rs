//! What commands print: one JSON document with `--json`, text for people otherwise. Results go to stdout, everything
//! else to stderr. A reader that closes the pipe early (`| head`) is no failure.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use serde::Serialize;

/// Why results could not be written. Whoever prints goes on, and the command fails at its end.
static UNWRITTEN: OnceLock<String> = OnceLock::new();

/// How to print.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    is_json: bool,
    has_color: bool,
}

impl Output {
    /// Colour only on a terminal, and not where `NO_COLOR` is set.
    pub fn new(is_json: bool, no_color: bool) -> Self {
        Self {
            is_json,
            has_color: !is_json && !no_color && io::stdout().is_terminal(),
        }
    }

    /// Whether `--json` was given.
    pub fn is_json(self) -> bool {
        self.is_json
    }

    /// The result: as a JSON document, or as the text.
    pub fn document(self, value: &impl Serialize, text: impl FnOnce() -> String) {
        if self.is_json {
            line(&serde_json::to_string_pretty(value).unwrap_or_default());
        } else {
            line(&text());
        }
    }

    /// The same for what is shown this once, for whoever says what is to be done where that failed.
    pub fn document_once(self, value: &impl Serialize, text: impl FnOnce() -> String) -> io::Result<()> {
        if self.is_json {
            line_write(&serde_json::to_string_pretty(value).unwrap_or_default())
        } else {
            line_write(&text())
        }
    }

    /// Text in an ANSI colour, where there is colour: 31 red, 32 green, 33 yellow.
    pub fn colored(self, code: u8, text: &str) -> String {
        if self.has_color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// One line of a result.
pub fn line(text: &str) {
    match line_write(text) {
        Err(error) if !is_closed(&error) => {
            let _ = UNWRITTEN.set(error.to_string());
        }
        _ => {}
    }
}

/// One line of a result, for whoever looks at what became of it.
pub fn line_write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end_matches('\n'))?;
    out.flush()
}

/// Whether nobody reads any more.
pub fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Fails where a result could not be written.
pub fn written() -> Result<(), String> {
    let Some(error) = UNWRITTEN.get() else {
        return Ok(());
    };
    Err(format!(
        "the command did what it should, but its result could not be written to standard output: {error}"
    ))
}

/// What has to be looked after, of a command that did what it should.
pub fn warning(text: &str) {
    let _ = writeln!(io::stderr().lock(), "cistern: warning: {}", text.trim_end());
}

/// The reason of a failure: the last line on stderr.
pub fn error(reason: &str) {
    let _ = writeln!(io::stderr().lock(), "cistern: {}", reason.trim_end());
}

/// Bytes as people read them: `1.4 GiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (n.max(1).ilog2() / 10).min(4);
    if unit == 0 {
        return format!("{n} B");
    }
    // One decimal, by tenths, so that no precision is lost on the way.
    let tenths = (u128::from(n) * 10 + (1_u128 << (unit * 10 - 1))) >> (unit * 10);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit as usize])
}

/// What a job said of itself: its step, and how much of it is done.
pub fn progress(said: &serde_json::Value) -> String {
    let step = said["step"].as_str().unwrap_or_default();
    match (said["done_bytes"].as_u64(), said["total_bytes"].as_u64()) {
        (Some(done), Some(total)) if total > 0 => {
            let percent = u128::from(done) * 100 / u128::from(total);
            format!("{step} {} of {} ({percent} %)", bytes(done), bytes(total))
        }
        (Some(done), _) => format!("{step} {}", bytes(done)),
        _ => step.to_owned(),
    }
    .trim()
    .to_owned()
}

/// A number of things, as people write it.
pub fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let shown: Vec<String> = [0, 1023, 1024, 1536, 100_000_000_000, u64::MAX]
            .into_iter()
            .map(bytes)
            .collect();
        assert_eq!(
            shown,
            [
                "0 B",
                "1023 B",
                "1.0 KiB",
                "1.5 KiB",
                "93.1 GiB",
                "16777216.0 TiB"
            ]
        );
    }
}
