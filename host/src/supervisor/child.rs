//! A child process: spawned in a group of its own, ended with all that it started, always reaped.
