//! Async plugins: calls with bytes that run as tasks of the plugin, as a library, a type of the
//! program, and a program.

use std::time::Duration;

use futures_util::future::{join, join_all};
use hotbay::hotbay_plugin::Async;
use hotbay::{
    Call, CancellationToken, Error, ErrorKind, Host, HostEvent, Layer, Manifest, Next,
    PluginHandle, Reply, Request,
};
use hotbay_tests::{
    Plugins, block_on, host, limits, loaded, quarantine, reloaded, under_load, until,
};
use serde_json::json;
use text_contract::AsyncWork;
use text_plugins::AsyncEcho;

use super::tasks::check_all;

fn echo(plugins: &Plugins) -> (Host, PluginHandle) {
    let host = host(plugins);
    let plugin = loaded(&host, plugins.add("echo", "async-echo").write());
    (host, plugin)
}

/// Makes the same call by all call methods, which must agree.
fn call(plugin: &PluginHandle, text: &str) -> Result<String, Error> {
    let direct = plugin.call(Request::text(text));
    let pinned = plugin.pin().unwrap().call(Request::text(text));
    let pooled = block_on(plugin.execute(Request::text(text)));
    let texts = [direct, pinned, pooled].map(|reply| {
        reply.map(|reply| reply.as_text().unwrap().to_owned()).map_err(|error| {
            assert!(error.generation().is_some(), "{error:?}");
            error
        })
    });
    let [direct, pinned, pooled] = texts;
    let kind = |result: &Result<String, Error>| result.as_ref().map_err(Error::kind).cloned();
    assert_eq!((kind(&direct), kind(&pinned)), (kind(&pinned), kind(&pooled)));
    pooled
}

fn number(plugin: &PluginHandle, what: &str) -> u64 {
    plugin.call(Request::text(what)).unwrap().json().unwrap()
}

pub(super) fn check_calls(plugin: &PluginHandle) {
    assert_eq!(call(plugin, "a").unwrap(), "a");
    let long = "a text of more than 24 bytes, which is not inline";
    assert_eq!(call(plugin, long).unwrap(), long);
    let error = call(plugin, "error").unwrap_err();
    assert_eq!(error.plugin_error().map(|own| (own.code(), own.message())), Some((7, "no")));
    let error = plugin.call(Request::bytes(&[0xff][..])).unwrap_err();
    assert_eq!(error.plugin_error().map(|own| own.code()), Some(400));
    let reply = plugin.call(Request::text("x").with_content_type("text/x-own")).unwrap();
    assert_eq!(reply.content_type(), "text/x-own");
    let request = Request::json(&[1]).unwrap();
    assert_eq!(block_on(plugin.execute(request)).unwrap().content_type(), "application/json");
    let error = call(plugin, "panic").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert_eq!(error.fault().unwrap().message(), "echo failed");
    assert_eq!(call(plugin, "a").unwrap(), "a");
}

#[test]
fn library_answers_all_call_methods() {
    let plugins = Plugins::new();
    let (host, plugin) = echo(&plugins);
    check_calls(&plugin);
    let [info] = &*host.list() else { panic!("one plugin") };
    assert_eq!((info.stats.calls, info.stats.errors, info.stats.faults), (18, 4, 3));
}

#[test]
fn type_of_the_program_answers_all_call_methods() {
    let manifest = |name| Manifest::new(name, "1.0.0").unwrap();
    let host = Host::builder().register::<Async<AsyncEcho>>(manifest("echo")).build().unwrap();
    check_calls(&host.plugin("echo").unwrap());
    check_calls(&block_on(host.register::<Async<AsyncEcho>>(manifest("later"))).unwrap());
    block_on(host.unload("later")).unwrap();
}

#[test]
fn library_serves_contracts_as_well() {
    let plugins = Plugins::new();
    let (host, _) = echo(&plugins);
    block_on(check_all(&host.contract::<dyn AsyncWork>("echo").unwrap()));
}

#[cfg(unix)]
#[test]
fn program_answers_all_call_methods() {
    let plugins = Plugins::new();
    let host = Host::builder().plugin_dir(plugins.dir()).quarantine(None).build().unwrap();
    let program = hotbay_tests::ProgramFolder::new(plugins.dir(), "echo");
    let program = program.set("package", "async-echo").built("async-echo", "async-echo");
    let plugin = loaded(&host, program.install());
    check_calls(&plugin);
    let request = || Request::text("forever").with_timeout(Duration::from_millis(30));
    for error in [plugin.call(request()), block_on(plugin.execute(request()))] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    }
    let is_dropped = || number(&plugin, "dropped") == number(&plugin, "started");
    until("both futures are dropped", || is_dropped().then_some(()));
}

