//! Methods that return streams.

use std::collections::BTreeSet;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::TryStreamExt;
use hotbay::contract::{CallError, CallErrorKind, Handle, Serves, Stream};
use hotbay::{
    Call, CancellationToken, Error, ErrorKind, Host, HostEvent, Layer, Next, Output, PluginError,
    Reply,
};
use hotbay_tests::{Plugins, block_on, event, host, limits, loaded, reloaded, until};
use text_contract::{Failure, Record, Tables};
use text_plugins::TableReader;

fn reader(plugins: &Plugins) -> (Host, Handle<dyn Tables>) {
    let host = host(plugins);
    loaded(&host, plugins.add("reader", "table-reader").write());
    let tables = host.contract::<dyn Tables>("reader").expect("it serves the contract");
    (host, tables)
}

/// Reads all items before the end or the error.
pub(super) fn read<T: hotbay::contract::Data>(stream: Stream<T>) -> (Vec<T>, Option<CallError>) {
    let (mut items, mut error) = (Vec::new(), None);
    for item in stream {
        assert!(error.is_none(), "an item follows an error");
        match item {
            Ok(item) => items.push(item),
            Err(found) => error = Some(found),
        }
    }
    (items, error)
}

/// Reads like [`read`], as a future.
pub(super) fn read_async<T: hotbay::contract::Data>(
    mut stream: Stream<T>,
) -> (Vec<T>, Option<CallError>) {
    let mut items = Vec::new();
    block_on(async {
        loop {
            match stream.try_next().await {
                Ok(Some(item)) => items.push(item),
                Ok(None) => return (items, None),
                Err(error) => {
                    assert!(stream.try_next().await.expect("the end").is_none());
                    return (items, Some(error));
                }
            }
        }
    })
}

/// Polls a stream once.
pub(super) fn is_pending(stream: &mut Stream<u64>) -> bool {
    stream.try_poll_next_unpin(&mut Context::from_waker(Waker::noop())).is_pending()
}

pub(super) fn check_all(tables: &impl Tables) {
    check_read(tables, read, read, read);
    check_read(tables, read_async, read_async, read_async);
}

type Read<T> = (Vec<T>, Option<CallError>);

fn check_read(
    tables: &impl Tables,
    numbers: impl Fn(Stream<u64>) -> Read<u64>,
    rows: impl Fn(Stream<Record>) -> Read<Record>,
    texts: impl Fn(Stream<String>) -> Read<String>,
) {
    let expected = ["a b", "", "c"].map(|text| Record {
        text: text.to_owned(),
        words: Some(text.split_whitespace().count() as u64),
        ..Record::default()
    });
    let found = rows(tables.rows(&["a b".to_owned(), String::new(), "c".to_owned()]).unwrap());
    assert_eq!(found.0, expected);
    assert!(found.1.is_none() && rows(tables.rows(&[]).unwrap()).0.is_empty());
    let lengths: Vec<_> = (0..200).collect();
    let (found, error) = texts(tables.texts(&lengths).unwrap());
    assert!(error.is_none(), "{error:?}");
    assert!(found.iter().map(String::len).eq(0..200));
    for window in [1, 7, 1_000] {
        let (found, error) = numbers(tables.fail(100, Failure::None).unwrap().with_window(window));
        assert!(error.is_none() && found.into_iter().eq(0..100));
        let (found, error) = numbers(tables.ticks(100, 0).unwrap().with_window(window));
        assert!(error.is_none() && found.into_iter().eq(0..100));
    }
    assert_eq!(numbers(tables.ticks(3, 1).unwrap()).0, [0, 1, 2]);
    let first: Vec<_> = tables.count(7).unwrap().take(40).map(Result::unwrap).collect();
    assert!(first.into_iter().eq(7..47));
    let even: Vec<_> = tables.even().unwrap().take(3).map(Result::unwrap).collect();
    assert_eq!(even, [0, 2, 4]);
    for after in [0, 1, 50] {
        for fail in [tables.fail(after, Failure::Error), tables.fail_later(after, Failure::Error)] {
            let (found, error) = numbers(fail.unwrap());
            assert!(found.into_iter().eq(0..after));
            let error = error.expect("an error after the items");
            assert_eq!(error.plugin_error().map(PluginError::code), Some(7));
        }
    }
    let error = tables.refuse().unwrap_err();
    assert_eq!(error.plugin_error().map(PluginError::code), Some(404));
}

