//! Tables for people: plain columns without truncation, so that `grep` and `awk` work on them too.

use std::time::SystemTime;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::HumanBytes;

/// Prints rows below a heading; without rows only the heading.
pub(super) fn print<const COLUMNS: usize>(heading: [&str; COLUMNS], right: &[usize], rows: Vec<[String; COLUMNS]>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(heading);
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.to_string().lines() {
        super::progress::print(line.trim_end());
    }
}

/// Writes an age in one unit.
pub(super) fn age(created: Option<SystemTime>) -> String {
    let Some(age) = created.and_then(|created| SystemTime::now().duration_since(created).ok()) else {
        return "-".to_owned();
    };
    let seconds = age.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Writes a number of bytes.
pub(super) fn bytes(size: Option<u64>) -> String {
    size.map_or_else(|| "-".to_owned(), |size| HumanBytes(size).to_string())
}

/// Joins names; a dash without any.
pub(super) fn names(names: &[String]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}
