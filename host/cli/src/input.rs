//! Reads the input of calls from the command line, a file or stdin, up to the limit of a host.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal as _, Read};
use std::path::Path;

use hotbay::{ContentType, HostLimits, Request};

use crate::args::Call;
use crate::failure::Failure;

/// The input of one call.
pub(crate) struct Input {
    bytes: Vec<u8>,
    is_json: bool,
}

impl Input {
    pub(crate) fn of_call(args: &Call) -> Result<Self, Failure> {
        let from_file = match (&args.text, &args.input) {
            (Some(text), _) => return Ok(Self::new(text.clone().into_bytes())),
            (None, Some(file)) if file.as_os_str() != "-" => file,
            (None, Some(_)) => return Self::of_stdin(),
            (None, None) if matches!(args.method.as_deref(), Some("GET" | "HEAD")) => {
                return Ok(Self::new(Vec::new()));
            }
            (None, None) if io::stdin().is_terminal() => {
                let message = "no input: expected --text STRING, --input FILE, or data on stdin";
                return Err(Failure::Usage(message.to_owned()));
            }
            (None, None) => return Self::of_stdin(),
        };
        Self::of_file(from_file)
    }

    /// Reads the sample, if one is given.
    pub(crate) fn of_sample(
        text: Option<&str>,
        file: Option<&Path>,
    ) -> Result<Option<Self>, Failure> {
        Ok(match (text, file) {
            (Some(text), _) => Some(Self::new(text.as_bytes().to_vec())),
            (None, Some(file)) if file.as_os_str() == "-" => Some(Self::of_stdin()?),
            (None, Some(file)) => Some(Self::of_file(file)?),
            (None, None) => None,
        })
    }

    pub(crate) fn of_stdin() -> Result<Self, Failure> {
        read_all(io::stdin().lock(), "stdin").map(Self::new)
    }

    pub(crate) fn empty() -> Self {
        Self::new(Vec::new())
    }

    pub(crate) fn copy(&self) -> Self {
        Self { bytes: self.bytes.clone(), is_json: self.is_json }
    }

    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, is_json: false }
    }

    fn of_file(path: &Path) -> Result<Self, Failure> {
        let name = format!("`{}`", path.display());
        let file =
            File::open(path).map_err(|error| Failure::io(format!("cannot read {name}"), &error))?;
        Ok(Self {
            bytes: read_all(file, &name)?,
            is_json: path.extension().is_some_and(|extension| extension == "json"),
        })
    }

    pub(crate) fn request(&self) -> Request<'_> {
        Request::bytes(&self.bytes).with_content_type(self.content_type())
    }

    pub(crate) fn into_request(self) -> Request<'static> {
        let content_type = self.content_type();
        Request::owned(self.bytes).with_content_type(content_type)
    }

    fn content_type(&self) -> &'static str {
        match (self.is_json, std::str::from_utf8(&self.bytes)) {
            (true, _) => ContentType::JSON,
            (false, Ok(_)) => ContentType::TEXT,
            (false, Err(_)) => ContentType::BYTES,
        }
    }
}

/// Returns the maximum size of one input.
pub(crate) fn max_input_bytes() -> u64 {
    HostLimits::default().max_input_bytes
}

fn read_all(mut from: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let max_bytes = max_input_bytes();
    let mut bytes = Vec::new();
    from.by_ref()
        .take(max_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io(format!("cannot read {name}"), &error))?;
    if bytes.len() as u64 > max_bytes {
        let message = format!("{name} exceeds the limit of {max_bytes} bytes");
        return Err(Failure::new("input", message));
    }
    Ok(bytes)
}

/// A line of input, without its line end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Whole(Vec<u8>),
    /// A line that exceeds the limit and was skipped.
    TooLong,
}

/// Reads the next line. Returns it with the number of bytes read, or `None` at the end of the
/// input. Buffers at most `max_bytes` of it.
pub(crate) fn next_line(
    from: &mut impl BufRead,
    max_bytes: u64,
) -> io::Result<Option<(Line, u64)>> {
    let mut line = Vec::new();
    // Two more for the line end.
    let read = from.by_ref().take(max_bytes + 2).read_until(b'\n', &mut line)?;
    if read == 0 {
        return Ok(None);
    }
    let has_line_end = line.last() == Some(&b'\n');
    if has_line_end {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    let mut consumed = read as u64;
    if line.len() as u64 <= max_bytes {
        return Ok(Some((Line::Whole(line), consumed)));
    }
    drop(line);
    if !has_line_end {
        consumed += from.skip_until(b'\n')? as u64;
    }
    Ok(Some((Line::TooLong, consumed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expect: &[Option<&str>]) {
        let mut from = io::BufReader::with_capacity(2, input.as_bytes());
        let (mut lines, mut total) = (Vec::new(), 0);
        while let Some((line, consumed)) = next_line(&mut from, 4).unwrap() {
            total += consumed;
            lines.push(match line {
                Line::Whole(line) => Some(String::from_utf8(line).unwrap()),
                Line::TooLong => None,
            });
        }
        let lines: Vec<_> = lines.iter().map(Option::as_deref).collect();
        assert_eq!(lines, expect, "{input:?}");
        assert_eq!(total, input.len() as u64, "{input:?}");
    }

    #[test]
    fn both_line_ends_and_end_of_input_end_a_line() {
        check("", &[]);
        check("a\nb", &[Some("a"), Some("b")]);
        check("a\r\n\n", &[Some("a"), Some("")]);
        check("1234\r\nx", &[Some("1234"), Some("x")]);
    }

    #[test]
    fn line_over_limit_is_skipped_to_its_end() {
        check("12345\nb\n", &[None, Some("b")]);
        check("1234567890\r\nb", &[None, Some("b")]);
        check("1234567890", &[None]);
        check("123456", &[None]);
        check("12345", &[None]);
    }
}
