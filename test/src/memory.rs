//! Searches the memory of processes, as an attacker inside of one would see it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

/// Lists the regions of a process's memory that contain a text.
///
/// # Panics
/// If the process does not exist, or heap and stack cannot be read.
pub fn regions_with(pid: u32, text: &str) -> Vec<String> {
    const CHUNK: usize = 1 << 20;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process is there");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("the process is there");
    let (mut found, mut read) = (Vec::new(), Vec::new());
    for region in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.starts_with('r'))) {
        let range = region.split(' ').next().and_then(|range| range.split_once('-')).expect("a region has a range");
        let [start, end] = [range.0, range.1].map(|at| u64::from_str_radix(at, 16).expect("an address"));
        // The end of a chunk is kept, so that a text across two chunks is found.
        let mut chunk = Vec::new();
        for at in (start..end).step_by(CHUNK) {
            let kept = chunk.len().saturating_sub(text.len());
            chunk.drain(..kept);
            let old = chunk.len();
            chunk.resize(old + usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK), 0);
            // The kernel's own mappings cannot be read, nor pages beyond the end of a file.
            if memory.read_exact_at(&mut chunk[old..], at).is_err() {
                chunk.clear();
                continue;
            }
            read.push(region);
            if String::from_utf8_lossy(&chunk).contains(text) {
                found.push(region.to_owned());
                break;
            }
        }
    }
    for name in ["[heap]", "[stack]"] {
        assert!(read.iter().any(|region| region.ends_with(name)), "{name} of {pid} cannot be read:\n{maps}");
    }
    found
}
