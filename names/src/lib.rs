//! Looks up the names of hosts and users without the C library.
//!
//! A guest runs in its container, whose files come from the image. There the C library obeys `/etc/nsswitch.conf` and loads the libraries
//! that it names: native code of the image, in a process of the shim. This crate looks hosts up as musl and Go do it: in `/etc/hosts`,
//! then at the servers of `/etc/resolv.conf`. It looks users up in `/etc/passwd`. The files and each answer are untrusted: their size is
//! limited, and nothing in them is executed. No result is cached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use url::Host;

use self::file::read;
use self::query::Failure;
use self::servers::Servers;

mod error;
mod exchange;
mod file;
mod hosts;
mod message;
mod order;
mod query;
mod servers;
mod users;

pub use error::LookupError;
pub use users::{User, user};

/// The hosts file.
const HOSTS: &str = "/etc/hosts";
/// Longest hosts file that is read, in bytes.
const HOSTS_LIMIT: u64 = 4 << 20;
/// The configuration of the resolver.
const SERVERS: &str = "/etc/resolv.conf";
/// Longest configuration that is read, in bytes.
const SERVERS_LIMIT: u64 = 64 << 10;

/// Returns the addresses of a host, in the order in which they should be tried. An IP address resolves to itself. Dropping the future
/// ends the look-up: no part of it runs on.
///
/// # Errors
/// [`LookupError`] names the host, or the file that cannot be used.
pub async fn lookup(name: &str) -> Result<Vec<IpAddr>, LookupError> {
    lookup_below(Path::new("/"), name).await
}

/// Looks a name up with the files below `root`.
async fn lookup_below(root: &Path, name: &str) -> Result<Vec<IpAddr>, LookupError> {
    let host = match parse(name)? {
        Parsed::Address(address) => return Ok(vec![address]),
        Parsed::Host(host) => host,
    };
    let file = |path: &str| root.join(path.trim_start_matches('/'));
    let known = read(&file(HOSTS), HOSTS_LIMIT)?.map_or_else(Vec::new, |text| hosts::find(&text, &host));
    if !known.is_empty() {
        return Ok(known);
    }
    if is_local(&host) {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let servers = Servers::parse(&read(&file(SERVERS), SERVERS_LIMIT)?.unwrap_or_default());
    let found = query::resolve(&servers, &host).await.map_err(|failure| {
        let name = name.to_owned();
        match failure {
            Failure::Unknown => LookupError::Unknown { name },
            Failure::Unanswered => LookupError::Unanswered { name },
            Failure::Refused => LookupError::Refused { name },
        }
    })?;
    Ok(order::sorted(found))
}

enum Parsed {
    Address(IpAddr),
    /// A name in ASCII and lower case, perhaps with a dot at its end.
    Host(String),
}

/// Distinguishes addresses from names, and refuses anything else. Non-ASCII names are encoded.
fn parse(name: &str) -> Result<Parsed, LookupError> {
    // Encoding takes time, and no text of this length encodes to a name. An error message does not repeat it.
    const LONGEST: usize = 1024;
    let invalid = || LookupError::Invalid { name: name.chars().take(LONGEST).collect() };
    if name.len() > LONGEST {
        return Err(invalid());
    }
    if let Ok(address) = name.parse::<Ipv6Addr>() {
        return Ok(Parsed::Address(IpAddr::V6(address)));
    }
    match Host::parse(name).map_err(|_| invalid())? {
        Host::Ipv4(address) => Ok(Parsed::Address(IpAddr::V4(address))),
        Host::Ipv6(address) => Ok(Parsed::Address(IpAddr::V6(address))),
        Host::Domain(host) if is_host(&host) => Ok(Parsed::Host(host)),
        Host::Domain(_) => Err(invalid()),
    }
}

/// Returns whether a name can be encoded in a message: by its labels, its length, and its characters.
fn is_host(name: &str) -> bool {
    const LONGEST_NAME: usize = 253;
    const LONGEST_LABEL: usize = 63;
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
    };
    name.len() <= LONGEST_NAME && name.split('.').all(is_label)
}

/// Returns whether a name always means this machine (RFC 6761), so that no server is queried.
fn is_local(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests;
