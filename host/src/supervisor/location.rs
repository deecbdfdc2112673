//! Where a program can be reached, as it says in one line.
