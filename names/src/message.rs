//! DNS messages: queries and answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question as Asked, RCODE, SimpleDnsError, TYPE, header_buffer};

/// Maximum number of addresses that are taken from an answer.
const MOST: usize = 64;
/// Shortest question and shortest record of a message, in bytes.
const SHORTEST_QUESTION: usize = 5;
const SHORTEST_RECORD: usize = 11;

/// The address family of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// A query, with the id that its answer must have.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) id: u16,
    pub(crate) name: String,
    pub(crate) family: Family,
}

/// The content of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The addresses of the host; empty if it has none of this family or does not exist.
    Addresses(Vec<IpAddr>),
    /// The server cannot answer at present.
    Failed,
    /// The server refuses such queries.
    Refused,
    /// The answer is too long for a datagram.
    Truncated,
}

impl Family {
    fn record(self) -> TYPE {
        match self {
            Self::V4 => TYPE::A,
            Self::V6 => TYPE::AAAA,
        }
    }
}

impl Question {
    /// Encodes the query as a message.
    ///
    /// # Errors
    /// The name does not fit into a message.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, SimpleDnsError> {
        let mut packet = Packet::new_query(self.id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(self.asked()?);
        packet.build_bytes_vec()
    }

    fn asked(&self) -> Result<Asked<'_>, SimpleDnsError> {
        Ok(Asked::new(Name::new(&self.name)?, self.family.record().into(), CLASS::IN.into(), false))
    }

    /// Decodes an answer; `None` if it is malformed or answers another query.
    pub(crate) fn read(&self, message: &[u8]) -> Option<Reply> {
        let is_answer = header_buffer::has_flags(message, PacketFlag::RESPONSE).ok()?;
        if !is_answer || header_buffer::id(message).ok()? != self.id {
            return None;
        }
        if header_buffer::has_flags(message, PacketFlag::TRUNCATION).ok()? {
            return Some(Reply::Truncated);
        }
        // Allocates nothing for records that the message cannot hold.
        let records = [header_buffer::answers, header_buffer::name_servers, header_buffer::additional_records];
        let records = records.iter().map(|count| count(message).map_or(0, usize::from)).sum::<usize>();
        let questions = usize::from(header_buffer::questions(message).ok()?);
        if questions * SHORTEST_QUESTION + records * SHORTEST_RECORD > message.len() {
            return None;
        }
        let packet = Packet::parse(message).ok()?;
        let asked = self.asked().ok()?;
        let [question] = packet.questions.as_slice() else { return None };
        if question.qname != asked.qname || question.qtype != asked.qtype || question.qclass != asked.qclass {
            return None;
        }
        Some(match packet.rcode() {
            RCODE::NoError => Reply::Addresses(self.addresses(&packet)),
            RCODE::NameError => Reply::Addresses(Vec::new()),
            RCODE::ServerFailure => Reply::Failed,
            _ => Reply::Refused,
        })
    }

    /// Takes the addresses from an answer, under whatever name the server lists them.
    fn addresses(&self, packet: &Packet<'_>) -> Vec<IpAddr> {
        let address = |data: &RData<'_>| -> Option<IpAddr> {
            match (data, self.family) {
                (RData::A(a), Family::V4) => Some(Ipv4Addr::from(a.address).into()),
                (RData::AAAA(a), Family::V6) => Some(IpAddr::from(Ipv6Addr::from(a.address)).to_canonical()),
                _ => None,
            }
        };
        packet.answers.iter().filter_map(|record| address(&record.rdata)).take(MOST).collect()
    }
}

#[cfg(test)]
#[path = "message/tests.rs"]
mod tests;