#[test]
fn library_serves_streams() {
    let plugins = Plugins::new();
    let (_host, tables) = reader(&plugins);
    check_all(&tables);
    check_all(&tables.pin().unwrap());
    check_all(&tables.pooled());
    check_all(&tables.with_timeout(Duration::from_secs(600)));
}

#[test]
fn value_of_the_program_serves_streams() {
    let serves = Serves::new().with::<dyn Tables>();
    let host = Host::builder().serve("own", TableReader::default(), serves).build().unwrap();
    let tables = host.contract::<dyn Tables>("own").unwrap();
    check_all(&tables);
    check_all(&tables.pooled());
}

#[test]
fn stream_made_here_is_read_like_that_of_a_plugin() {
    let tables = TableReader::default();
    let (found, error) = read(tables.rows(&["a".to_owned()]).unwrap());
    assert!(error.is_none() && found.len() == 1);
    let (found, error) = read_async(tables.fail(3, Failure::Error).unwrap());
    assert_eq!((found.len(), error.unwrap().kind()), (3, CallErrorKind::Plugin));
    let (found, error) = read(tables.fail_later(3, Failure::Error).unwrap());
    assert_eq!((found.len(), error.unwrap().kind()), (3, CallErrorKind::Plugin));
}

/// `tables` as another crate declares it: its numbers are wider, and it has a method less.
mod other {
    use hotbay_plugin::prelude::*;

    use super::{CallError, Stream};

    #[hotbay_plugin::contract(name = "tables", version = "1.1")]
    pub(super) trait Tables {
        fn count(&self, from: u64) -> Result<Stream<i64>, CallError>;
        fn fail(&self, after: u64, how: text_contract::Failure) -> Result<Stream<f64>, CallError>;
    }

    #[hotbay_plugin::contract(name = "tables", version = "1.1")]
    pub(super) trait NoStream {
        fn count(&self, from: u64) -> Result<u64, CallError>;
    }

    #[hotbay_plugin::contract(name = "numbers", version = "1.0")]
    pub(super) trait Narrow {
        fn count(&self, to: u32) -> Result<Stream<u32>, CallError>;
        fn unused(&self) -> Result<(), CallError>;
    }

    #[hotbay_plugin::contract(name = "numbers", version = "1.1")]
    pub(super) trait Wide {
        fn count(&self, to: u32, step: Option<u32>) -> Result<Stream<u64>, CallError>;
        #[since("1.1")]
        fn more(&self) -> Result<Stream<u64>, CallError> {
            self.count(2, None)
        }
    }

    pub(super) struct Numbers;

    impl Narrow for Numbers {
        fn count(&self, to: u32) -> Result<Stream<u32>, CallError> {
            Ok(Stream::from_items(0..to))
        }

        fn unused(&self) -> Result<(), CallError> {
            Ok(())
        }
    }

    impl Plugin for Numbers {
        fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
            Ok(Self)
        }

        fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
            Ok(Output::text(""))
        }
    }
}

#[test]
fn items_of_other_types_are_converted() {
    use other::Wide as _;
    let serves = Serves::new().with::<dyn other::Narrow>();
    let host = Host::builder().serve("own", other::Numbers, serves).build().unwrap();
    let numbers = host.contract::<dyn other::Wide>("own").unwrap();
    assert_eq!(read(numbers.count(3, None).unwrap()).0, [0, 1, 2]);
    assert_eq!(read_async(numbers.count(3, Some(1)).unwrap()).0, [0, 1, 2]);
    assert_eq!(read(numbers.more().unwrap()).0, [0, 1]);
}

#[test]
fn streams_of_incompatible_items_are_rejected() {
    let plugins = Plugins::new();
    let (host, _tables) = reader(&plugins);
    let message = |error: Error| error.full_message();
    let error = message(host.contract::<dyn other::Tables>("reader").unwrap_err());
    assert!(error.contains("method `count`: result: `u64` cannot be read as `i64`"), "{error}");
    let error = message(host.contract::<dyn other::NoStream>("reader").unwrap_err());
    assert!(error.contains("it returns a stream, expected a value"), "{error}");
}

