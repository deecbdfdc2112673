//! Two plugins linked into one program as ordinary crates, without their exports; the tests
//! beside this run them. They are built by a cargo call of their own.
