//! What a program writes, line by line: bounded, read as log lines, the last of them kept.
