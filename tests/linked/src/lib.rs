//! Two plugins linked into one program as ordinary crates, without their exports, for the tests of
//! this crate. They need a separate cargo call.
