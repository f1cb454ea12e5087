//! Metrics of containers as shims report them, field by field, so that two shims can be compared.

use std::collections::{BTreeMap, BTreeSet};

use containerd_client::types::Metric;
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::reflect::{ReflectFieldRef, ReflectValueRef};
use containerd_shim_protos::protobuf::{Message, MessageDyn, UnknownValueRef};

/// One field of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Figure {
    /// The message exists.
    Present,
    /// A number.
    Number(u64),
    /// A fraction of time.
    Share(f64),
    /// A name.
    Text(String),
}

/// All fields of all existing messages, including those that are zero, by path: `memory.usage.limit`.
pub type Figures = BTreeMap<String, Figure>;

/// The allowed difference between the numbers of two containers with the same work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tolerance {
    /// No difference.
    Same,
    /// The larger is at most this many times the smaller. Zero equals only zero.
    Times(u64),
    /// The difference is at most this; zero equals any small number.
    Within(u64),
}

/// Reads the metrics in an answer of containerd.
///
/// # Panics
/// If its message has no type that containerd's clients know.
pub fn read(metric: &Metric) -> Figures {
    let data = metric.data.as_ref().expect("there are figures");
    let mut figures = Figures::new();
    match &*data.type_url {
        "io.containerd.cgroups.v1.Metrics" => {
            collect("", &v1::Metrics::parse_from_bytes(&data.value).expect("a message"), &mut figures);
        }
        "io.containerd.cgroups.v2.Metrics" => {
            collect("", &v2::Metrics::parse_from_bytes(&data.value).expect("a message"), &mut figures);
        }
        other => panic!("{other} is no message of figures"),
    }
    figures
}

/// Adds the fields of a message, by number if its type lacks them. Of a list of numbers, the count and the sum are added: the
/// distribution over processors is random.
fn collect(path: &str, message: &dyn MessageDyn, figures: &mut Figures) {
    for field in message.descriptor_dyn().fields() {
        let path = if path.is_empty() { field.name().to_owned() } else { format!("{path}.{}", field.name()) };
        let ReflectFieldRef::Repeated(list) = field.get_reflect(message) else {
            if field.is_singular() && (field.has_field(message) || !is_message(&field.singular_default_value())) {
                add(&path, field.get_singular_field_or_default(message), figures);
            }
            continue;
        };
        figures.insert(format!("{path}.count"), Figure::Number(list.len() as u64));
        let mut sum = None;
        for (place, value) in list.into_iter().enumerate() {
            match value {
                ReflectValueRef::U64(value) => *sum.get_or_insert(0) += value,
                value => add(&format!("{path}[{place}]"), value, figures),
            }
        }
        figures.extend(sum.map(|sum| (format!("{path}.sum"), Figure::Number(sum))));
    }
    for (number, value) in message.unknown_fields_dyn().iter() {
        let UnknownValueRef::Varint(value) = value else { panic!("field {number} of {path} is no number") };
        figures.insert(format!("{path}.{number}"), Figure::Number(value));
    }
}

fn is_message(value: &ReflectValueRef<'_>) -> bool {
    matches!(value, ReflectValueRef::Message(_))
}

fn add(path: &str, value: ReflectValueRef<'_>, figures: &mut Figures) {
    let figure = match value {
        ReflectValueRef::U64(number) => Figure::Number(number),
        ReflectValueRef::U32(number) => Figure::Number(number.into()),
        ReflectValueRef::F64(share) => Figure::Share(share),
        ReflectValueRef::String(text) => Figure::Text(text.to_owned()),
        ReflectValueRef::Message(message) => {
            collect(path, &*message, figures);
            Figure::Present
        }
        other => panic!("{path} is {other}, which no message of figures has had"),
    };
    figures.insert(path.to_owned(), figure);
}

/// Returns the names of fields that only one side has, or whose difference exceeds the tolerance.
pub fn differences(own: &Figures, other: &Figures, tolerance: fn(&str) -> Tolerance) -> Vec<String> {
    let paths: BTreeSet<&String> = own.keys().chain(other.keys()).collect();
    let differ = |path: &&String| match (own.get(*path), other.get(*path)) {
        (Some(Figure::Number(own)), Some(Figure::Number(other))) => !tolerance(path).holds(*own, *other),
        // Averages over the last seconds differ in each run.
        (Some(Figure::Share(_)), Some(Figure::Share(_))) => false,
        (own, other) => own != other,
    };
    let line =
        |path: &String| format!("{path}: {:?}, not {:?} by {:?}", own.get(path), other.get(path), tolerance(path));
    paths.into_iter().filter(differ).map(line).collect()
}

impl Tolerance {
    fn holds(self, own: u64, other: u64) -> bool {
        let (small, large) = (own.min(other), own.max(other));
        match self {
            Self::Same => small == large,
            Self::Times(factor) => large <= small.saturating_mul(factor),
            Self::Within(distance) => large - small <= distance,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(numbers: &[(&str, u64)]) -> Figures {
        numbers.iter().map(|(path, number)| ((*path).to_owned(), Figure::Number(*number))).collect()
    }

    /// A field that one side lacks, and zero against a count, are differences.
    #[test]
    fn differences_are_found() {
        let tolerance = |path: &str| if path == "a" { Tolerance::Times(3) } else { Tolerance::Same };
        let found = |own, other| differences(&figures(own), &figures(other), tolerance).len();
        assert_eq!(found(&[("a", 30), ("b", 1)], &[("a", 10), ("b", 1)]), 0);
        assert_eq!(found(&[("a", 31)], &[("a", 10)]), 1);
        assert_eq!(found(&[("a", 0)], &[("a", 1)]), 1);
        assert_eq!(found(&[("b", 1)], &[("b", 2)]), 1);
        assert_eq!(found(&[("b", 1)], &[]), 1);
        assert!(Tolerance::Within(2).holds(0, 2) && !Tolerance::Within(2).holds(3, 0));
    }

    /// All fields of existing messages are read.
    #[test]
    fn all_fields_are_read() {
        let mut metrics = v1::Metrics::default();
        metrics.memory_oom_control.mut_or_insert_default().oom_kill = 1;
        metrics.cpu.mut_or_insert_default().usage.mut_or_insert_default().per_cpu = vec![2, 3];
        let mut found = Figures::new();
        collect("", &metrics, &mut found);
        assert_eq!(found.remove("memory_oom_control"), Some(Figure::Present));
        assert_eq!(found.remove("cpu"), Some(Figure::Present));
        assert_eq!(found.remove("cpu.usage"), Some(Figure::Present));
        let expected = figures(&[
            ("hugetlb.count", 0),
            ("network.count", 0),
            ("cpu.usage.total", 0),
            ("cpu.usage.kernel", 0),
            ("cpu.usage.user", 0),
            ("cpu.usage.per_cpu.count", 2),
            ("cpu.usage.per_cpu.sum", 5),
            ("memory_oom_control.oom_kill_disable", 0),
            ("memory_oom_control.under_oom", 0),
            ("memory_oom_control.oom_kill", 1),
        ]);
        assert_eq!(found, expected);
    }
}
