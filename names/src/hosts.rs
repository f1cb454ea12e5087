//! `/etc/hosts`: each line has an address and its names.

use std::net::IpAddr;

/// Maximum number of addresses of one name.
const MOST: usize = 64;

/// Returns the addresses of a host, in the order of the file. Malformed lines are skipped.
pub(crate) fn find(text: &[u8], host: &str) -> Vec<IpAddr> {
    let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
    let lines = text.split(|byte| *byte == b'\n');
    let mut found: Vec<IpAddr> = Vec::new();
    for address in lines.filter_map(|line| address_of(line, host)) {
        if found.len() < MOST && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// Returns the address of a line if it has this name.
fn address_of(line: &[u8], host: &[u8]) -> Option<IpAddr> {
    let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let address = words.next()?;
    if !words.any(|name| name.strip_suffix(b".").unwrap_or(name).eq_ignore_ascii_case(host)) {
        return None;
    }
    // The zone after the address is dropped: sockets get none.
    let address = std::str::from_utf8(address).ok()?.split('%').next()?;
    Some(address.parse::<IpAddr>().ok()?.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"# hosts\n127.0.0.1\tlocalhost\n::1 localhost ip6-localhost\n\n10.0.0.1 one One.example. # two\n\
        10.0.0.1 one\nfe80::1%eth0 link\nbad name\n300.0.0.1 one\n10.0.0.9\n\xff\xfe\xfd one\n::ffff:10.0.0.2 mapped\r\n10.0.0.3 last";

    fn found(host: &str) -> Vec<String> {
        find(TEXT, host).iter().map(ToString::to_string).collect()
    }

    /// A name has the addresses of all lines with it, without duplicates; case and a final dot make no difference, comments do not count.
    #[test]
    fn names_are_found() {
        assert_eq!(found("localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(found("one"), ["10.0.0.1"]);
        assert_eq!(found("one.example"), ["10.0.0.1"]);
        assert_eq!(found("one.example."), ["10.0.0.1"]);
        assert_eq!(found("link"), ["fe80::1"]);
        assert_eq!(found("mapped"), ["10.0.0.2"]);
        assert_eq!(found("last"), ["10.0.0.3"]);
        assert!(found("two").is_empty() && found("name").is_empty() && found("10.0.0.9").is_empty());
    }

    /// The number of addresses of a name is limited.
    #[test]
    fn addresses_are_limited() {
        let text: String = (0..200).map(|number| format!("10.0.0.{number} many\n")).collect();
        assert_eq!(find(text.as_bytes(), "many").len(), MOST);
    }
}
