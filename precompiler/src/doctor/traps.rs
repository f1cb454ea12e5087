//! Problems that users meet with one release of containerd and not with another.
//!
//! None of them keeps a container from running, so every check succeeds. `doctor` tells them because containerd tells something else, or
//! nothing.

use super::Check;

/// The first release whose `ctr` has no platform to unpack for when it is asked for one by name.
const WITHOUT_PLATFORM: [u64; 2] = [2, 3];
/// Releases that get no more fixes by containerd's own project; a distribution may still mend them.
const ENDED: [[u64; 2]; 3] = [[1, 7], [2, 0], [2, 1]];
/// The release with long support now, and the month in which that ends.
const SUPPORTED: &str = "2.3, until April 2028";

/// Returns the facts about the release with these numbers; none for a release that is too old or unknown.
pub(super) fn of(numbers: &[u64]) -> Vec<Check> {
    let Some(series) = numbers.first_chunk::<2>() else { return Vec::new() };
    let mut checks = vec![Check::ok("image import", import(series))];
    if ENDED.contains(series) {
        let [major, minor] = series;
        let found =
            format!("containerd's project has ended {major}.{minor}; its release with long support is {SUPPORTED}");
        checks.push(Check::ok("containerd support", found));
    }
    if *series >= WITHOUT_PLATFORM {
        let found = "CRI asks the shim for the figures of each container every second";
        checks.push(Check::ok("figures", found));
    }
    checks
}

/// Says with which option `ctr` takes wasm images.
fn import(series: &[u64; 2]) -> &'static str {
    if *series >= WITHOUT_PLATFORM {
        "`ctr images import` and `pull` take wasm with --all-platforms; with --platform they fail: \"no unpack platforms defined\". \
         File system layers beside wasm are unpacked by `ctr run`, or with --local"
    } else if series[0] >= 2 {
        "`ctr images import` and `pull` take wasm with --all-platforms; without it they leave it out, of an index without an error"
    } else {
        "`ctr images import` and `pull` take wasm with --all-platforms; an index with wasm alone they take with --platform wasip1/wasm"
    }
}

#[cfg(test)]
mod tests {
    use super::super::Health;
    use super::*;

    fn names(numbers: &[u64]) -> Vec<String> {
        of(numbers).into_iter().map(|check| check.name).collect()
    }

    /// Each release has its own traps, and none of them is a fault of the node's.
    #[test]
    fn releases_have_traps() {
        assert_eq!(names(&[1, 7, 24]), ["image import", "containerd support"]);
        assert_eq!(names(&[2, 1, 9]), ["image import", "containerd support"]);
        assert_eq!(names(&[2, 2]), ["image import"]);
        assert_eq!(names(&[2, 3, 4]), ["image import", "figures"]);
        assert_eq!(names(&[2]), [""; 0]);
        let found = |numbers: &[u64]| of(numbers).swap_remove(0).found;
        assert!(found(&[2, 4, 0]).contains("with --platform they fail"));
        assert!(found(&[2, 1, 9]).contains("without it they leave it out"));
        assert!(found(&[1, 7, 24]).contains("--platform wasip1/wasm"));
        assert!(of(&[2, 3, 4]).iter().all(|check| check.health == Health::Ok));
    }
}
