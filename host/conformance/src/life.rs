//! Steps from the capabilities to a process that can be called, and steps that stop it: by a signal,
//! by a request, by its idle timeout. Each time it must exit with code 0 and remove its files and
//! descendants.

use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use hotbay_process::unsupervised::{Location, Started, listening};
use hotbay_process::{Capabilities, Diagnosis, Error, Step};
use hotbay_protocol::{DRAIN_TIMEOUT as EXIT_TIMEOUT, endpoint, lock_of};
use tokio::time::timeout;

use crate::kit::{RESPONSE_TIMEOUT, RawRequest, TestKit};
use crate::report::{Outcome, StepFailure, failed, skipped};

/// Queries the capabilities twice.
pub(crate) async fn ask_capabilities(kit: &mut TestKit) {
    let queried_at = Instant::now();
    let first = kit.program.capabilities().await;
    let took = queried_at.elapsed().as_millis();
    let outcome = match first {
        Err(error) => failed(error.into_diagnosis()),
        Ok(first) => {
            let second = kit.program.capabilities().await;
            let outcome = check_equal(&first, second).map(|()| describe(&first, took));
            kit.capabilities = Some(first);
            outcome
        }
    };
    kit.record("capabilities", outcome);
}

/// Starts the program for the first time, and records each step of the start.
pub(crate) async fn first_start(kit: &mut TestKit) {
    let began_at = Instant::now();
    let not_started = kit.start(None).await.err();
    let took = began_at.elapsed().as_millis();
    let Some(error) = not_started else {
        let launched = kit.config_channel();
        kit.report.passed("launch", format!("the config was passed via {launched}"));
        let outcome = kit
            .live()
            .map_err(|failure| failure.clone())
            .and_then(|started| location(started, kit.is_ours()));
        kit.record("location", outcome);
        kit.report.passed("ready", format!("`/healthz` returned 200, {took} ms after the launch"));
        return;
    };
    let step = error.step();
    let reason = error.into_diagnosis();
    let row = [
        ("launch", Step::Stage, ""),
        ("launch", Step::Config, ""),
        ("launch", Step::Launch, "it was started"),
        ("location", Step::Location, "it printed its location"),
        ("ready", Step::Ready, ""),
    ];
    for (name, of, done) in row {
        if Some(of) == step {
            kit.report.failed(name, reason.clone());
            break;
        }
        if !done.is_empty() {
            kit.report.passed(name, done);
        }
    }
    kit.not_running = reason.message;
}

fn check_equal(
    first: &Capabilities,
    second: Result<Capabilities, Error>,
) -> Result<(), StepFailure> {
    match second {
        Ok(second) if second == *first => Ok(()),
        Ok(_) => failed(
            "two capabilities queries returned different results; expected equal ones, since a \
             host queries again before every load",
        ),
        Err(error) => {
            let failed_again = |reason| format!("the second query failed: {reason}");
            failed(error.into_diagnosis().map_message(failed_again))
        }
    }
}

fn describe(capabilities: &Capabilities, took_ms: u128) -> String {
    let endpoints: Vec<_> = capabilities.endpoints.iter().map(String::as_str).collect();
    match endpoints.as_slice() {
        [] => format!("an older dialect, in {took_ms} ms"),
        endpoints => format!("{}, in {took_ms} ms", endpoints.join(", ")),
    }
}

/// Checks that only this host can reach the location where the program listens.
fn location(started: &Started, is_ours: bool) -> Outcome {
    let location = started.client().location();
    if let Some(line) = started.noise()
        && is_ours
    {
        let line: String = line.chars().take(80).collect();
        return failed(Diagnosis::new(
            format!("the first line on stdout is `{line}`; expected the location there"),
            "write logs to stderr",
        ));
    }
    match location {
        Location::Unix(path) if is_ours => {
            let folder = started.folder();
            if is_inside(path, folder) {
                return Ok(location.to_string());
            }
            failed(format!(
                "its socket is `{}`; expected it in the folder named by HOTBAY_SOCKET_DIR, which \
                 only this user can enter (`{}` in this run)",
                path.display(),
                folder.display()
            ))
        }
        Location::Unix(_) => Ok(location.to_string()),
        Location::Tcp(address) => {
            let found = listening(started.pid(), address.port());
            match found.iter().find(|found| !found.is_loopback()) {
                Some(open) => failed(Diagnosis::new(
                    format!(
                        "port {} is bound to {open}, where other machines can reach it",
                        address.port()
                    ),
                    "bind it to 127.0.0.1, or use a Unix socket",
                )),
                None => Ok(location.to_string()),
            }
        }
    }
}

fn is_inside(path: &Path, folder: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(folder).is_some_and(|folder| path.parent().and_then(real) == Some(folder))
}

/// The `idleTimeout` of the launch that gets no calls.
const IDLE_TIMEOUT: Duration = Duration::from_millis(200);
/// Time to wait for the idle exit, even on a busy machine.
const IDLE_EXIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time in which its descendants must exit after it.
const LEFTOVERS_TIMEOUT: Duration = Duration::from_millis(500);
const LEFTOVERS_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Stops it with SIGTERM.
pub(crate) async fn by_signal(kit: &mut TestKit) -> Outcome {
    kit.live()?;
    let Some(started) = kit.running.take() else { return skipped("it is not running") };
    started.terminate();
    check_exit(kit, started, "SIGTERM", EXIT_TIMEOUT).await
}

