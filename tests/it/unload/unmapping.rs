//! A library is unmapped only if nothing can call it back. Each C library function through which a
//! plugin could be called later, or its memory read later, keeps the library, and the reason names
//! the function. Each case runs in a subprocess, so that a crash is detected.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use hotbay::{Host, HostEvent, PluginHandle, Request};
use hotbay_tests::{
    Plugins, block_on, event, host, images, library, loaded, run_in_subprocess, unique, until,
};

/// Set in the subprocess: the input of its plugin.
const CASE: &str = "HOTBAY_TESTS_CASE";

/// Runs a case in a subprocess, and returns what happened to the library.
#[track_caller]
fn end_after(case: &str) -> Vec<String> {
    // Built here, once for all cases.
    library("hazards");
    let test = concat!(module_path!(), "::unmapping_child_process");
    let output = run_in_subprocess(test, &[(CASE, case)]);
    let errors = String::from_utf8_lossy(&output.stderr);
    let ends = errors.lines().filter_map(|line| line.strip_prefix("END "));
    ends.map(str::to_owned).collect()
}

#[track_caller]
fn is_kept(case: &str, reason: &str) {
    assert_eq!(end_after(case), [format!("kept: {reason}")], "{case}");
}

/// Loads the plugin, calls it with the case, unloads it, and triggers everything that could run or
/// read leftovers.
#[test]
fn unmapping_child_process() {
    let Ok(case) = env::var(CASE) else { return };
    let case = match case.strip_prefix("no-memory-call ") {
        Some(rest) => {
            forbid_memory_call();
            rest.to_owned()
        }
        None => case,
    };
    let plugins = Plugins::new();
    let host = host(&plugins);
    let mut events = host.events();
    let name = unique("hazards");
    let plugin = loaded(&host, plugins.add(&name, "hazards").write());
    let (word, _) = case.split_once(' ').unwrap_or((&case, ""));
    let file = plugins.dir().join("sign");
    let input = case.replace("FILE", file.to_str().unwrap());
    match word {
        // On a thread that outlives the unload.
        "c11-key" => {
            hook_signals();
            call_on_a_thread(&plugin, &input, &host, &name);
        }
        _ => {
            block_on(plugin.execute(Request::text(&input))).unwrap();
            hook_signals();
            block_on(host.unload(&name)).unwrap();
        }
    }
    let mut is_closed = end(&mut events);
    if word.ends_with("thread") {
        assert!(!is_closed && images(&name).len() == 1);
        fs::write(&file, "").unwrap();
        is_closed = end(&mut events);
    } else if word == "c11-key" {
        is_closed = end(&mut events);
    }
    assert_eq!(images(&name).len(), usize::from(!is_closed));
    if word == "timer" {
        let _ = fs::remove_file(&file);
        until("the timer keeps running", || file.exists().then_some(()));
    }
    afterwards();
    assert_eq!(images(&name).len(), usize::from(!is_closed));
}

/// Prints what happened to the library; returns whether it was closed.
fn end(events: &mut hotbay::Events) -> bool {
    let is_end =
        |event: &HostEvent| matches!(event, HostEvent::Kept { .. } | HostEvent::Closed { .. });
    match event(events, is_end) {
        HostEvent::Kept { reason, .. } => {
            eprintln!("END kept: {reason}");
            false
        }
        _ => {
            eprintln!("END closed");
            true
        }
    }
}

fn call_on_a_thread(plugin: &PluginHandle, input: &str, host: &Host, name: &str) {
    thread::scope(|scope| {
        let (called, was_called) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            plugin.call(Request::text(input)).unwrap();
            called.send(()).unwrap();
            let _ = wait.recv();
        });
        was_called.recv().unwrap();
        block_on(host.unload(name)).unwrap();
        until("the library is kept", || host.retained().pop());
        drop(go);
    });
}

/// Installs signal handlers of the host after those of the plugin; they call the previous ones.
fn hook_signals() {
    for signal in [signal_hook::consts::SIGUSR1, signal_hook::consts::SIGUSR2] {
        // SAFETY: does nothing.
        unsafe { signal_hook::low_level::register(signal, || ()) }.unwrap();
    }
}

