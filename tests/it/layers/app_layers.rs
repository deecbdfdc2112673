//! Application layers: what they receive, what they may change, and who is blamed for their panics.

use std::panic::panic_any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use hotbay::{Call, Error, ErrorKind, Host, Layer, Manifest, Method, Next, Output, Reply, Request};
use hotbay_tests::{LIMIT, Plugins, block_on, host as plain_host, loaded, quarantine, until};
use serde_json::json;

use crate::scripted_plugin::{LATE, NEVER, ScriptedPlugin};

/// A layer made of a function.
struct By<F>(F);

impl<F> Layer for By<F>
where
    F: Fn(Call<'_>, Next<'_>) -> Result<Reply, Error> + Send + Sync + 'static,
{
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
        (self.0)(call, next)
    }
}

/// Wraps a function as a layer, with the lifetimes that layers need.
fn by<F>(function: F) -> By<F>
where
    F: Fn(Call<'_>, Next<'_>) -> Result<Reply, Error> + Send + Sync + 'static,
{
    By(function)
}

type Notes = Arc<Mutex<Vec<String>>>;

fn note(notes: &Notes, text: impl Into<String>) {
    notes.lock().unwrap().push(text.into());
}

fn echo(builder: hotbay::HostBuilder) -> Host {
    let policy = quarantine(|policy| policy.max_faults = 1);
    let builder = builder.quarantine(policy);
    builder.register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes()))).build().unwrap()
}

/// Makes the same call by every call method.
fn all_call_methods(host: &Host, request: Request<'_>) -> Vec<Result<Reply, Error>> {
    let handle = host.plugin("echo").unwrap();
    let pinned = handle.pin().unwrap();
    let pipeline = host.pipeline(["echo"]).unwrap();
    vec![
        handle.call(request.clone()),
        pinned.call(request.clone()),
        block_on(handle.execute(request.clone())),
        block_on(pipeline.run(request)),
    ]
}

#[test]
fn first_added_layer_is_outermost_for_every_call_method() {
    let notes = Notes::default();
    let layer = |name: &'static str| {
        let notes = notes.clone();
        by(move |call, next| {
            note(&notes, format!("{name} in"));
            let reply = next.call(call);
            note(&notes, format!("{name} out"));
            reply
        })
    };
    let host =
        echo(Host::builder().layer(layer("first")).layer(layer("second")).layer(layer("third")));
    for outcome in all_call_methods(&host, Request::text("x")) {
        assert_eq!(outcome.unwrap().as_bytes(), b"x");
    }
    let expected = ["first in", "second in", "third in", "third out", "second out", "first out"];
    assert_eq!(*notes.lock().unwrap(), expected.repeat(4));
}

#[test]
fn layer_sees_plugin_request_and_call_method() {
    let notes = Notes::default();
    let sees = notes.clone();
    let host = echo(Host::builder().layer(by(move |call, next| {
        let left = call.remaining().is_some_and(|left| left <= NEVER && left > NEVER / 2);
        let text = String::from_utf8_lossy(call.request().as_bytes()).into_owned();
        let seen = (call.plugin().as_str(), call.method(), call.operation(), left, text);
        note(&sees, format!("{seen:?}"));
        next.call(call)
    })));
    let handle = host.plugin("echo").unwrap();
    handle.call(Request::text("a")).unwrap();
    handle.pin().unwrap().call(Request::text("b").with_timeout(NEVER)).unwrap();
    block_on(handle.execute(Request::text("c").with_timeout(NEVER))).unwrap();
    let seen = notes.lock().unwrap().clone();
    let expected =
        [(Method::Call, false, "a"), (Method::Pinned, true, "b"), (Method::Execute, true, "c")];
    let expected = expected
        .map(|(method, left, text)| format!("{:?}", ("echo", method, None::<&str>, left, text)));
    assert_eq!(seen, expected);
}

#[test]
fn layer_refuses_call_by_operation() {
    let host = echo(Host::builder().layer(by(|call, next| match call.operation() {
        Some("write") => Err(Error::denied("writing is not allowed")),
        _ => next.call(call),
    })));
    for outcome in all_call_methods(&host, Request::text("x").with_operation("write")) {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let message = error.full_message();
        let expected = "plugin `echo` did not complete the call: the application rejected the call: \
                        writing is not allowed";
        assert!(message.starts_with(expected), "{message}");
    }
    for outcome in all_call_methods(&host, Request::text("x")) {
        outcome.unwrap();
    }
    let info = &host.list()[0];
    assert_eq!(
        (info.stats.calls, info.stats.refused, info.stats.errors, info.stats.faults),
        (8, 4, 0, 0)
    );
    assert_eq!(info.state, hotbay::PluginState::Serving);
}

