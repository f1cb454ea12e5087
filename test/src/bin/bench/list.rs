//! Measures `prewasi ls` with many artifacts.

use prewasi_test::{Namespace, artifacts};

use crate::Counts;
use crate::table::{Samples, Section, Table, Target};

const ARTIFACTS: usize = 1000;
/// Time limit in milliseconds.
const LIMIT: f64 = 1000.0;

/// Takes the measurements in turns: the table for people, the document for programs.
pub(crate) async fn measure(namespace: &Namespace, counts: Counts) -> Section {
    artifacts::fill(namespace, ARTIFACTS).await;
    let (mut table, mut json) = (Samples::default(), Samples::default());
    for _ in 0..counts.warm {
        let output = namespace.prewasi("ls", &[]).success();
        assert_eq!(output.stdout.lines().count(), ARTIFACTS + 1, "a heading, and a line for each");
        table.add_time(output.elapsed);
        json.add_time(namespace.prewasi("ls", &["--json"]).success().elapsed);
    }
    let target = |samples: &Samples| Some(Target::limit(samples.median(), LIMIT, "ms"));
    let mut rows = Table::new("ms");
    rows.row("`prewasi ls`", &table, target(&table));
    rows.row("`prewasi ls --json`", &json, target(&json));
    let intro =
        format!("{ARTIFACTS} artifacts of {ARTIFACTS} images, each with a layer of its own; the program as a whole.");
    Section::new("Listing", &intro, &[rows])
}
