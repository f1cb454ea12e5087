//! Runs the program as a user does, and reads what it wrote as others will.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod archive;
mod artifacts;
mod command;
mod failures;
mod images;
mod names;