#[test]
fn pipeline_error_names_step_refused_by_layer() {
    let host = echo(
        Host::builder()
            .register_fn("other", |_, input| Ok(Output::copy_of(input.as_bytes())))
            .layer(by(|call, next| match call.plugin().as_str() {
                "echo" => Err(Error::denied("not this one")),
                _ => next.call(call),
            })),
    );
    let pipeline = host.pipeline(["other", "echo", "other"]).unwrap();
    let error = block_on(pipeline.run(Request::text("x"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(error.skipped().len(), 1);
    assert_eq!(error.plugin().map(hotbay::PluginName::as_str), Some("echo"), "{error:?}");
}

#[test]
fn layer_rewrites_input_and_output_but_not_policy() {
    let host = echo(
        Host::builder()
            .layer(by(|call, next| {
                let text = String::from_utf8_lossy(call.request().as_bytes()).to_uppercase();
                let request = Request::text(&text).with_options_of(call.request());
                let reply = next.call(call.with_request(&request))?;
                Ok(Reply::new(Output::text(format!("<{}>", reply.as_text()?))))
            }))
            .layer(by(|call, next| {
                let bounded = call.remaining().is_some() && call.request().deadline().is_some();
                assert!(bounded, "the deadline was lost");
                next.call(call)
            })),
    );
    for outcome in all_call_methods(&host, Request::text("hello").with_timeout(NEVER)) {
        assert_eq!(outcome.unwrap().as_bytes(), b"<HELLO>");
    }
}

#[test]
fn layer_may_answer_itself_or_call_plugin_twice() {
    let host = echo(Host::builder().layer(by(|call, next| match call.request().as_bytes() {
        b"cached" => Ok(Reply::new(Output::text("from the cache"))),
        b"twice" => {
            drop(next.call(call)?);
            next.call(call)
        }
        _ => next.call(call),
    })));
    for outcome in all_call_methods(&host, Request::text("cached")) {
        assert_eq!(outcome.unwrap().as_bytes(), b"from the cache");
    }
    for outcome in all_call_methods(&host, Request::text("twice")) {
        assert_eq!(outcome.unwrap().as_bytes(), b"twice");
    }
    assert_eq!(host.list()[0].stats.calls, 8, "a layered call counts once");
}

#[test]
fn layer_wraps_only_plugins_it_applies_to() {
    struct OnlyEcho(Notes);
    impl Layer for OnlyEcho {
        fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
            note(&self.0, call.plugin().as_str());
            next.call(call)
        }
        fn applies_to(&self, manifest: &Manifest) -> bool {
            manifest.name().as_str() == "watched"
        }
    }
    let (notes, plugins) = (Notes::default(), Plugins::new());
    let host = echo(Host::builder().layer(OnlyEcho(notes.clone())));
    let watched = loaded(&host, plugins.add("watched", "faulty").write());
    for outcome in all_call_methods(&host, Request::text("x")) {
        outcome.unwrap();
    }
    assert!(notes.lock().unwrap().is_empty());
    watched.call(Request::text("x")).unwrap();
    plugins.add("watched", "faulty").config(json!({ "answers": "new" })).write();
    hotbay_tests::reloaded(&host, "watched");
    watched.call(Request::text("x")).unwrap();
    assert_eq!(*notes.lock().unwrap(), ["watched", "watched"]);
}

/// A panic payload that panics again when dropped.
struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        panic_any(PanicOnDrop);
    }
}

