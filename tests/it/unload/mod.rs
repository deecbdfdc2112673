//! Unloads and shutdowns: when a library is unmapped, why it is retained, and what is left of a host.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod allocators;
mod retained_libraries;
mod retirement;
mod shutdown;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod unmapping;
