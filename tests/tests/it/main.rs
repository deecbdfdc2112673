//! Tests across crates, in one binary, since each would link for seconds. One module a subject.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod allocators;
mod app_layers;
#[cfg(unix)]
mod both_kinds;
mod cancelling;
mod closing;
mod counting;
mod deadlines;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod dependencies;
mod disk;
mod ends;
#[cfg(unix)]
mod example_programs;
mod faults;
mod foreign_texts;
#[cfg(target_os = "linux")]
mod forked;
mod handover;
mod in_flight;
mod interrupted;
mod lifecycle;
mod limits;
mod linked;
mod load;
mod load_options;
mod logs;
mod manifests;
mod memory;
mod mended;
mod mended_bounds;
mod mended_ends;
#[cfg(unix)]
mod mended_processes;
mod metrics;
#[cfg(unix)]
mod mutants;
mod order;
mod paused;
mod permits;
mod pipelines;
mod pipelines_bounds;
mod pipelines_many;
#[cfg(target_os = "linux")]
mod process_again;
#[cfg(target_os = "linux")]
mod process_answers;
#[cfg(target_os = "linux")]
mod process_calls;
#[cfg(target_os = "linux")]
mod process_connections;
#[cfg(target_os = "linux")]
mod process_dialects;
#[cfg(target_os = "linux")]
mod process_ends;
#[cfg(target_os = "linux")]
mod process_hung;
#[cfg(target_os = "linux")]
mod process_life;
#[cfg(target_os = "linux")]
mod process_logs;
#[cfg(target_os = "linux")]
mod process_older;
#[cfg(target_os = "linux")]
mod process_served;
#[cfg(target_os = "linux")]
mod process_soaks;
#[cfg(target_os = "linux")]
mod process_start;
#[cfg(target_os = "linux")]
mod process_supervision;
#[cfg(target_os = "linux")]
mod process_trial;
mod providers;
mod puppet;
mod quarantine;
mod queue;
mod races;
mod reload;
mod request_extensions;
mod response_cache;
mod rollback;
mod schema_budget;
mod shedding;
mod shutdown_grace;
#[cfg(target_os = "linux")]
mod staging_folders;
mod storms;
mod stuck;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod symbols;
mod tower;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod unmapping;
mod validates;
mod watch;
#[cfg(unix)]
mod watch_roots;
mod worker_pool;

#[cfg(unix)]
#[path = "../check_programs.rs"]
mod check_programs;
#[path = "../command.rs"]
mod command;
#[path = "../facts.rs"]
mod facts;
#[path = "../hotbay_command.rs"]
mod hotbay_command;
#[path = "../pipe.rs"]
mod pipe;
#[path = "../pipe_lines.rs"]
mod pipe_lines;
#[path = "../run.rs"]
mod run;
#[path = "../run_metrics.rs"]
mod run_metrics;
