//! Methods that return streams, served by programs: in Rust by the SDK, in Python by hand, and by
//! programs that violate the protocol.

use std::time::Duration;

use futures_util::TryStreamExt;
use hotbay::contract::{CallErrorKind, Handle, Stream};
use hotbay::{CancellationToken, Error, ErrorKind, Host, HostEvent};
use hotbay_tests::{
    Plugins, ProgramFolder, block_on, event, has_interpreter, host, limits, loaded, until,
};
use serde_json::{Value, json};
use text_contract::{Failure, Tables};

use crate::process::fixture::kill;

use super::processes::scripted;
use super::sdk;
use super::streams::{check_all, read, read_async};

/// The programs in Rust, in Python by hand, and with the SDKs of other languages.
fn programs() -> Vec<(Plugins, ProgramFolder)> {
    let plugins = Plugins::new();
    let program = ProgramFolder::new(plugins.dir(), "reader").set("package", "table-reader");
    let mut programs = vec![(plugins, program.built("table-reader", "table-reader"))];
    if has_interpreter("python3") {
        let plugins = Plugins::new();
        let program = ProgramFolder::new(plugins.dir(), "reader").set("package", "program");
        programs.push((plugins, program.bytes(include_str!("tables.py"))));
    }
    programs.extend(sdk::programs("reader"));
    programs
}

/// Loads each program.
fn readers() -> impl Iterator<Item = (Plugins, Host, Handle<dyn Tables>)> {
    programs().into_iter().map(|(plugins, program)| {
        let host = host(&plugins);
        loaded(&host, program.install());
        let tables = host.contract::<dyn Tables>("reader").expect("it serves the contract");
        (plugins, host, tables)
    })
}

#[test]
fn programs_serve_streams() {
    for (_plugins, _host, tables) in readers() {
        check_all(&tables);
        check_all(&tables.pin().unwrap());
        check_all(&tables.pooled());
        check_all(&tables.with_timeout(Duration::from_secs(600)));
    }
}

#[test]
fn caller_that_stops_reading_stops_the_program() {
    for (_plugins, _host, tables) in readers() {
        let mut stream = tables.count(0).unwrap();
        assert_eq!(stream.next().unwrap().unwrap(), 0);
        // The program makes items until the buffers of the connection are full.
        let mut before = 0;
        until("it has stopped", || {
            let made = tables.made().unwrap();
            std::mem::replace(&mut before, made).eq(&made).then_some(())
        });
        assert!(before < 1_000_000, "{before}");
        for expected in 1..2_000 {
            assert_eq!(stream.next().unwrap().unwrap(), expected);
        }
    }
}

#[test]
fn dropped_stream_is_dropped_in_the_program() {
    for (_plugins, _host, tables) in readers() {
        let is_dropped = |count| {
            until("it is dropped", || (tables.dropped().unwrap() == count).then_some(()));
        };
        let mut stream = tables.count(0).unwrap();
        assert_eq!(stream.next().unwrap().unwrap(), 0);
        drop(stream);
        is_dropped(1);
        let mut stream = tables.pooled().wait().unwrap();
        assert_eq!(stream.next().unwrap().unwrap(), 0);
        drop(stream);
        is_dropped(2);
    }
}

#[test]
fn first_item_arrives_before_the_second_is_made() {
    for (_plugins, _host, tables) in readers() {
        let mut stream = tables.wait().unwrap();
        assert_eq!(stream.next().unwrap().unwrap(), 0);
        let mut stream = tables.wait().unwrap();
        assert_eq!(block_on(stream.try_next()).unwrap(), Some(0));
    }
}

#[test]
fn panic_of_a_program_follows_the_items_before_it() {
    for (_plugins, host, tables) in readers() {
        let (found, error) = read(tables.fail(40, Failure::Panic).unwrap());
        assert!(found.into_iter().eq(0..40));
        let error = Error::from(error.expect("an error"));
        assert_eq!(error.kind(), ErrorKind::Panicked);
        let message = error.fault().unwrap().message();
        assert!(message.ends_with("reading failed"), "{message}");
        let stats = host.list()[0].stats.clone();
        assert_eq!((stats.calls, stats.errors, stats.faults), (1, 0, 1));
    }
}

