use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use simple_dns::rdata::{A, AAAA, RData};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use super::*;

/// A name server in this process, which records its queries.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts a server whose answer depends on the first label of a name.
    async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            // Another process may use this port over TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let server = Self { address: udp.local_addr().unwrap(), asked: Arc::default() };
        tokio::spawn(server.clone().datagrams(udp));
        tokio::spawn(server.clone().connections(tcp));
        server
    }

    async fn datagrams(self, socket: UdpSocket) {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            for answer in self.answers(&buffer[..length], false) {
                socket.send_to(&answer, client).await.unwrap();
            }
        }
    }

    async fn connections(self, listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut message = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut message).await.unwrap();
            for answer in self.answers(&message, true) {
                stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        }
    }

    fn answers(&self, message: &[u8], tcp: bool) -> Vec<Vec<u8>> {
        let query = Packet::parse(message).unwrap();
        let (name, kind) = (query.questions[0].qname.to_string(), query.questions[0].qtype);
        self.asked.lock().unwrap().push(format!("{}{name} {kind:?}", if tcp { "tcp " } else { "" }));
        let mut packet = query.clone().into_reply();
        let owner = packet.questions[0].qname.clone();
        let mut add = |data| packet.answers.push(ResourceRecord::new(owner.clone(), CLASS::IN, 1, data));
        let is_v4 = kind == QTYPE::TYPE(TYPE::A);
        match name.split('.').next().unwrap() {
            "both" if is_v4 => add(RData::A(A { address: 0x0a00_0001 })),
            "both" => add(RData::AAAA(AAAA { address: 1 << 120 | 1 })),
            "v4" if is_v4 => add(RData::A(A { address: 0x0a00_0004 })),
            "half" if is_v4 => add(RData::A(A { address: 0x0a00_0005 })),
            "half" => *packet.rcode_mut() = RCODE::ServerFailure,
            "long" if !tcp => packet.set_flags(PacketFlag::TRUNCATION),
            "long" if is_v4 => (0..60).for_each(|number| add(RData::A(A { address: 0x0a00_0100 + number }))),
            "fails" => *packet.rcode_mut() = RCODE::ServerFailure,
            "refused" => *packet.rcode_mut() = RCODE::Refused,
            "silent" => return Vec::new(),
            "forged" if is_v4 => {
                add(RData::A(A { address: 0x0a00_0006 }));
                let mut forged = packet.clone();
                forged.set_id(query.id().wrapping_add(1));
                return vec![forged.build_bytes_vec().unwrap(), vec![0; 3], packet.build_bytes_vec().unwrap()];
            }
            "v4" | "long" | "forged" => {}
            _ => *packet.rcode_mut() = RCODE::NameError,
        }
        vec![packet.build_bytes_vec_compressed().unwrap()]
    }

    /// Returns the queries since the last call, in order.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    /// Returns the distinct queries since the last call, sorted.
    fn asked_for(&self) -> Vec<String> {
        let mut asked = self.asked();
        asked.sort();
        asked.dedup();
        asked
    }
}

fn in_runtime<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// Makes a configuration with these servers.
fn servers(addresses: &[SocketAddr]) -> Servers {
    let mut servers = Servers::parse(b"search a.example b.example");
    servers.addresses = addresses.to_vec();
    servers.timeout = Duration::from_millis(200);
    servers
}

fn texts(found: Result<Vec<IpAddr>, Failure>) -> Result<Vec<String>, Failure> {
    found.map(|addresses| addresses.iter().map(ToString::to_string).collect())
}

fn some(texts: &[&str]) -> Result<Vec<String>, Failure> {
    Ok(texts.iter().map(ToString::to_string).collect())
}

/// A name has the addresses of both families, or of the one that exists, even if the server fails for the other one.
#[test]
fn addresses_of_both_families_are_found() {
    in_runtime(async {
        let server = Server::start().await;
        let servers = servers(&[server.address]);
        assert_eq!(texts(resolve(&servers, "both.x").await), some(&["100::1", "10.0.0.1"]));
        assert_eq!(texts(resolve(&servers, "v4.x").await), some(&["10.0.0.4"]));
        assert_eq!(texts(resolve(&servers, "half.x").await), some(&["10.0.0.5"]));
    });
}

/// A short name is searched in the domains, and the kind of the failure is reported at the end.
#[test]
fn names_are_searched() {
    in_runtime(async {
        let server = Server::start().await;
        let servers = servers(&[server.address]);
        assert_eq!(texts(resolve(&servers, "v4").await), some(&["10.0.0.4"]));
        assert_eq!(server.asked_for(), ["v4.a.example TYPE(A)", "v4.a.example TYPE(AAAA)"]);
        assert_eq!(resolve(&servers, "no").await, Err(Failure::Unknown));
        let asked: Vec<_> = server.asked().into_iter().filter(|asked| asked.ends_with("TYPE(A)")).collect();
        assert_eq!(asked, ["no.a.example TYPE(A)", "no.b.example TYPE(A)", "no TYPE(A)"]);
        assert_eq!(resolve(&servers, "fails").await, Err(Failure::Unanswered));
        assert_eq!(resolve(&servers, "refused.x.").await, Err(Failure::Refused));
    });
}

/// An answer that does not fit into a datagram is requested over TCP; with the option `use-vc` all queries go over TCP.
#[test]
fn long_answers_come_over_tcp() {
    in_runtime(async {
        let server = Server::start().await;
        let mut servers = servers(&[server.address]);
        assert_eq!(resolve(&servers, "long.x").await.map(|found| found.len()), Ok(60));
        assert!(server.asked().contains(&"tcp long.x TYPE(A)".to_owned()));
        servers.tcp = true;
        assert_eq!(texts(resolve(&servers, "v4.x").await), some(&["10.0.0.4"]));
        assert_eq!(server.asked_for(), ["tcp v4.x TYPE(A)", "tcp v4.x TYPE(AAAA)"]);
    });
}

/// If a server is silent, gone or fails, the next one is queried; an answer with a wrong id is ignored.
#[test]
fn next_server_is_asked() {
    in_runtime(async {
        let server = Server::start().await;
        let gone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let servers = servers(&[gone, silent.local_addr().unwrap(), server.address]);
        assert_eq!(texts(resolve(&servers, "v4.x").await), some(&["10.0.0.4"]));
        assert_eq!(texts(resolve(&servers, "forged.x").await), some(&["10.0.0.6"]));
    });
}

/// Silent servers are queried as often as configured, not once more for each domain; then the look-up fails.
#[test]
fn silence_ends() {
    in_runtime(async {
        let server = Server::start().await;
        let servers = servers(&[server.address]);
        let begun = Instant::now();
        assert_eq!(resolve(&servers, "silent").await, Err(Failure::Unanswered));
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(server.asked_for(), ["silent.a.example TYPE(A)", "silent.a.example TYPE(AAAA)"]);
    });
}