#[test]
fn caller_that_stops_reading_stops_the_plugin() {
    let plugins = Plugins::new();
    let (_host, tables) = reader(&plugins);
    // On the caller's thread, items are made when they are read.
    let mut stream = tables.count(0).unwrap();
    assert_eq!(tables.made().unwrap(), 0);
    for expected in 0..5 {
        assert_eq!(stream.next().unwrap().unwrap(), expected);
        assert_eq!(tables.made().unwrap(), expected + 1);
    }
    let pooled = tables.pooled();
    let streams = [pooled.count(0), pooled.ticks(u64::MAX, 0), tables.ticks(u64::MAX, 0)];
    for (stream, dropped) in streams.into_iter().zip(1..) {
        let before = tables.made().unwrap();
        let mut stream = stream.unwrap().with_window(4);
        for expected in 0..50 {
            assert_eq!(stream.next().unwrap().unwrap(), expected);
            let made = tables.made().unwrap() - before;
            assert!((expected + 1..=expected + 5).contains(&made), "{made} after {expected}");
        }
        drop(stream);
        // Until then it may make an item, which would be counted below.
        until("it is dropped", || (tables.dropped().unwrap() == dropped).then_some(()));
    }
    let before = tables.made().unwrap();
    assert_eq!(stream.next().unwrap().unwrap(), 5);
    assert_eq!(tables.made().unwrap(), before + 1);
}

#[test]
fn dropped_stream_is_dropped_in_the_plugin() {
    let plugins = Plugins::new();
    let (_host, tables) = reader(&plugins);
    let pooled = tables.pooled();
    let is_dropped = |count| {
        until("the iterator is dropped", || (tables.dropped().unwrap() == count).then_some(()));
    };
    drop(tables.count(0).unwrap());
    is_dropped(1);
    let mut stream = tables.count(0).unwrap();
    assert_eq!(stream.next().unwrap().unwrap(), 0);
    drop(stream);
    is_dropped(2);
    let mut stream = pooled.count(0).unwrap();
    assert_eq!(stream.next().unwrap().unwrap(), 0);
    drop(stream);
    is_dropped(3);
    // Its iterator waits until the caller does not want more.
    let mut stream = pooled.wait().unwrap();
    assert_eq!(stream.next().unwrap().unwrap(), 0);
    drop(stream);
    is_dropped(4);
    let mut stream = tables.ticks(2, 86_400_000).unwrap();
    assert!(is_pending(&mut stream));
    drop(stream);
    is_dropped(5);
    drop(tables.ticks(2, 0).unwrap());
    is_dropped(6);
}

#[test]
fn stream_is_one_call_and_its_failure_an_error() {
    let plugins = Plugins::new();
    let (host, tables) = reader(&plugins);
    assert_eq!(tables.count(0).unwrap().take(100).count(), 100);
    assert_eq!(read(tables.fail(5, Failure::Error).unwrap()).0.len(), 5);
    let stats = host.list()[0].stats.clone();
    assert_eq!((stats.calls, stats.errors, stats.faults), (2, 1, 0));
}

#[test]
fn panic_follows_the_items_before_it() {
    let plugins = Plugins::new();
    let (host, tables) = reader(&plugins);
    let streams = [tables.fail(40, Failure::Panic), tables.fail_later(40, Failure::Panic)]
        .map(Result::unwrap);
    for stream in streams {
        let (found, error) = read_async(stream);
        assert!(found.into_iter().eq(0..40));
        let error = error.expect("an error");
        assert_eq!(error.kind(), CallErrorKind::Panicked);
        assert_eq!(Error::from(error).fault().unwrap().message(), "reading failed");
    }
    assert_eq!(host.list()[0].stats.faults, 2);
}

#[test]
fn repeated_panics_quarantine_the_plugin() {
    let plugins = Plugins::new();
    let (_host, tables) = reader(&plugins);
    let error = loop {
        match tables.fail(2, Failure::Panic) {
            Ok(stream) => assert_eq!(read(stream).0, [0, 1]),
            Err(error) => break error,
        }
    };
    assert_eq!(Error::from(error).kind(), ErrorKind::Quarantined);
}

#[test]
fn stream_ends_at_its_deadline() {
    let plugins = Plugins::new();
    let (_host, tables) = reader(&plugins);
    let limited = tables.with_timeout(Duration::from_millis(50));
    let streams = [
        limited.count(0),
        limited.pooled().count(0),
        limited.pooled().wait(),
        limited.ticks(5, 86_400_000),
    ];
    for stream in streams {
        let (_, error) = read(stream.unwrap());
        assert_eq!(error.expect("an error").kind(), CallErrorKind::DeadlineExceeded);
    }
    let (_, error) = read_async(limited.wait().unwrap());
    assert_eq!(error.expect("an error").kind(), CallErrorKind::DeadlineExceeded);
    until("all are dropped", || (tables.dropped().unwrap() == 5).then_some(()));
    let late = tables.with_timeout(Duration::ZERO).count(0).unwrap_err();
    assert_eq!(late.kind(), CallErrorKind::DeadlineExceeded);
}

