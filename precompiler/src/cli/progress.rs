//! Output of a command while it works: lines of its result on standard output and, on a terminal, a spinner with the elapsed time.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::visible;

/// Shows the current image and the number of images, until it is dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Starts a bar over `images` images, if standard error is a terminal.
    pub(super) fn new(images: usize) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(images as u64);
        let style = ProgressStyle::with_template("{spinner} [{pos}/{len}] {elapsed} {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// Shows the name of the current image.
    pub(super) fn image(&self, name: &str) {
        self.0.set_message(format!("compiling {name}"));
    }

    /// Counts an image as done and prints its result to standard output, above the bar.
    pub(super) fn done(&self, lines: impl Iterator<Item = String>) {
        self.0.inc(1);
        self.0.suspend(|| lines.for_each(|line| print(&line)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Prints a line of the command's result.
pub(super) fn print(line: &str) {
    // The reader may have gone (`| head`); the command continues all the same.
    let _ = writeln!(std::io::stdout(), "{}", visible(line));
}
