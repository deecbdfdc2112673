//! A plugin as a program, driven over its socket as any host would.
#![cfg(unix)]

mod calls;
mod ends;
mod program;
mod starts;
mod way_back;
