//! Runs the program as a user does, and reads what it wrote as others will.

mod archive;
mod artifacts;
mod command;
mod failures;
mod images;
mod names;
