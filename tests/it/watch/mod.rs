//! Watched plugin directories: changes of files, and forms of paths.

#[cfg(unix)]
mod both_kinds;
mod changes;
#[cfg(unix)]
mod roots;