fn afterwards() {
    for signal in [signal_hook::consts::SIGUSR1, signal_hook::consts::SIGUSR2] {
        for _ in 0..3 {
            signal_hook::low_level::raise(signal).unwrap();
        }
    }
    assert!(env::vars_os().count() > 0);
    #[allow(clippy::disallowed_methods, reason = "a child process inherits the environment")]
    let status = Command::new("true").status().unwrap();
    assert!(status.success());
    // SAFETY: no other thread reads the environment now.
    unsafe { env::set_var("HOTBAY_TESTS_LATER", "x") };
}

#[test]
fn harmless_plugin_is_closed() {
    for case in [
        "std FOLDER",
        "runtime",
        "quiet-timer",
        "ignored-signal",
        "looked-up",
        "removed-entry",
        "exit-hook-of-the-library",
        "quick-exit-hook",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let case = case.replace("FOLDER", folder.path().to_str().unwrap());
        assert_eq!(end_after(&case), ["closed"], "{case}");
    }
}

#[test]
fn thread_of_any_origin_keeps_library_until_exit() {
    for case in ["c11-thread FILE", "looked-up-thread FILE", "looked-up-c11-thread FILE"] {
        assert_eq!(end_after(case), ["kept: threads: 1 still running", "closed"], "{case}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn function_looked_up_with_version_is_detected() {
    let case = "looked-up-version-thread FILE";
    assert_eq!(end_after(case), ["kept: threads: 1 still running", "closed"]);
    let handler = "and a later signal handler may still call the one that it installed";
    is_kept("looked-up-version-action 12", &format!("it called `signal`, {handler}"));
}

#[test]
fn c11_key_keeps_library_until_thread_exits() {
    assert_eq!(end_after("c11-key"), ["kept: thread keys: 1 thread holds values", "closed"]);
}

#[test]
fn timer_or_request_keeps_library_forever() {
    is_kept("timer FILE", "it called `timer_create`, whose timer may still run plugin code");
    is_kept("message-queue", "it called `mq_notify`, whose notification may still run plugin code");
    let request = "whose request may still use plugin memory or run plugin code";
    is_kept("request", &format!("it called `aio_write`, {request}"));
    is_kept("lookup", &format!("it called `getaddrinfo_a`, {request}"));
}

#[test]
fn hook_keeps_library_forever() {
    let exit = "which runs plugin code when the process exits";
    is_kept("exit-hook", &format!("it called `on_exit`, {exit}"));
    for case in ["exit-hook-of-no-library", "exit-hook-of-another-library"] {
        is_kept(case, &format!("it called `__cxa_atexit`, {exit}"));
    }
    let fork = "it called `__register_atfork`, which runs plugin code when the process forks";
    is_kept("fork-hook-of-no-library", fork);
    is_kept("fork-hook-of-another-library", fork);
    let thread = "which runs plugin code when a thread exits";
    is_kept(
        "thread-hook-of-no-library",
        &format!("it called `__cxa_thread_atexit_impl`, {thread}"),
    );
    let stream = "it called `fopencookie`, whose stream runs plugin code when it is flushed";
    is_kept("stream", stream);
    let print = "which runs plugin code in later calls of `printf`";
    is_kept("printf", &format!("it called `register_printf_specifier`, {print}"));
}

#[test]
fn library_memory_in_process_keeps_library() {
    is_kept("environment", "it called `putenv`, which leaves plugin memory in the environment");
    is_kept("environment-list", "memory: `environ` points into the library");
    is_kept("buffer", "it called `setvbuf`, which leaves plugin memory in a stream");
    let log = "it called `openlog`, which leaves a plugin string in the syslog client";
    is_kept("log-name", log);
    let random = "it called `initstate`, which leaves plugin memory in the generator of `random`";
    is_kept("random", random);
    let table = "it called `hsearch`, which leaves plugin memory in the hash table of the process";
    is_kept("hash-table", table);
    let stack = "it called `sigaltstack`, which leaves a signal stack of the plugin on a thread";
    is_kept("signal-stack", stack);
}

#[test]
fn process_memory_is_read_without_process_vm_readv() {
    assert_eq!(end_after("no-memory-call looked-up"), ["closed"]);
    is_kept("no-memory-call environment-list", "memory: `environ` points into the library");
}

/// Makes `process_vm_readv` fail on this thread and threads started by it.
fn forbid_memory_call() {
    let statement = |code: u32, k: u32, jump: u8| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: 0,
        jf: jump,
        k,
    };
    let number = u32::try_from(libc::SYS_process_vm_readv).unwrap();
    let refused = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).unwrap();
    let mut filter = [
        // The number of the system call is the first field.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number, 1),
        statement(libc::BPF_RET | libc::BPF_K, refused, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: this process only gives up privileges.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the program outlives the call.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) }, 0);
}

