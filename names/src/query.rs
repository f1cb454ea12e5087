//! Resolves a name by name servers: the candidates, the servers, the attempts.

use std::net::IpAddr;

use tokio::time::timeout;

use crate::exchange;
use crate::message::{Family, Question, Reply};
use crate::servers::Servers;

/// The reason why there are no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The host does not exist, or has no address.
    Unknown,
    /// No server could answer.
    Unanswered,
    /// The servers refused to answer.
    Refused,
}

/// The reason why a query has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// No server has responded.
    Silence,
    /// A server has reported a failure, or refused.
    Said(Failure),
}

/// Looks a name up: tries its candidates one after the other, until one has an address.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn resolve(servers: &Servers, host: &str) -> Result<Vec<IpAddr>, Failure> {
    let mut failed = None;
    for name in servers.candidates(host) {
        match both(servers, &name).await {
            Ok(addresses) if !addresses.is_empty() => return Ok(addresses),
            Ok(_) => {}
            // A silent server will not answer for the next candidate either.
            Err(Missing::Silence) => return Err(Failure::Unanswered),
            // Some servers fail for domains that do not exist.
            Err(Missing::Said(failure)) => failed = failed.or(Some(failure)),
        }
    }
    Err(failed.unwrap_or(Failure::Unknown))
}

/// Queries both address families at once. The result of one family counts, whatever the result of the other.
async fn both(servers: &Servers, name: &str) -> Result<Vec<IpAddr>, Missing> {
    let (v6, v4) = tokio::join!(one(servers, name, Family::V6), one(servers, name, Family::V4));
    match (v6, v4) {
        (Ok(v6), Ok(v4)) => Ok([v6, v4].concat()),
        (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.is_empty() => Ok(found),
        (_, Err(missing)) | (Err(missing), _) => Err(missing),
    }
}

/// Queries one server after the other, for the configured number of rounds.
async fn one(servers: &Servers, name: &str, family: Family) -> Result<Vec<IpAddr>, Missing> {
    let mut missing = Missing::Silence;
    for _ in 0..servers.attempts {
        for &server in &servers.addresses {
            let id = getrandom::u32().map_err(|_| Missing::Silence)?.to_le_bytes();
            let id = u16::from_le_bytes([id[0], id[1]]);
            let question = Question { id, name: name.to_owned(), family };
            let reply = timeout(servers.timeout, exchange::ask(server, &question, servers.tcp)).await;
            missing = match reply {
                Ok(Ok(Reply::Addresses(addresses))) => return Ok(addresses),
                Ok(Ok(Reply::Failed | Reply::Truncated)) => Missing::Said(Failure::Unanswered),
                Ok(Ok(Reply::Refused)) => Missing::Said(Failure::Refused),
                Ok(Err(_)) | Err(_) => missing,
            };
        }
    }
    Err(missing)
}

#[cfg(test)]
#[path = "query/tests.rs"]
mod tests;