#[test]
fn deadline_of_a_stream_is_counted_once() {
    let plugins = Plugins::new();
    let (host, tables) = reader(&plugins);
    let abandoned = || host.list()[0].stats.abandoned;
    let limited = tables.with_timeout(Duration::from_millis(300));
    // Not read, so the timer notices it, and the plugin has no fault.
    let unread = (0..6).map(|_| limited.pooled().count(0).unwrap()).collect::<Vec<_>>();
    until("all are counted", || (abandoned() == 6).then_some(()));
    for stream in unread {
        let (_, error) = read(stream);
        assert_eq!(error.expect("an error").kind(), CallErrorKind::DeadlineExceeded);
    }
    assert_eq!(abandoned(), 6);
    // Read, but the first item is not made in time.
    for count in 7..=11 {
        let (found, error) = read(limited.ticks(5, 86_400_000).unwrap());
        assert_eq!(error.expect("an error").kind(), CallErrorKind::DeadlineExceeded);
        assert_eq!((found.len(), abandoned()), (0, count));
    }
    let error = tables.count(0).unwrap_err();
    assert_eq!(Error::from(error).kind(), ErrorKind::Quarantined);
}

#[test]
fn pooled_stream_has_the_default_deadline() {
    let plugins = Plugins::new();
    let builder = Host::builder().plugin_dir(plugins.dir());
    let host = builder.default_deadline(Duration::from_millis(50)).build().unwrap();
    loaded(&host, plugins.add("reader", "table-reader").write());
    let tables = host.contract::<dyn Tables>("reader").unwrap();
    let (_, error) = read(tables.pooled().ticks(5, 86_400_000).unwrap());
    assert_eq!(error.expect("an error").kind(), CallErrorKind::DeadlineExceeded);
}

#[test]
fn iterator_sees_deadline_and_cancellation() {
    let plugins = Plugins::new();
    let (_host, tables) = reader(&plugins);
    assert_eq!(tables.limits().unwrap().next().unwrap().unwrap(), (false, false));
    let limited = tables.with_timeout(Duration::from_secs(86_400));
    assert_eq!(limited.limits().unwrap().next().unwrap().unwrap(), (true, false));
}

#[test]
fn token_ends_streams() {
    let plugins = Plugins::new();
    let (_host, tables) = reader(&plugins);
    for is_pooled in [false, true] {
        let token = CancellationToken::new();
        let cancellable = tables.with_cancellation_token(token.clone());
        let mut stream = match is_pooled {
            false => cancellable.wait().unwrap(),
            true => cancellable.pooled().wait().unwrap(),
        };
        assert_eq!(stream.next().unwrap().unwrap(), 0);
        let error = std::thread::scope(|scope| {
            let next = scope.spawn(move || stream.next().unwrap().unwrap_err());
            token.cancel();
            next.join().expect("no panic")
        });
        // The iterator may have returned its own error first, because of the token.
        let kinds = [CallErrorKind::Cancelled, CallErrorKind::Plugin];
        assert!(kinds.contains(&error.kind()), "{error:?}");
        assert_eq!(cancellable.count(0).unwrap_err().kind(), CallErrorKind::Cancelled);
    }
    let token = CancellationToken::new();
    let cancellable = tables.with_cancellation_token(token.clone());
    let mut streams = [cancellable.count(0).unwrap(), cancellable.ticks(9, 86_400_000).unwrap()];
    token.cancel();
    for stream in &mut streams {
        assert_eq!(stream.next().unwrap().unwrap_err().kind(), CallErrorKind::Cancelled);
        assert!(stream.next().is_none());
    }
}

#[test]
fn items_have_the_limit_of_outputs() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let limits = serde_json::json!({ "output_bytes": 64 });
    loaded(&host, plugins.add("reader", "table-reader").set("limits", limits).write());
    let tables = host.contract::<dyn Tables>("reader").unwrap();
    for stream in [tables.texts(&[60, 64, 60]), tables.pooled().texts(&[60, 64, 60])] {
        let (found, error) = read(stream.unwrap());
        assert_eq!(found.len(), 1);
        assert_eq!(error.expect("an error").kind(), CallErrorKind::InvalidOutput);
    }
}

