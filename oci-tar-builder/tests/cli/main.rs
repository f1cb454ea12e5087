//! Runs the program as a user does, and reads its output as other programs do.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod archive;
mod artifacts;
mod command;
mod failures;
mod images;
mod names;