#[test]
fn library_opened_by_plugin_keeps_it() {
    let opened = "and the opened library may have started threads or may run plugin code";
    is_kept("opened", &format!("it called `dlopen`, {opened}"));
    is_kept("looked-up-clone", "it looked up `clone`, whose thread is not counted");
}

#[test]
fn signal_handler_keeps_library_forever() {
    let handler = "and a later signal handler may still call the one that it installed";
    for (case, function) in [
        ("hook 10", "sigaction"),
        ("hook 12", "sigaction"),
        ("action 10", "sigaction"),
        ("action-for-a-moment 10", "signal"),
        ("looked-up-action 12", "signal"),
        ("bsd-action 10", "bsd_signal"),
        ("system-v-action 10", "sigset"),
    ] {
        is_kept(case, &format!("it called `{function}`, {handler}"));
    }
    // The first replaces a handler of std, the second is replaced by one of the host.
    let raw = "which may have set a signal handler or started a thread that is not counted";
    for case in ["raw-action 7", "raw-action 10", "invalid-system-call"] {
        is_kept(case, &format!("it called `syscall`, {raw}"));
    }
}

#[test]
fn two_plugins_with_one_signal_are_both_kept() {
    if env::var_os(CASE).is_none() {
        let test = concat!(module_path!(), "::two_plugins_with_one_signal_are_both_kept");
        run_in_subprocess(test, &[(CASE, "-")]);
        return;
    }
    let plugins = Plugins::new();
    let host = host(&plugins);
    let handled = Arc::new(AtomicUsize::new(0));
    for name in ["one", "other"] {
        let plugin = loaded(&host, plugins.add(name, "hazards").write());
        block_on(plugin.execute(Request::text("hook 15"))).unwrap();
        let handled = Arc::clone(&handled);
        // SAFETY: increments an atomic.
        let hook = move || {
            handled.fetch_add(1, Ordering::Relaxed);
        };
        // SAFETY: as above.
        unsafe { signal_hook::low_level::register(signal_hook::consts::SIGTERM, hook) }.unwrap();
    }
    for name in ["one", "other"] {
        block_on(host.unload(name)).unwrap();
    }
    until("both are kept", || (host.retained().len() == 2).then_some(()));
    signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
    assert_eq!(handled.load(Ordering::Relaxed), 2);
}

#[test]
fn example_plugin_is_unmapped_on_unload() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    for package in ["transform", "filter", "counter", "fragile"] {
        let name = unique("example");
        let folder = folder_of(&plugins, &name, package);
        loaded(&host, &folder);
        let mut events = host.events();
        block_on(host.unload(&name)).unwrap();
        let is_end =
            |event: &HostEvent| matches!(event, HostEvent::Kept { .. } | HostEvent::Closed { .. });
        let ended = event(&mut events, is_end);
        assert!(matches!(ended, HostEvent::Closed { .. }), "{ended:?}");
        assert_eq!(images(&name), Vec::<String>::new());
    }
}

fn folder_of(plugins: &Plugins, name: &str, package: &str) -> impl AsRef<Path> {
    let config = match package {
        "filter" => serde_json::json!({ "rule": "positive" }),
        _ => serde_json::json!({}),
    };
    plugins.add(name, package).config(config).write()
}