#[test]
fn stream_of_a_program_ends_at_its_deadline_and_by_its_token() {
    for (_plugins, _host, tables) in readers() {
        let limited = tables.with_timeout(Duration::from_millis(300));
        let mut opened = 0;
        for stream in [limited.count(0), limited.wait(), limited.pooled().wait()] {
            // On a busy machine, the response or the first item may take longer.
            let (found, error) = match stream {
                Ok(stream) => {
                    opened += 1;
                    read(stream)
                }
                Err(error) => (Vec::new(), Some(error)),
            };
            assert!(found.first().is_none_or(|first| *first == 0), "{found:?}");
            assert_eq!(error.expect("an error").kind(), CallErrorKind::DeadlineExceeded);
        }
        let item = tables.limits().unwrap().next().unwrap().unwrap();
        assert_eq!(item, (false, false));
        let item = tables.with_timeout(Duration::from_secs(600)).limits().unwrap().next();
        assert_eq!(item.unwrap().unwrap(), (true, false));
        let token = CancellationToken::new();
        let mut stream = tables.with_cancellation_token(token.clone()).wait().unwrap();
        assert_eq!(stream.next().unwrap().unwrap(), 0);
        token.cancel();
        assert_eq!(stream.next().unwrap().unwrap_err().kind(), CallErrorKind::Cancelled);
        until("all are dropped", || (tables.dropped().unwrap() > opened).then_some(()));
    }
}

#[test]
fn items_of_a_program_have_the_limit_of_outputs() {
    for (plugins, program) in programs() {
        let host = host(&plugins);
        loaded(&host, program.set("limits", json!({ "output_bytes": 100 })).install());
        let tables = host.contract::<dyn Tables>("reader").unwrap();
        // Shorter and longer than the whole line may be.
        for length in [99, 100_000] {
            let (found, error) = read_async(tables.texts(&[98, length, 98]).unwrap());
            assert_eq!(found.len(), 1);
            assert_eq!(error.expect("an error").kind(), CallErrorKind::InvalidOutput);
        }
    }
}

#[test]
fn unload_ends_streams_of_a_program() {
    for (plugins, program) in programs() {
        let limits = limits(|limits| limits.drain_timeout = Duration::from_millis(20));
        let host = Host::builder().plugin_dir(plugins.dir()).limits(limits).build().unwrap();
        loaded(&host, program.install());
        let tables = host.contract::<dyn Tables>("reader").unwrap();
        let mut streams = [tables.count(0).unwrap(), tables.wait().unwrap()];
        for stream in &mut streams {
            assert_eq!(stream.next().unwrap().unwrap(), 0);
        }
        let report = block_on(host.unload("reader")).unwrap();
        assert_eq!(report.retain_reason, None, "{report:?}");
        for stream in streams {
            let (_, error) = read(stream);
            assert_eq!(Error::from(error.expect("an error")).kind(), ErrorKind::Retired);
        }
    }
}

/// A contract with which programs do not comply.
#[hotbay_plugin::contract(name = "lines", version = "1.0")]
trait Lines {
    fn read(&self) -> Result<Stream<u32>, hotbay::contract::CallError>;
}

/// Loads the scripted program, which answers `read` so.
fn lines(plugins: &Plugins, answer: Value) -> (Host, Handle<dyn Lines>) {
    let host = host(plugins);
    let serve = json!({ "contract/lines/read": answer });
    let contracts = json!([{ "text": "contract lines 1.0\nstream fn read() -> u32\n" }]);
    loaded(&host, scripted(plugins, contracts, serve).install());
    let lines = host.contract::<dyn Lines>("lines").expect("it serves the contract");
    (host, lines)
}