#[test]
fn panicking_layer_fails_call_without_plugin_fault() {
    let host = echo(Host::builder().layer(by(|call, next| match call.request().as_bytes() {
        b"panic" => panic!("a mistake of the application"),
        b"after" => {
            let _reply = next.call(call)?;
            panic!("{} of the application", "another mistake")
        }
        b"bomb" => panic_any(PanicOnDrop),
        _ => next.call(call),
    })));
    let mut events = host.events();
    for (input, message) in [
        ("panic", "a mistake of the application"),
        ("after", "another mistake of the application"),
        ("bomb", ""),
    ] {
        for outcome in all_call_methods(&host, Request::text(input)) {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::LayerPanicked, "{input}");
            assert!(error.full_message().contains(message), "{error:?}");
            assert_eq!(error.plugin().map(hotbay::PluginName::as_str), Some("echo"));
        }
    }
    for outcome in all_call_methods(&host, Request::text("x")) {
        assert_eq!(outcome.unwrap().as_bytes(), b"x");
    }
    let info = &host.list()[0];
    assert_eq!((info.stats.faults, info.stats.errors, info.state.as_str()), (0, 0, "serving"));
    assert_eq!((info.stats.calls, info.stats.refused), (16, 12));
    assert!(events.try_next().is_none(), "the plugin emitted no event");
}

#[test]
fn plugin_panic_inside_layers_is_plugin_fault() {
    let plugins = Plugins::new();
    let host = Host::builder().layer(by(|call, next| next.call(call))).build().unwrap();
    let config = json!({ "panic_in": "execute" });
    let panics = loaded(&host, plugins.add("panics", "faulty").config(config).write());
    let error = panics.call(Request::text("x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert_eq!(host.list()[0].stats.faults, 1);
}

#[test]
fn panic_in_applies_to_fails_load_only() {
    struct Broken;
    impl Layer for Broken {
        fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
            next.call(call)
        }
        fn applies_to(&self, manifest: &Manifest) -> bool {
            assert!(manifest.name().as_str() != "unlucky", "a mistake of the application");
            true
        }
    }
    let plugins = Plugins::new();
    let host = Host::builder().plugin_dir(plugins.dir()).layer(Broken).build().unwrap();
    plugins.add("fine", "faulty").write();
    plugins.add("unlucky", "faulty").write();
    let report = block_on(host.load_all());
    let names: Vec<_> = report.loaded.iter().map(|one| one.name.as_str()).collect();
    assert_eq!((names, report.refused.len()), (vec!["fine"], 1));
    assert_eq!(report.refused[0].error.kind(), ErrorKind::LayerPanicked);
    assert!(host.plugin("fine").unwrap().call(Request::text("x")).is_ok());
    drop(plain_host(&plugins));
}

/// Holds a reply of the plugin until the test releases it, and records whether it arrived after the deadline.
#[derive(Clone, Default)]
struct Keeps(Arc<(Mutex<bool>, Condvar, AtomicBool)>);

impl Layer for Keeps {
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
        let deadline = call.request().deadline();
        let answer = next.call(call);
        let Some(deadline) = deadline else { return answer };
        let (is_open, changed, timed_out) = &*self.0;
        timed_out.store(std::time::Instant::now() >= deadline, Ordering::SeqCst);
        let closed = is_open.lock().unwrap();
        drop(changed.wait_timeout_while(closed, LIMIT, |is_open| !*is_open).unwrap());
        answer
    }
}

#[test]
fn layer_slow_after_reply_is_not_plugin_fault() {
    let (scripted, keeps) = (ScriptedPlugin::new(), Keeps::default());
    let policy = quarantine(|policy| {
        policy.max_faults = 1;
        (policy.initial_backoff, policy.max_backoff) = (NEVER, NEVER);
    });
    let fixture = scripted.host(|builder| builder.quarantine(policy).layer(keeps.clone()));
    let mut events = fixture.host.events();
    block_on(fixture.execute("warm")).unwrap();
    let outcome = block_on(fixture.handle.execute(Request::text("quick").with_timeout(LATE)));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    scripted.wait_finished("quick");
    let (is_open, changed, timed_out) = &*keeps.0;
    assert_eq!((fixture.info().state.as_str(), fixture.info().stats.faults), ("serving", 0));
    block_on(fixture.execute("while held")).unwrap();
    *is_open.lock().unwrap() = true;
    changed.notify_all();
    until("the layer is done", || (fixture.info().stats.running == 0).then_some(()));
    assert!(!timed_out.load(Ordering::SeqCst), "the plugin itself timed out; is the machine busy?");
    assert_eq!((fixture.info().state.as_str(), fixture.info().stats.faults), ("serving", 0));
    assert!(events.try_next().is_none());
}
