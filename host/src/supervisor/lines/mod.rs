//! The output of a program, line by line: limited in length, parsed as log lines, with the last
//! lines kept.

mod log_line;
mod splitter;
mod tail;

pub(crate) use log_line::LogLine;
pub(crate) use splitter::Splitter;
pub(crate) use tail::Tail;