/// Sees the calls that open streams, and answers `rows` itself.
struct Opening(std::sync::Mutex<BTreeSet<String>>);

impl Layer for Opening {
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
        let (_, method) = call.request().contract_method().expect("a method");
        let is_first = self.0.lock().unwrap().insert(method.to_owned());
        assert!(is_first || method == "dropped", "{method} is called once");
        match method {
            "rows" => Ok(Reply::new(Output::text("no stream"))),
            "refuse" => Err(Error::denied("not allowed")),
            // The stream is that of the second call.
            "ticks" => next.call(call).and_then(|_| next.call(call)),
            _ => next.call(call),
        }
    }
}

#[test]
fn layers_see_the_call_that_opens_a_stream() {
    let plugins = Plugins::new();
    let builder = Host::builder().plugin_dir(plugins.dir());
    let host = builder.layer(Opening(Default::default())).build().unwrap();
    loaded(&host, plugins.add("reader", "table-reader").write());
    let tables = host.contract::<dyn Tables>("reader").unwrap();
    assert_eq!(tables.count(0).unwrap().take(40).count(), 40);
    assert_eq!(tables.rows(&[]).unwrap_err().kind(), CallErrorKind::InvalidOutput);
    assert_eq!(tables.refuse().unwrap_err().kind(), CallErrorKind::PermissionDenied);
    assert_eq!(read(tables.ticks(2, 0).unwrap()).0, [0, 1]);
    until("the first is dropped too", || (tables.dropped().unwrap() == 3).then_some(()));
}

#[test]
fn reload_leaves_open_streams_to_the_old_build() {
    let plugins = Plugins::new();
    let (host, tables) = reader(&plugins);
    let mut streams = [
        tables.count(0).unwrap(),
        tables.pooled().count(0).unwrap(),
        tables.ticks(u64::MAX, 0).unwrap(),
    ];
    for stream in &mut streams {
        assert_eq!(stream.next().unwrap().unwrap(), 0);
    }
    let mut events = host.events();
    plugins.add("reader", "table-reader").set("description", "again").write();
    reloaded(&host, "reader");
    // Calls reach the new build, which has made nothing.
    assert_eq!(tables.made().unwrap(), 0);
    for stream in &mut streams {
        assert_eq!(stream.next().unwrap().unwrap(), 1);
    }
    drop(streams);
    event(&mut events, |event| match event {
        HostEvent::Kept { reason, .. } => panic!("the old build was kept: {reason}"),
        HostEvent::ShutdownFailed { reason, .. } => panic!("a stream was open: {reason}"),
        event => matches!(event, HostEvent::Closed { .. }),
    });
}

#[test]
fn unload_ends_streams_that_outlast_the_drain() {
    let plugins = Plugins::new();
    let limits = limits(|limits| limits.drain_timeout = Duration::from_millis(20));
    let host = Host::builder().plugin_dir(plugins.dir()).limits(limits).build().unwrap();
    loaded(&host, plugins.add("reader", "table-reader").write());
    let tables = host.contract::<dyn Tables>("reader").unwrap();
    let pooled = tables.pooled();
    // Not read; read once; being made on a thread; and on the plugin's runtime.
    let unread =
        [tables.count(0).unwrap(), pooled.count(0).unwrap(), tables.ticks(u64::MAX, 0).unwrap()];
    let mut read_once =
        [tables.count(0).unwrap(), pooled.count(0).unwrap(), tables.ticks(u64::MAX, 0).unwrap()];
    let mut waiting = [pooled.wait().unwrap(), tables.ticks(9, 86_400_000).unwrap()];
    for stream in read_once.iter_mut().chain(&mut waiting[..1]) {
        assert_eq!(stream.next().unwrap().unwrap(), 0);
    }
    assert!(is_pending(&mut waiting[1]));
    let report = block_on(host.unload("reader")).unwrap();
    assert!(report.shutdown_error.is_none(), "{report:?}");
    assert_eq!(report.retain_reason, None, "{report:?}");
    assert_eq!(host.retained().len(), 0);
    for mut stream in unread.into_iter().chain(read_once).chain(waiting) {
        let error = stream.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::Unavailable);
        assert_eq!(Error::from(error).kind(), ErrorKind::Retired);
        assert!(stream.next().is_none());
    }
    assert_eq!(tables.count(0).unwrap_err().kind(), CallErrorKind::Unavailable);
}