#[test]
fn thousand_calls_wait_with_one_worker() {
    const CALLS: usize = 1000;
    let plugins = Plugins::new();
    let limits = limits(|limits| limits.max_workers = 1);
    let host = Host::builder().plugin_dir(plugins.dir()).limits(limits).build().unwrap();
    let config = json!({ "meet": CALLS });
    let plugin = loaded(&host, plugins.add("echo", "async-echo").config(config).write());
    // No call returns before all have started.
    let calls = (0..CALLS).map(|_| plugin.execute(Request::text("meet")));
    for reply in block_on(join_all(calls)) {
        assert_eq!(reply.unwrap().as_text().unwrap(), "meet");
    }
    let [info] = &*host.list() else { panic!("one plugin") };
    assert_eq!((info.stats.calls, info.stats.errors), (CALLS as u64, 0));
}

#[test]
fn call_starts_at_once_and_not_when_it_is_polled() {
    let plugins = Plugins::new();
    let (_host, plugin) = echo(&plugins);
    let call = plugin.execute(Request::text("forever"));
    until("it has started", || (number(&plugin, "started") == 1).then_some(()));
    drop(call);
}

#[test]
fn call_returns_at_its_deadline_and_the_future_is_dropped() {
    let plugins = Plugins::new();
    let host = Host::builder().quarantine(None).build().unwrap();
    let plugin = loaded(&host, plugins.add("echo", "async-echo").write());
    let soon = Duration::from_millis(200);
    for what in ["forever", "block"] {
        for reply in [
            plugin.call(Request::text(what).with_timeout(soon)),
            plugin.pin().unwrap().call(Request::text(what).with_timeout(soon)),
            block_on(plugin.execute(Request::text(what).with_timeout(soon))),
        ] {
            let error = reply.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{}", error.full_message());
        }
    }
    // A call that was dropped before it started is not counted.
    let is_dropped = || number(&plugin, "dropped") == number(&plugin, "started");
    until("all futures are dropped", || is_dropped().then_some(()));
}

#[test]
fn timeout_of_every_call_method_counts_toward_the_quarantine() {
    const SOON: Duration = Duration::from_millis(200);
    let forever = || Request::text("forever").with_timeout(SOON);
    type Timeout = fn(&Host, Request<'static>) -> Error;
    let direct: Timeout = |host, request| host.plugin("echo").unwrap().call(request).unwrap_err();
    let pinned: Timeout =
        |host, request| host.plugin("echo").unwrap().pin().unwrap().call(request).unwrap_err();
    let pooled: Timeout =
        |host, request| block_on(host.plugin("echo").unwrap().execute(request)).unwrap_err();
    let method: Timeout = |host, _| {
        let work = host.contract::<dyn AsyncWork>("echo").unwrap();
        Error::from(block_on(work.with_timeout(SOON).forever()).unwrap_err())
    };
    let pooled_method: Timeout = |host, _| {
        let work = host.contract::<dyn AsyncWork>("echo").unwrap();
        Error::from(block_on(work.pooled().with_timeout(SOON).forever()).unwrap_err())
    };
    let once = quarantine(|policy| {
        policy.max_faults = 1;
        policy.initial_backoff = Duration::from_secs(3600);
    });
    let plugins = Plugins::new();
    let folder = plugins.add("echo", "async-echo").write();
    for (call, name) in [
        (direct, "direct"),
        (pinned, "pinned"),
        (pooled, "pooled"),
        (method, "method"),
        (pooled_method, "pooled method"),
    ] {
        let host = Host::builder().quarantine(once.clone()).build().unwrap();
        let plugin = loaded(&host, &folder);
        until("a call reaches the plugin before its deadline", || {
            let error = call(&host, forever());
            assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{name}: {error:?}");
            (host.list()[0].stats.abandoned == 1).then_some(())
        });
        let rejected = plugin.call(Request::text("calls")).map(|_| ()).unwrap_err();
        assert_eq!(rejected.kind(), ErrorKind::Quarantined, "{name}: {rejected:?}");
    }
}

#[test]
fn cancelled_or_dropped_call_drops_its_future() {
    let plugins = Plugins::new();
    let (_host, plugin) = echo(&plugins);
    let token = CancellationToken::new();
    let request = || Request::text("forever").with_cancellation_token(token.clone());
    let direct = std::thread::scope(|scope| {
        let direct = scope.spawn(|| plugin.call(request()));
        let pooled = plugin.execute(request());
        until("both have started", || (number(&plugin, "started") == 2).then_some(()));
        token.cancel();
        assert_eq!(block_on(pooled).unwrap_err().kind(), ErrorKind::Cancelled);
        direct.join().expect("no panic")
    });
    assert_eq!(direct.unwrap_err().kind(), ErrorKind::Cancelled);
    let forever = plugin.execute(Request::text("forever"));
    until("it has started", || (number(&plugin, "started") == 3).then_some(()));
    drop(forever);
    until("all futures are dropped", || (number(&plugin, "dropped") == 3).then_some(()));
}

#[test]
fn plugin_sees_the_context_of_its_call() {
    let plugins = Plugins::new();
    let (_host, plugin) = echo(&plugins);
    let context = |request: Request<'static>| {
        let context = block_on(plugin.execute(request)).unwrap();
        context.json::<(bool, bool, Option<[u8; 8]>)>().unwrap()
    };
    assert_eq!(context(Request::text("context")), (false, false, None));
    let trace = hotbay::TraceContext { trace_id: [1; 16], span_id: [2; 8], flags: 1 };
    let request = Request::text("context").with_trace(trace);
    let request = request.with_timeout(Duration::from_secs(86_400));
    assert_eq!(context(request), (true, false, Some([2; 8])));
}