/// Stops it with `/shutdown`.
pub(crate) async fn by_request(kit: &mut TestKit) -> Outcome {
    if !kit.is_ours() {
        return skipped("older dialect: the host stops it with SIGTERM");
    }
    kit.live()?;
    let Some(started) = kit.running.take() else { return skipped("it is not running") };
    let mut raw_request = RawRequest::get(endpoint::SHUTDOWN);
    raw_request.method = hyper::Method::POST;
    let http_request = raw_request.into_http();
    let sending = started.client().request(&http_request);
    let response = timeout(RESPONSE_TIMEOUT, sending).await;
    let was_ok = match &response {
        Ok(Ok(response)) => response.status == hyper::StatusCode::OK,
        _ => false,
    };
    let outcome = check_exit(kit, started, "`/shutdown`", EXIT_TIMEOUT).await;
    match response {
        _ if was_ok => outcome,
        Ok(Ok(response)) => failed(format!(
            "`POST /shutdown` returned {}; expected 200, then the exit",
            response.status.as_u16()
        )),
        Ok(Err(error)) => failed(format!(
            "`POST /shutdown` was not answered: {}; expected 200, then the exit",
            error.message
        )),
        Err(_) => failed("`POST /shutdown` was not answered; expected 200, then the exit"),
    }
}

/// Lets it exit by its idle timeout.
pub(crate) async fn when_idle(kit: &mut TestKit) -> Outcome {
    if !kit.is_ours() {
        return skipped("older dialect: the host stops it when idle");
    }
    kit.start_again(Some(IDLE_TIMEOUT)).await;
    let nanoseconds = IDLE_TIMEOUT.as_nanos();
    let Some(started) = kit.running.take() else {
        // With such a short timeout it may exit before it was polled for readiness.
        return skipped(format!("it was not started: {}", kit.not_running));
    };
    let channel = kit.config_channel();
    let why = format!("an `idleTimeout` of {nanoseconds} ns, passed via {channel}");
    check_exit(kit, started, &why, IDLE_EXIT_TIMEOUT).await
}

/// Waits for the exit, and checks it.
async fn check_exit(
    kit: &TestKit,
    mut started: Started,
    cause: &str,
    exit_timeout: Duration,
) -> Outcome {
    let signaled_at = Instant::now();
    let status = timeout(exit_timeout, started.wait()).await.ok();
    let took = signaled_at.elapsed().as_millis();
    let files = files_left(started.client().location());
    if status.is_some() {
        let left = count_descendants(&started).await;
        kit.left().extend(left.map(|count| format!("{count} after {cause}")));
    }
    started.finish_output().await;
    let how = status.map(|status| started.explain_exit(status, &kit.program.copy.path()));
    let _ = started.stop(Duration::ZERO).await;
    let Some(status) = status else {
        let waited = exit_timeout.as_secs();
        return failed(format!(
            "it did not exit within {waited} s after {cause}; expected it to finish running calls, \
             remove its socket and lock, and exit with code 0"
        ));
    };
    if !kit.is_ours() {
        return Ok(format!("it exited {took} ms after {cause}"));
    }
    if let Some(how) = how.filter(|_| !is_success(status)) {
        return failed(how.map_message(|how| {
            format!(
                "after {cause} it was expected to finish running calls, remove its socket and lock, \
                 and exit with code 0: {how}"
            )
        }));
    }
    match files.as_slice() {
        [] => Ok(format!("it exited with code 0, {took} ms after {cause}")),
        files => failed(format!(
            "after {cause} it left {}; expected it to remove its socket and lock",
            files.join(" and ")
        )),
    }
}

fn is_success(status: ExitStatus) -> bool {
    status.code() == Some(0)
}

/// Returns the socket and its lock, as far as they still exist.
fn files_left(location: &Location) -> Vec<String> {
    let Location::Unix(socket) = location else { return Vec::new() };
    let all = [socket.clone(), lock_of(socket)];
    let left = all.iter().filter(|file| file.symlink_metadata().is_ok());
    left.map(|file| format!("`{}`", file.display())).collect()
}

/// Returns the number of its descendants that still run.
#[cfg(target_os = "linux")]
async fn count_descendants(started: &Started) -> Option<usize> {
    let until = Instant::now() + LEFTOVERS_TIMEOUT;
    loop {
        let count = tokio::task::spawn_blocking(started.count_descendants()).await;
        match count {
            Ok(0) | Err(_) => return None,
            Ok(count) if Instant::now() >= until => return Some(count),
            Ok(_) => tokio::time::sleep(LEFTOVERS_POLL_INTERVAL).await,
        }
    }
}

#[cfg(not(target_os = "linux"))]
async fn count_descendants(_: &Started) -> Option<usize> {
    None
}

/// Checks whether any of the exits left processes behind.
pub(crate) fn leftovers(kit: &TestKit) -> Outcome {
    if cfg!(not(target_os = "linux")) {
        return skipped("this system cannot attribute processes to a launch");
    }
    let left = kit.left();
    if left.is_empty() {
        return Ok("none of its descendants outlived it".to_owned());
    }
    failed(format!(
        "its descendants outlived it: {}; expected it to stop them and wait for them before it \
         exits (the host kills them)",
        left.join(", ")
    ))
}
