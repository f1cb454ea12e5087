//! Limits and devices of a container as systemd properties, so that systemd does not overwrite them. Each property corresponds to a
//! cgroup file (`systemd.resource-control(5)` of systemd 257). A file without a property is written by the shim alone.

use super::devices::{DeviceRules, Devices};
use super::limits::{Setting, per_second};
use super::systemd::{Property, Value};

/// systemd's value for no limit.
const INFINITY: u64 = u64::MAX;

/// The reason why a limit has no systemd property.
#[derive(Debug, thiserror::Error)]
#[error("cannot pass {file} to systemd: {value:?} is no valid value")]
pub(crate) struct PropertyError {
    file: String,
    value: String,
}

/// Translates settings. Of several for one property the last counts, as for its file.
///
/// # Errors
/// [`PropertyError`] names file and value.
pub(super) fn of_settings(settings: &[Setting]) -> Result<Vec<Property>, PropertyError> {
    let mut properties: Vec<Property> = Vec::new();
    for setting in settings {
        let translated = of_setting(&setting.file, &setting.value);
        let wrong = || PropertyError { file: setting.file.clone(), value: setting.value.clone() };
        for property in translated.ok_or_else(wrong)? {
            properties.retain(|known| known.name != property.name);
            properties.push(property);
        }
    }
    // For systemd idle is a weight, and overrides any other.
    if let Some(idle) = settings.iter().rfind(|setting| setting.file == "cpu.idle")
        && idle.value == "1"
    {
        properties.retain(|known| known.name != "CPUWeight");
        properties.push(Property::new("CPUWeight", Value::Number(0)));
    }
    Ok(properties)
}

/// Translates one setting; `None` if its value is malformed.
fn of_setting(file: &str, value: &str) -> Option<Vec<Property>> {
    let number = |name| Some(vec![Property::new(name, Value::Number(limit(value)?))]);
    match file {
        "cpu.max" => {
            let (quota, period) = value.split_once(' ').unwrap_or((value, "100000"));
            let period = period.trim().parse().ok()?;
            let quota = match limit(quota)? {
                INFINITY => INFINITY,
                quota => per_second(quota, period),
            };
            let of = |name, number| Property::new(name, Value::Number(number));
            Some(vec![of("CPUQuotaPeriodUSec", period), of("CPUQuotaPerSecUSec", quota)])
        }
        "cpu.weight" => number("CPUWeight"),
        "cpuset.cpus" => Some(vec![Property::new("AllowedCPUs", Value::Bytes(mask(value)?))]),
        "cpuset.mems" => Some(vec![Property::new("AllowedMemoryNodes", Value::Bytes(mask(value)?))]),
        "io.weight" => {
            // The file also accepts "default 50", and weights of single devices, which have no property.
            let weight = value.strip_prefix("default ").unwrap_or(value);
            if weight.contains(':') {
                return Some(Vec::new());
            }
            Some(vec![Property::new("IOWeight", Value::Number(weight.trim().parse().ok()?))])
        }
        "memory.high" => number("MemoryHigh"),
        "memory.low" => number("MemoryLow"),
        "memory.max" => number("MemoryMax"),
        "memory.min" => number("MemoryMin"),
        "memory.swap.max" => number("MemorySwapMax"),
        "memory.zswap.max" => number("MemoryZSwapMax"),
        "memory.oom.group" => {
            let policy = if value == "1" { "kill" } else { "continue" };
            Some(vec![Property::new("OOMPolicy", Value::Text(policy.to_owned()))])
        }
        // systemd does not accept 0.
        "pids.max" => Some(vec![Property::new("TasksMax", Value::Number(limit(value)?.max(1)))]),
        _ => Some(Vec::new()),
    }
}

fn limit(value: &str) -> Option<u64> {
    match value.trim() {
        "max" => Some(INFINITY),
        value => value.parse().ok(),
    }
}

/// Translates a list such as `0-2,5` to bits, the lowest number in the lowest bit of the first byte.
fn mask(list: &str) -> Option<Vec<u8>> {
    let mut bits: Vec<u8> = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        // The kernel supports at most 8192 processors.
        if first > last || last >= 8192 {
            return None;
        }
        bits.resize(bits.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|bit| bits[bit / 8] |= 1 << (bit % 8));
    }
    (!bits.is_empty()).then_some(bits)
}

