//! The header `traceparent` of W3C Trace Context, and hexadecimal digits.

use std::fmt;

/// Formats bytes as two lower-case hexadecimal digits each.
#[derive(Clone, Copy, Debug)]
pub struct Hex<'b>(pub &'b [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Formats a `traceparent`.
pub fn format_traceparent(trace_id: [u8; 16], span_id: [u8; 8], flags: u8) -> String {
    format!("00-{}-{}-{flags:02x}", Hex(&trace_id), Hex(&span_id))
}

/// Parses a `traceparent` into the ids of trace and span, and the flags. Returns `None` for an
/// invalid one, which the standard requires to be ignored.
pub fn parse_traceparent(text: &str) -> Option<([u8; 16], [u8; 8], u8)> {
    let mut parts = text.split('-');
    let version = parts.next()?;
    let trace_id: [u8; 16] = bytes_of(parts.next()?)?;
    let span_id: [u8; 8] = bytes_of(parts.next()?)?;
    let [flags] = bytes_of::<1>(parts.next()?)?;
    let is_known = version == "00" && parts.next().is_none();
    let is_newer = bytes_of::<1>(version)? != [0] && version != "ff";
    let is_valid = trace_id != [0; 16] && span_id != [0; 8];
    ((is_known || is_newer) && is_valid).then_some((trace_id, span_id, flags))
}

fn bytes_of<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * BYTES {
        return None;
    }
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value_of(pair[0])? << 4 | value_of(pair[1])?;
    }
    Some(bytes)
}

fn value_of(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparent_is_parsed_as_in_the_standard() {
        let ids = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
        let (trace_id, span_id, flags) = parse_traceparent(&format!("00-{ids}-01")).unwrap();
        assert_eq!((trace_id[0], trace_id[15]), (0x0a, 0x9c));
        assert_eq!((span_id[0], span_id[7], flags), (0xb7, 0x31, 1));
        let newer = parse_traceparent(&format!("01-{ids}-01-more"));
        assert_eq!(newer, Some((trace_id, span_id, flags)));
        for invalid in [
            format!("00-{ids}"),
            format!("00-{ids}-01-more"),
            format!("ff-{ids}-01"),
            format!("0-{ids}-01"),
            format!("00-{}-01", ids.to_uppercase()),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            String::new(),
        ] {
            assert_eq!(parse_traceparent(&invalid), None, "{invalid}");
        }
    }

    #[test]
    fn formatted_traceparent_is_parsed_back() {
        let text = format_traceparent([0xab; 16], [1; 8], 1);
        assert_eq!(text, "00-abababababababababababababababab-0101010101010101-01");
        assert_eq!(parse_traceparent(&text), Some(([0xab; 16], [1; 8], 1)));
    }
}