#[test]
fn many_streams_are_read_concurrently() {
    let plugins = Plugins::new();
    let (_host, tables) = reader(&plugins);
    let streams = (0..20).map(|from| tables.count(from).unwrap().with_window(3));
    let mut merged = futures_util::stream::select_all(streams);
    let mut found = BTreeSet::new();
    block_on(async {
        while found.len() < 200 {
            let number = merged.try_next().await.expect("an item").expect("no end");
            found.insert(number);
        }
    });
    drop(merged);
    until("all are dropped", || (tables.dropped().unwrap() == 20).then_some(()));
}

#[test]
fn streams_beyond_the_limit_are_refused() {
    let plugins = Plugins::new();
    let limits = limits(|limits| limits.max_open_streams = 3);
    let host = Host::builder().plugin_dir(plugins.dir()).limits(limits).build().unwrap();
    let greedy = serde_json::json!({ "open_streams": 4 });
    loaded(&host, plugins.add("reader", "table-reader").set("limits", greedy).write());
    let tables = host.contract::<dyn Tables>("reader").unwrap();
    let open =
        || [tables.count(0).unwrap(), tables.pooled().wait().unwrap(), tables.ticks(9, 0).unwrap()];
    let streams = open();
    for refused in [tables.count(0), tables.pooled().count(0), tables.ticks(9, 0)] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::Overloaded);
        assert!(error.hint().unwrap().contains("`max_open_streams`"), "{error:?}");
        let message = Error::from(error).full_message();
        assert!(message.contains("(`limits.open_streams` is 3)"), "{message}");
    }
    assert_eq!(host.list()[0].stats.faults, 0);
    drop(streams);
    until("all are dropped", || (tables.dropped().unwrap() == 3).then_some(()));
    // Streams that have failed, or were read to their end, are not open.
    for _ in 0..9 {
        assert_eq!(read(tables.fail(1, Failure::Error).unwrap()).0, [0]);
        assert_eq!(read(tables.ticks(2, 0).unwrap()).0, [0, 1]);
        assert!(tables.refuse().is_err());
    }
    until("they are closed", || tables.count(0).is_ok().then_some(()));
}

#[test]
fn streams_wait_for_a_thread_that_makes_items() {
    let plugins = Plugins::new();
    let limits = limits(|limits| limits.max_stream_threads = 1);
    let host = Host::builder().plugin_dir(plugins.dir()).limits(limits).build().unwrap();
    loaded(&host, plugins.add("reader", "table-reader").write());
    let tables = host.contract::<dyn Tables>("reader").unwrap();
    // Holds the thread after its first item.
    let mut holder = tables.pooled().wait().unwrap();
    assert_eq!(holder.next().unwrap().unwrap(), 0);
    let mut waiting = [tables.pooled().count(0).unwrap(), tables.count(10).unwrap()];
    let mut dropped = tables.pooled().count(0).unwrap();
    for stream in waiting.iter_mut().chain([&mut dropped]) {
        assert!(is_pending(stream));
    }
    drop(dropped);
    until("it is dropped", || (tables.dropped().unwrap() == 1).then_some(()));
    let soon = tables.with_timeout(Duration::from_millis(20)).pooled();
    let (_, error) = read(soon.count(0).unwrap());
    assert_eq!(error.expect("an error").kind(), CallErrorKind::DeadlineExceeded);
    // Neither a caller that blocks nor the plugin's runtime needs the thread.
    assert_eq!(tables.even().unwrap().nth(1).unwrap().unwrap(), 2);
    assert_eq!(read(tables.ticks(2, 0).unwrap()).0, [0, 1]);
    assert_eq!(tables.made().unwrap(), 2);
    // Nor does a stream that waits for it, once its caller blocks.
    for expected in 10..15 {
        assert_eq!(waiting[1].next().unwrap().unwrap(), expected);
        assert!(is_pending(&mut waiting[1]));
    }
    assert_eq!(host.list()[0].stats.faults, 0);
    drop(holder);
    for (stream, from) in waiting.iter_mut().zip([0, 15]) {
        let items = stream.take(100).map(Result::unwrap);
        assert!(items.into_iter().eq(from..from + 100));
    }
}