/// Translates rules for devices. systemd can only name allowed devices. Other rules are left to the filter that is attached in addition
/// to systemd's own.
pub(super) fn of_devices(rules: &DeviceRules) -> Vec<Property> {
    let named =
        rules.allowances().and_then(|list| list.map(|(devices, access)| Some((path(devices)?, access))).collect());
    let (policy, list) = match named {
        Some(list) => ("strict", list),
        None => ("auto", Vec::new()),
    };
    vec![
        Property::new("DevicePolicy", Value::Text(policy.to_owned())),
        Property::new("DeviceAllow", Value::Devices(list)),
    ]
}

/// Names devices in the notation of systemd (since 240); `None` if it has none for them.
fn path(devices: Devices) -> Option<String> {
    let kind = if devices.block { "block" } else { "char" };
    match (devices.major, devices.minor) {
        (Some(major), Some(minor)) => Some(format!("/dev/{kind}/{major}:{minor}")),
        (Some(major), None) => Some(format!("{kind}-{major}")),
        (None, None) => Some(format!("{kind}-*")),
        (None, Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(settings: &[(&str, &str)]) -> Vec<(&'static str, Value)> {
        let settings: Vec<_> = settings.iter().map(|(file, value)| Setting::named(file, value)).collect();
        of_settings(&settings).unwrap().into_iter().map(|property| (property.name, property.value)).collect()
    }

    /// Each file has the property that runc sets for it, in systemd's units.
    #[test]
    fn files() {
        let number = |name, value| (name, Value::Number(value));
        assert_eq!(properties(&[("memory.max", "max")]), [number("MemoryMax", INFINITY)]);
        assert_eq!(properties(&[("memory.swap.max", "4096")]), [number("MemorySwapMax", 4096)]);
        assert_eq!(
            properties(&[("cpu.max", "50000 100000")]),
            [number("CPUQuotaPeriodUSec", 100_000), number("CPUQuotaPerSecUSec", 500_000)]
        );
        assert_eq!(
            properties(&[("cpu.max", "max")]),
            [number("CPUQuotaPeriodUSec", 100_000), number("CPUQuotaPerSecUSec", INFINITY)]
        );
        assert_eq!(properties(&[("pids.max", "0")]), [number("TasksMax", 1)]);
        assert_eq!(properties(&[("io.weight", "50")]), [number("IOWeight", 50)]);
        assert_eq!(properties(&[("cpuset.cpus", "0-1,9")]), [("AllowedCPUs", Value::Bytes(vec![3, 2]))]);
        assert_eq!(properties(&[("memory.oom.group", "1")]), [("OOMPolicy", Value::Text("kill".to_owned()))]);
        assert_eq!(properties(&[("hugetlb.2MB.max", "0"), ("cpu.max.burst", "5")]), []);
    }

    /// Of two values for one file the later counts, and an idle container has no other weight.
    #[test]
    fn later_values_win() {
        let number = |name, value| (name, Value::Number(value));
        assert_eq!(properties(&[("cpu.weight", "7"), ("cpu.weight", "100")]), [number("CPUWeight", 100)]);
        assert_eq!(properties(&[("cpu.idle", "1"), ("cpu.weight", "100")]), [number("CPUWeight", 0)]);
        assert_eq!(properties(&[("cpu.idle", "0"), ("cpu.weight", "100")]), [number("CPUWeight", 100)]);
    }

    /// A malformed value is refused with file and value.
    #[test]
    fn nonsense_is_refused() {
        for (file, value) in
            [("memory.max", "much"), ("cpu.max", "x 100000"), ("cpuset.cpus", "3-1"), ("cpuset.mems", "")]
        {
            let error = of_settings(&[Setting::named(file, value)]).unwrap_err();
            assert_eq!(error.to_string(), format!("cannot pass {file} to systemd: {value:?} is no valid value"));
        }
    }

    /// The default list becomes a strict policy with names; rules without a systemd notation become none.
    #[test]
    fn devices() {
        let rules = |json: &str| DeviceRules::new(&serde_json::from_str::<Vec<_>>(json).unwrap()).unwrap();
        let strict = of_devices(&rules(r#"[{"allow":false}]"#));
        assert_eq!(strict[0], Property::new("DevicePolicy", Value::Text("strict".to_owned())));
        let Value::Devices(list) = &strict[1].value else { panic!("no list") };
        let has = |path: &str, access: &str| list.contains(&(path.to_owned(), access.to_owned()));
        assert!(has("/dev/char/1:3", "rwm") && has("char-136", "rwm") && has("block-*", "m"), "{list:?}");
        let open = of_devices(&rules(r#"[{"allow":true},{"allow":false,"type":"b","access":"w"}]"#));
        assert_eq!(open[0], Property::new("DevicePolicy", Value::Text("auto".to_owned())));
        assert_eq!(open[1].value, Value::Devices(Vec::new()));
    }
}
