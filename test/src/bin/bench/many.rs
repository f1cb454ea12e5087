//! Measures many cold starts of one image at the same time, compared to a single one.

use std::thread;
use std::time::{Duration, Instant};

use prewasi_test::Namespace;

use crate::Counts;
use crate::subject::Subject;
use crate::table::{Samples, Section, Table, Target};

const AT_ONCE: usize = 8;
/// Allowed factor of the time of all starts over that of a single one.
const FACTOR: f64 = 1.3;

/// Takes the measurements in turns: one start, many at the same time.
pub(crate) async fn measure(namespace: &Namespace, counts: Counts) -> Section {
    let big = Subject::big(namespace);
    let (mut one, mut many, mut succeeded) = (Samples::default(), Samples::default(), 0);
    for _ in 0..counts.cold {
        big.import_anew(namespace).await;
        one.add_time(big.time(namespace));
        big.import_anew(namespace).await;
        let (elapsed, successes) = start(namespace, &big);
        many.add_time(elapsed);
        succeeded += successes;
    }
    let compiles = namespace.daemon().journal().compiles(&big.program.digest).len();
    let target = Target::factor(many.median(), one.median(), FACTOR, " one");
    let mut table = Table::new("ms");
    table.row(&format!("one cold start of {}", big.size()), &one, None);
    table.row(&format!("{AT_ONCE} at once, until the last has ended"), &many, Some(target));
    let started = counts.cold * AT_ONCE;
    let intro = format!(
        "Containers of one image that has not been compiled, `ctr run --rm` as a whole. Of {started} containers that were started \
         {AT_ONCE} at a time, {succeeded} succeeded. In {} rounds the image was compiled {compiles} times.",
        2 * counts.cold
    );
    Section::new("Many cold starts at once", &intro, &[table])
}

/// Starts many containers at the same time and waits for the last; returns the time and the number of successes.
fn start(namespace: &Namespace, subject: &Subject) -> (Duration, usize) {
    let started = Instant::now();
    let succeeded = thread::scope(|scope| {
        let runs: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(|| subject.run(namespace).status.success())).collect();
        runs.into_iter().filter_map(|run| run.join().ok()).filter(|success| *success).count()
    });
    (started.elapsed(), succeeded)
}
