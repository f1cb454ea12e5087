//! A name server that answers from a table, and records its queries.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use simple_dns::rdata::{A, AAAA, RData};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};

/// The port of name servers.
const PORT: u16 = 53;
/// Interval of the check whether the server must end.
const TICK: Duration = Duration::from_millis(20);
/// Longest answer in a datagram, in bytes.
const DATAGRAM: usize = 512;

/// The answer for a name.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Its addresses.
    Addresses(Vec<IpAddr>),
    /// A code other than success.
    Code(RCODE),
    /// No answer.
    Silence,
}

/// A server at its own address, over UDP and TCP. It ends on drop.
pub struct Server {
    address: Ipv4Addr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    table: Vec<(String, Answer)>,
    asked: Mutex<Vec<String>>,
    ends: AtomicBool,
}

impl Server {
    /// Starts a server on this machine's loopback. Names that are not in the table do not exist.
    ///
    /// # Panics
    /// If no address is free.
    pub fn start(table: &[(&str, Answer)]) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let (address, udp, tcp) = (0..100)
            .find_map(|_| {
                let [high, low] = (NEXT.fetch_add(1, Ordering::Relaxed) + 1).to_be_bytes();
                let address = Ipv4Addr::new(127, 53, high, low);
                Some((address, UdpSocket::bind((address, PORT)).ok()?, TcpListener::bind((address, PORT)).ok()?))
            })
            .expect("an address of loopback is free");
        udp.set_read_timeout(Some(TICK)).expect("it is a socket");
        tcp.set_nonblocking(true).expect("it is a socket");
        let table = table.iter().map(|(name, answer)| ((*name).to_owned(), answer.clone())).collect();
        let shared = Arc::new(Shared { table, asked: Mutex::default(), ends: AtomicBool::new(false) });
        let (one, other) = (shared.clone(), shared.clone());
        let threads = vec![thread::spawn(move || one.datagrams(&udp)), thread::spawn(move || other.connections(&tcp))];
        Self { address, shared, threads }
    }

    /// Returns a `resolv.conf` that names the server.
    pub fn resolv_conf(&self, more: &str) -> String {
        format!("nameserver {}\n{more}", self.address)
    }

    /// Returns the queried names, each once, as `name over udp` or `name over tcp`.
    pub fn asked(&self) -> Vec<String> {
        let mut asked = self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        asked.sort();
        asked.dedup();
        asked
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn datagrams(&self, socket: &UdpSocket) {
        let mut buffer = [0; DATAGRAM];
        while !self.ends.load(Ordering::Relaxed) {
            let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
            let Some(mut answer) = self.answer(&buffer[..length], "udp") else { continue };
            if answer.len() > DATAGRAM {
                let mut short = Packet::parse(&buffer[..length]).expect("it was read before").into_reply();
                short.set_flags(PacketFlag::TRUNCATION);
                answer = short.build_bytes_vec().expect("it is short");
            }
            let _ = socket.send_to(&answer, client);
        }
    }

    fn connections(&self, listener: &TcpListener) {
        while !self.ends.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = listener.accept() else {
                thread::sleep(TICK);
                continue;
            };
            let mut serve = || {
                stream.set_nonblocking(false)?;
                let mut length = [0; 2];
                stream.read_exact(&mut length)?;
                let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut message)?;
                let answer = self.answer(&message, "tcp").unwrap_or_default();
                let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
                stream.write_all(&[&length.to_be_bytes()[..], &answer].concat())
            };
            let _ = serve();
        }
    }

    fn answer(&self, message: &[u8], way: &str) -> Option<Vec<u8>> {
        let query = Packet::parse(message).ok()?;
        let question = query.questions.first()?.clone();
        let name = question.qname.to_string().to_lowercase();
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{name} over {way}"));
        let known = self.table.iter().find(|(known, _)| *known == name);
        let mut reply = query.into_reply();
        match known.map_or(Answer::Code(RCODE::NameError), |(_, answer)| answer.clone()) {
            Answer::Silence => return None,
            Answer::Code(code) => *reply.rcode_mut() = code,
            Answer::Addresses(addresses) => {
                let data = addresses.into_iter().filter_map(|address| match (address, question.qtype) {
                    (IpAddr::V4(address), QTYPE::TYPE(TYPE::A)) => Some(RData::A(A::from(address))),
                    (IpAddr::V6(address), QTYPE::TYPE(TYPE::AAAA)) => Some(RData::AAAA(AAAA::from(address))),
                    _ => None,
                });
                let record = |data| ResourceRecord::new(question.qname.clone(), CLASS::IN, 60, data);
                reply.answers.extend(data.map(record));
            }
        }
        reply.build_bytes_vec_compressed().ok()
    }
}
