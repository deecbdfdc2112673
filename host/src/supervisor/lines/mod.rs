//! What a program writes, line by line: bounded, read as log lines, the last of them kept.

mod log_line;
mod splitter;
mod tail;

pub(crate) use log_line::LogLine;
pub(crate) use splitter::Splitter;
pub(crate) use tail::Tail;