#[test]
fn lines_that_violate_the_protocol_end_the_stream() {
    let body = |body: &str| json!({ "type": "application/x-ndjson; charset=utf-8", "body": body });
    for (answer, items, expected) in [
        (
            body("{\"item\":1}\n\n \r\n{\"item\": 2, \"new\": 0}\n{\"end\":true}\n{\"item\":3}"),
            2,
            None,
        ),
        (body("{\"end\":true}\n"), 0, None),
        (body(""), 0, Some(ErrorKind::Disconnected)),
        (body("{\"item\":1}\n"), 1, Some(ErrorKind::Disconnected)),
        (body("{\"item\":1}\n{\"end\":true}"), 1, Some(ErrorKind::Disconnected)),
        (body("{\"item\":1}\n{\"item\":"), 1, Some(ErrorKind::Disconnected)),
        (body("{\"item\":1}\nx\n"), 1, Some(ErrorKind::Protocol)),
        (body("{\"item\":1}\n{}\n"), 1, Some(ErrorKind::Protocol)),
        (body("{\"item\":1}\n{\"error\":{\"code\":7}}\n"), 1, Some(ErrorKind::Plugin)),
        (
            body("{\"item\":1}\n{\"error\":{\"message\":\"no\"}}\n"),
            1,
            Some(ErrorKind::InvalidOutput),
        ),
        (
            body("{\"item\":1}\n{\"error\":{\"fault\":{\"message\":\"no\"}}}\n"),
            1,
            Some(ErrorKind::Panicked),
        ),
        (body("{\"item\":1}\n{\"item\":-1}\n{\"end\":true}\n"), 1, Some(ErrorKind::InvalidOutput)),
    ] {
        let plugins = Plugins::new();
        let (_host, lines) = lines(&plugins, answer.clone());
        for stream in [lines.read(), lines.pooled().read()] {
            let (found, error) = read(stream.unwrap());
            assert_eq!(found.len(), items, "{answer}");
            assert_eq!(error.map(|error| Error::from(error).kind()), expected, "{answer}");
        }
    }
}

#[test]
fn responses_that_are_no_stream_fail_the_call() {
    let message = json!({ "message": "no", "statusCode": 400 });
    for (answer, expected) in [
        (json!({ "body": 3 }), ErrorKind::InvalidOutput),
        (json!({ "type": "text/plain", "body": "{\"end\":true}\n" }), ErrorKind::InvalidOutput),
        (json!({ "status": 204 }), ErrorKind::Protocol),
        (json!({ "status": 422, "body": { "code": 7, "message": "no" } }), ErrorKind::Plugin),
        (json!({ "status": 400, "body": message }), ErrorKind::InvalidInput),
    ] {
        let plugins = Plugins::new();
        let (_host, lines) = lines(&plugins, answer.clone());
        for error in [lines.read().unwrap_err(), lines.pooled().read().unwrap_err()] {
            assert_eq!(Error::from(error).kind(), expected, "{answer}");
        }
    }
}

#[test]
fn stream_of_a_process_that_exits_is_interrupted() {
    let plugins = Plugins::new();
    let host = Host::builder().plugin_dir(plugins.dir()).quarantine(None).build().unwrap();
    let program = ProgramFolder::new(plugins.dir(), "reader").set("package", "table-reader");
    loaded(&host, program.built("table-reader", "table-reader").install());
    let tables = host.contract::<dyn Tables>("reader").unwrap();
    let mut stream = tables.wait().unwrap();
    assert_eq!(stream.next().unwrap().unwrap(), 0);
    let mut events = host.events();
    let pid = host.list()[0].pid.expect("a process");
    kill(pid);
    let (_, error) = read(stream);
    let error = Error::from(error.expect("an error"));
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{}", error.full_message());
    event(&mut events, |event| matches!(event, HostEvent::Restarted { .. }));
    assert_eq!(tables.count(5).unwrap().next().unwrap().unwrap(), 5);
}

#[test]
fn open_streams_of_a_program_are_limited() {
    for (plugins, program) in programs() {
        let host = host(&plugins);
        loaded(&host, program.set("limits", json!({ "open_streams": 2 })).install());
        let tables = host.contract::<dyn Tables>("reader").unwrap();
        let streams = [tables.count(0).unwrap(), tables.pooled().count(0).unwrap()];
        let error = tables.count(0).unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::Overloaded);
        assert!(error.to_string().contains("(`limits.open_streams` is 2)"), "{error}");
        drop(streams);
        until("they are closed", || tables.count(0).is_ok().then_some(()));
    }
}