struct PassThrough;

impl Layer for PassThrough {
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
        next.call(call)
    }
}

#[test]
fn calls_pass_layers_on_workers() {
    let plugins = Plugins::new();
    let host = Host::builder().plugin_dir(plugins.dir()).layer(PassThrough).build().unwrap();
    let plugin = loaded(&host, plugins.add("echo", "async-echo").write());
    check_calls(&plugin);
    let request = Request::text("forever").with_timeout(Duration::from_millis(20));
    let error = block_on(plugin.execute(request)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    let is_dropped = || number(&plugin, "dropped") == number(&plugin, "started");
    until("the future is dropped", || is_dropped().then_some(()));
}

#[test]
fn reloads_under_load_lose_no_call_and_keep_no_library() {
    const RELOADS: usize = 100;
    let plugins = Plugins::new();
    let (host, plugin) = echo(&plugins);
    let mut events = host.events();
    let check = |reply: Result<Reply, Error>| {
        let reply = reply.unwrap_or_else(|error| panic!("{}", error.full_message()));
        assert_eq!(reply.as_text().unwrap(), "a text of more than 24 bytes");
    };
    under_load(&plugin, 4, check, |traffic| {
        for round in 0..RELOADS {
            plugins.add("echo", "async-echo").set("description", format!("{round}")).write();
            reloaded(&host, "echo");
        }
        traffic.wait_for_progress();
    });
    let mut closed = 0;
    while closed < RELOADS {
        match block_on(events.next()).expect("the host lives") {
            HostEvent::Closed { .. } => closed += 1,
            HostEvent::Kept { reason, .. } => panic!("a library was kept: {reason}"),
            _ => {}
        }
    }
    assert_eq!(host.retained().len(), 0);
}

#[test]
fn state_is_handed_over() {
    let plugins = Plugins::new();
    let (host, plugin) = echo(&plugins);
    assert_eq!((number(&plugin, "calls"), number(&plugin, "calls")), (1, 2));
    plugins.add("echo", "async-echo").set("description", "new").write();
    reloaded(&host, "echo");
    assert_eq!(number(&plugin, "calls"), 3);
}

#[test]
fn unload_drops_the_futures_that_outlast_the_drain() {
    let plugins = Plugins::new();
    let limits = limits(|limits| limits.drain_timeout = Duration::from_millis(20));
    let host = Host::builder().plugin_dir(plugins.dir()).limits(limits).build().unwrap();
    let plugin = loaded(&host, plugins.add("echo", "async-echo").write());
    let (direct, pooled, report) = std::thread::scope(|scope| {
        let direct = scope.spawn(|| plugin.call(Request::text("forever")));
        let pooled = plugin.execute(Request::text("forever"));
        until("both have started", || (number(&plugin, "started") == 2).then_some(()));
        let (pooled, report) = block_on(join(pooled, host.unload("echo")));
        (direct.join().expect("no panic"), pooled, report)
    });
    for reply in [direct, pooled] {
        assert_eq!(reply.unwrap_err().kind(), ErrorKind::Retired);
    }
    let report = report.unwrap();
    assert!(report.shutdown_error.is_none() && report.retain_reason.is_none(), "{report:?}");
    assert_eq!(host.retained().len(), 0);
    assert_eq!(call_after_unload(&plugin), [ErrorKind::Retired; 2]);
}

fn call_after_unload(plugin: &PluginHandle) -> [ErrorKind; 2] {
    let direct = plugin.call(Request::text("a")).unwrap_err();
    let pooled = block_on(plugin.execute(Request::text("a"))).unwrap_err();
    [direct.kind(), pooled.kind()]
}
