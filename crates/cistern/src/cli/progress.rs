//! How far a command is, on stderr: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output;

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// What is shown of one long command: one step after the other.
pub struct Progress {
    bar: Option<ProgressBar>,
    state: Mutex<State>,
    done: AtomicU64,
}

struct State {
    step: String,
    total: Option<u64>,
    next_line: Instant,
}

impl Progress {
    /// Shows nothing until the first [`Progress::step`].
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
            bar
        });
        Self {
            bar,
            state: Mutex::new(State {
                step: String::new(),
                total: None,
                next_line: Instant::now(),
            }),
            done: AtomicU64::new(0),
        }
    }

    /// Begins a step, such as `uploading disk.raw`, of so many bytes where that is known. Harmless when it is the step
    /// that is shown already.
    pub fn step(&self, text: &str, total: Option<u64>) {
        let mut state = self.state.lock().expect("never held over a panic");
        if state.step == text && state.total == total {
            return;
        }
        let is_new = state.step != text;
        text.clone_into(&mut state.step);
        state.total = total;
        state.next_line = Instant::now() + LINE_EVERY;
        self.done.store(0, Ordering::Relaxed);
        match &self.bar {
            Some(bar) => {
                bar.set_style(style(total.is_some()));
                bar.set_message(text.to_owned());
                bar.set_length(total.unwrap_or(0));
                bar.set_position(0);
                bar.reset_eta();
                bar.enable_steady_tick(Duration::from_millis(100));
            }
            None if is_new => line(&begun(text, total)),
            None => {}
        }
    }

    /// So many bytes of the step are done.
    pub fn set(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        let mut state = self.state.lock().expect("never held over a panic");
        if Instant::now() >= state.next_line {
            state.next_line = Instant::now() + LINE_EVERY;
            line(&under_way(&state.step, done, state.total));
        }
    }

    /// So many more bytes of the step are done.
    pub fn add(&self, bytes: u64) {
        self.set(self.done.load(Ordering::Relaxed) + bytes);
    }

    /// Says something without tearing the bar.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| line(text)),
            None => line(text),
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

fn style(is_known: bool) -> ProgressStyle {
    let template = if is_known {
        "{msg}  [{bar:30}] {percent:>3} %  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left"
    } else {
        "{spinner} {msg}  {binary_bytes}  {elapsed}"
    };
    ProgressStyle::with_template(template)
        .expect("a valid template")
        .progress_chars("=> ")
}

fn begun(step: &str, total: Option<u64>) -> String {
    match total {
        Some(total) if total > 0 => format!("{step} ({})", output::bytes(total)),
        _ => step.to_owned(),
    }
}

fn under_way(step: &str, done: u64, total: Option<u64>) -> String {
    match total {
        Some(total) if total > 0 => {
            let percent = u128::from(done) * 100 / u128::from(total);
            let (done, total) = (output::bytes(done), output::bytes(total));
            format!("{step}: {percent} % ({done} of {total})")
        }
        _ => format!("{step}: {}", output::bytes(done)),
    }
}

fn line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_far_it_is() {
        assert_eq!(begun("uploading x", Some(1 << 30)), "uploading x (1.0 GiB)");
        assert_eq!(begun("waiting", None), "waiting");
        assert_eq!(
            under_way("uploading x", 1 << 29, Some(1 << 30)),
            "uploading x: 50 % (512.0 MiB of 1.0 GiB)"
        );
        assert_eq!(under_way("waiting", 0, None), "waiting: 0 B");
    }

    #[test]
    fn both_templates_are_valid() {
        style(true);
        style(false);
    }
}
