//! Entries of the parsers of what a program writes, for the fuzz targets. Not part of the API.

use crate::capabilities::Capabilities;
use crate::connection::read_response;
use crate::location::{Line, Location};
use crate::output::{LogLine, Splitter, Tail};

/// Parses the output of the command `capabilities`.
pub fn capabilities(bytes: &[u8]) {
    if let Err(error) = Capabilities::parse(bytes) {
        assert!(!error.to_string().is_empty());
    }
}

/// Reads a response of a program. Does not hang.
pub fn http_response(bytes: &[u8]) {
    let _ = read_response(bytes);
}

/// Parses a line in which a program prints its location. A location is parsed back.
pub fn location_line(bytes: &[u8]) {
    let line = String::from_utf8_lossy(bytes);
    let _ = Location::beyond_loopback(&line);
    let Line::Location(found) = Location::parse(&line) else { return };
    if let Location::Tcp(_) = found {
        assert_eq!(Location::parse(&found.to_string()), Line::Location(found));
    }
}

/// Splits output into lines and parses each as a log line. Chunks do not change the lines.
pub fn log_lines(bytes: &[u8]) {
    let lines_of = |chunk_bytes: usize| {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        bytes
            .chunks(chunk_bytes)
            .for_each(|chunk| splitter.feed(chunk, |line| lines.push(line.to_owned())));
        splitter.finish(|line| lines.push(line.to_owned()));
        lines
    };
    let lines = lines_of(usize::MAX);
    assert_eq!(lines, lines_of(7));
    let mut tail = Tail::default();
    for line in &lines {
        let _ = LogLine::read(line);
        tail.push(line);
    }
}
