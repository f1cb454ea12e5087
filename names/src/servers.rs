//! `/etc/resolv.conf`: name servers, search domains, timeouts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// The port of name servers.
const PORT: u16 = 53;
/// Maximum number of servers: the limit of the C library.
const MOST_SERVERS: usize = 3;
/// Maximum number of search domains: the limit of Kubernetes.
const MOST_DOMAINS: usize = 32;
/// Maximum values of options; greater ones count as these.
const MOST_DOTS: usize = 15;
const MOST_ATTEMPTS: u32 = 5;
const LONGEST_WAIT: u64 = 30;

/// The settings of the file, or their defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Servers {
    /// The servers, in the order in which they are queried.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Domains that are appended to a short name.
    pub(crate) search: Vec<String>,
    /// A name with at least so many dots is first looked up as it is.
    pub(crate) dots: usize,
    /// Time limit for one answer.
    pub(crate) timeout: Duration,
    /// Number of queries to each server.
    pub(crate) attempts: u32,
    /// Use TCP from the beginning.
    pub(crate) tcp: bool,
}

impl Servers {
    /// Parses the file. Malformed lines are skipped; without a server, the one on this machine is used.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut servers = Self {
            addresses: Vec::new(),
            search: Vec::new(),
            dots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            tcp: false,
        };
        for line in text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()) {
            servers.read_line(line);
        }
        if servers.addresses.is_empty() {
            let own: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            servers.addresses = own.map(|address| SocketAddr::new(address, PORT)).into();
        }
        servers
    }

    fn read_line(&mut self, line: &str) {
        // A comment begins with one of these characters at the start of a word.
        let mut words = line.split_ascii_whitespace().take_while(|word| !word.starts_with(['#', ';']));
        match words.next() {
            Some("nameserver") if self.addresses.len() < MOST_SERVERS => {
                self.addresses.extend(words.next().and_then(server));
            }
            // The last such line counts.
            Some("search") => self.search = words.filter_map(domain).take(MOST_DOMAINS).collect(),
            Some("domain") => self.search = words.take(1).filter_map(domain).collect(),
            Some("options") => words.for_each(|option| self.read_option(option)),
            _ => {}
        }
    }

    fn read_option(&mut self, option: &str) {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        let number = value.parse::<u64>().ok();
        match (name, number) {
            ("ndots", Some(dots)) => self.dots = usize::try_from(dots).unwrap_or(MOST_DOTS).min(MOST_DOTS),
            ("timeout", Some(seconds)) => self.timeout = Duration::from_secs(seconds.clamp(1, LONGEST_WAIT)),
            ("attempts", Some(attempts)) => {
                self.attempts = u32::try_from(attempts).unwrap_or(MOST_ATTEMPTS).clamp(1, MOST_ATTEMPTS);
            }
            ("use-vc", None) => self.tcp = true,
            _ => {}
        }
    }

    /// Returns the candidates for a name, in the order of the queries.
    pub(crate) fn candidates(&self, host: &str) -> Vec<String> {
        if let Some(whole) = host.strip_suffix('.') {
            return vec![whole.to_owned()];
        }
        let in_domains = self.search.iter().map(|domain| format!("{host}.{domain}"));
        let mut names: Vec<String> = in_domains.filter(|name| crate::is_host(name)).collect();
        let is_first = host.matches('.').count() >= self.dots;
        names.insert(if is_first { 0 } else { names.len() }, host.to_owned());
        names
    }
}

/// Parses the address of a server, with the interface of a link-local one.
fn server(word: &str) -> Option<SocketAddr> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, PORT));
    }
    let (address, interface) = word.split_once('%')?;
    let address = address.parse::<Ipv6Addr>().ok()?;
    Some(SocketAddrV6::new(address, PORT, 0, number_of(interface)?).into())
}

/// Returns the number of an interface.
fn number_of(interface: &str) -> Option<u32> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    if let Ok(number) = interface.parse() {
        return Some(number);
    }
    let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    netdevice::name_to_index(&socket, interface).ok()
}

/// Parses a search domain; the root domain adds nothing and is dropped.
fn domain(word: &str) -> Option<String> {
    let domain = word.strip_suffix('.').unwrap_or(word);
    crate::is_host(domain).then(|| domain.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<String> {
        Servers::parse(text.as_bytes()).addresses.iter().map(ToString::to_string).collect()
    }

    /// All settings of the file are parsed; malformed or unknown lines and comments have no effect.
    #[test]
    fn files_are_read() {
        let text = "; made by hand\n#nameserver 10.0.0.9\nnameserver 10.0.0.1\n  nameserver\tfd00::1 # second\nnameserver x\n\
            nameserver fe80::1%7\ndomain other.example\nsearch a.example. b.example bad..name . c\\d\nsortlist 10.0.0.0\n\
            options ndots:5 timeout:3 attempts:4 use-vc rotate ndots:x edns0\n";
        let servers = Servers::parse(text.as_bytes());
        assert_eq!(addresses(text), ["10.0.0.1:53", "[fd00::1]:53", "[fe80::1%7]:53"]);
        assert_eq!(servers.search, ["a.example", "b.example"]);
        assert_eq!((servers.dots, servers.attempts, servers.tcp), (5, 4, true));
        assert_eq!(servers.timeout, Duration::from_secs(3));
    }

    /// An empty, missing or senseless file means the server on this machine and no search domains.
    #[test]
    fn nothing_means_the_machine_itself() {
        for text in [&b""[..], b"\xff\xff\xff nameserver 1.1.1.1\n", b"nameserver\nsearch\noptions\n"] {
            let servers = Servers::parse(text);
            let own = ["127.0.0.1:53", "[::1]:53"].map(|address| address.parse().unwrap());
            assert_eq!((&*servers.addresses, servers.dots, servers.attempts), (&own[..], 1, 2));
            assert!(servers.search.is_empty() && !servers.tcp);
        }
    }

    /// A number out of range counts as the nearest valid one.
    #[test]
    fn numbers_are_limited() {
        let text = "options ndots:99 timeout:0 attempts:0\noptions ndots:18446744073709551616\n";
        let servers = Servers::parse(text.as_bytes());
        assert_eq!((servers.dots, servers.timeout, servers.attempts), (15, Duration::from_secs(1), 1));
        let servers = Servers::parse(b"options timeout:9999 attempts:4294967296");
        assert_eq!((servers.timeout, servers.attempts), (Duration::from_secs(30), 5));
        let many: String = (0..9).map(|number| format!("nameserver 10.0.0.{number}\n")).collect();
        assert_eq!(addresses(&many), ["10.0.0.0:53", "10.0.0.1:53", "10.0.0.2:53"]);
        let text: String = (0..99).fold("search".to_owned(), |line, number| format!("{line} d{number}.example"));
        assert_eq!(Servers::parse(text.as_bytes()).search.len(), MOST_DOMAINS);
    }

    /// Short names are searched first, names with enough dots last, and names that end in a dot not at all.
    #[test]
    fn candidates_follow_the_dots() {
        let servers = Servers::parse(b"search a.example b.example\noptions ndots:2");
        assert_eq!(servers.candidates("x"), ["x.a.example", "x.b.example", "x"]);
        assert_eq!(servers.candidates("x.y"), ["x.y.a.example", "x.y.b.example", "x.y"]);
        assert_eq!(servers.candidates("x.y.z"), ["x.y.z", "x.y.z.a.example", "x.y.z.b.example"]);
        assert_eq!(servers.candidates("x."), ["x"]);
        let long = [&*"l".repeat(62); 4].join(".");
        assert_eq!(servers.candidates(&long), [long]);
    }
}
