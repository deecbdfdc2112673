//! Tests across crates, in one binary to save link time, one module per subject.

#![allow(clippy::unwrap_used, reason = "test helpers are tests too")]

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod allocators;
mod app_layers;
#[cfg(unix)]
mod both_kinds;
#[cfg(target_os = "linux")]
mod build_command;
mod call_edge_cases;
mod cancellation;
mod closing;
mod counters;
#[cfg(unix)]
mod damaged_libraries;
mod deadlines;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod dependencies;
mod disk_permissions;
mod edge_cases;
#[cfg(unix)]
mod example_programs;
mod faults;
mod folder_names;
#[cfg(target_os = "linux")]
mod fork;
mod handover;
mod in_flight;
mod interrupted_reloads;
mod lifecycle;
mod limits;
mod linked;
mod load;
mod load_options;
mod load_order;
mod load_shedding;
mod logs;
mod manifests;
mod memory_limit;
mod metrics;
mod panicking_wakers;
mod paused_calls;
mod permissions;
mod pipelines;
mod pipelines_limits;
mod pipelines_streams;
#[cfg(target_os = "linux")]
mod process_calls;
#[cfg(target_os = "linux")]
mod process_connections;
#[cfg(target_os = "linux")]
mod process_dialects;
#[cfg(target_os = "linux")]
mod process_fixture;
#[cfg(target_os = "linux")]
mod process_hung;
#[cfg(target_os = "linux")]
mod process_lifecycle;
#[cfg(target_os = "linux")]
mod process_logs;
#[cfg(target_os = "linux")]
mod process_older_dialects;
#[cfg(target_os = "linux")]
mod process_responses;
#[cfg(target_os = "linux")]
mod process_retries;
#[cfg(target_os = "linux")]
mod process_sdk;
#[cfg(target_os = "linux")]
mod process_shutdown;
#[cfg(target_os = "linux")]
mod process_soaks;
#[cfg(target_os = "linux")]
mod process_start;
#[cfg(target_os = "linux")]
mod process_supervision;
#[cfg(unix)]
mod process_timeouts;
mod providers;
mod quarantine;
mod queue;
mod races;
mod reload;
mod request_extensions;
mod response_cache;
mod retirement;
mod rollback;
mod runtime_plugins;
mod schema_budget;
mod scripted_plugin;
mod shutdown_grace;
#[cfg(target_os = "linux")]
mod staging_folders;
mod stress;
mod stuck_calls;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod symbols;
mod text_escaping;
mod tower;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod unmapping;
mod validation;
mod watch;
#[cfg(unix)]
mod watch_roots;
mod worker_pool;

#[cfg(unix)]
#[path = "../check_programs.rs"]
mod check_programs;
#[path = "../command.rs"]
mod command;
#[path = "../hotbay_command.rs"]
mod hotbay_command;
#[path = "../naive_comparison.rs"]
mod naive_comparison;
#[path = "../pipe.rs"]
mod pipe;
#[path = "../pipe_lines.rs"]
mod pipe_lines;
#[path = "../run.rs"]
mod run;
#[path = "../run_metrics.rs"]
mod run_metrics;
