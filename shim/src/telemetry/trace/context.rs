//! Trace contexts in the two forms of the W3C's Trace Context: headers and environment variables.

use std::fs::File;
use std::io::Read as _;

use serde::{Deserialize, Serialize};
use serde_json::json;

/// Id of a trace.
pub(crate) type TraceId = [u8; 16];
/// Id of a span.
pub(crate) type SpanId = [u8; 8];

/// Longest `tracestate` that is passed on, in bytes; the standard requires no more.
const STATE_MAX: usize = 512;

/// A span, as its children refer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Context {
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
    /// Whether the trace is recorded. A parent may have decided that.
    pub(crate) sampled: bool,
    /// The `tracestate` of other vendors, passed on unchanged.
    pub(crate) state: String,
}

/// The parent of a helper's spans, and the context for the process that the helper makes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SpanParent {
    /// The span of the container.
    pub(crate) container: Context,
    /// The span of the call that the helper executes.
    pub(crate) call: SpanId,
}

impl Context {
    /// Parses the headers `traceparent` and `tracestate`. A malformed value is no context.
    pub(crate) fn parse(parent: &str, state: &str) -> Option<Self> {
        let mut parts = parent.split('-');
        let version: [u8; 1] = unhex(parts.next()?)?;
        let (trace, span) = (unhex::<16>(parts.next()?)?, unhex::<8>(parts.next()?)?);
        let flags: [u8; 1] = unhex(parts.next()?)?;
        let fits = version != [0xff] && (version != [0] || parts.next().is_none());
        let plain = state.len() <= STATE_MAX && state.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        (fits && trace != [0; 16] && span != [0; 8]).then(|| Self {
            trace,
            span,
            sampled: flags[0] & 1 == 1,
            state: if plain { state.to_owned() } else { String::new() },
        })
    }

    /// Formats the header `traceparent`.
    pub(crate) fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", hex(&self.trace), hex(&self.span), u8::from(self.sampled))
    }

    /// Formats the variables for a process: `TRACECONTEXT` has the headers as JSON, the others have one header each.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let parent = self.traceparent();
        let mut all = json!({ "traceparent": parent });
        let mut variables = vec![("TRACEPARENT".to_owned(), parent)];
        if !self.state.is_empty() {
            all["tracestate"] = json!(self.state);
            variables.push(("TRACESTATE".to_owned(), self.state.clone()));
        }
        variables.push(("TRACECONTEXT".to_owned(), all.to_string()));
        variables
    }
}

/// Returns random bytes from the kernel. All other generators have the same state in forked processes.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without that device nothing else works either.
    let _ = File::open("/dev/urandom").and_then(|mut device| device.read_exact(&mut bytes));
    bytes[N - 1] |= u8::from(bytes == [0; N]);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let good = text.len() == 2 * N && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2).filter(|_| good)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// A context is parsed and formatted in the same form, and passed to a process in both forms.
    #[test]
    fn contexts() {
        let context = Context::parse(PARENT, "a=1,b=2").unwrap();
        assert_eq!((context.traceparent().as_str(), context.sampled), (PARENT, true));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let json = format!("{{\"traceparent\":\"{PARENT}\",\"tracestate\":\"a=1,b=2\"}}");
        let expected = [pair("TRACEPARENT", PARENT), pair("TRACESTATE", "a=1,b=2"), pair("TRACECONTEXT", &json)];
        assert_eq!(context.variables(), expected);
        assert_eq!(Context::parse(PARENT, "a\n").unwrap().state, "");
    }

    /// A value that violates the standard is no context; later versions may have more fields.
    #[test]
    fn malformed() {
        let future = PARENT.replacen("00", "01", 1);
        assert!(Context::parse(&format!("{future}-more"), "").is_some());
        let zero = "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01";
        let bad = [
            "",
            "00",
            zero,
            &PARENT.to_uppercase(),
            &format!("{PARENT}-x"),
            &PARENT.replacen("00", "ff", 1),
            &PARENT[..54],
        ];
        for bad in bad {
            assert_eq!(Context::parse(bad, ""), None, "{bad}");
        }
    }
}
