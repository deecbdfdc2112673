//! Fuzz targets: every parser of foreign bytes, as a function that must return for any bytes. `cargo
//! fuzz` runs them with libFuzzer (`fuzz_targets`); [`replay()`] runs them on mutants of the corpus.

mod mutation;
mod replay;

use std::path::Path;

use hotbay::contract::{Binding, ContractText, bind, compare};
use hotbay_manifest::{Manifest, SignedFiles};
use hotbay_protocol::frame::{self, FrameBuffer, ReplyHead, RequestHead};
use hotbay_protocol::{BatchReplies, BatchReply, BatchRequests, StreamLine, parse_traceparent};

pub use mutation::{DAMAGES, Mutation};
pub use replay::{Replayed, replay};

/// A fuzz target.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("batch", batch),
    #[cfg(unix)]
    ("capabilities", hotbay_process::fuzz::capabilities),
    ("contracts", contracts),
    ("frames", frames),
    #[cfg(unix)]
    ("http_response", hotbay_process::fuzz::http_response),
    #[cfg(unix)]
    ("location_line", hotbay_process::fuzz::location_line),
    #[cfg(unix)]
    ("log_lines", hotbay_process::fuzz::log_lines),
    ("manifest", manifest),
    ("probe", hotbay::fuzz::probe),
    ("signed_files", signed_files),
    ("stream_line", stream_line),
    ("traceparent", traceparent),
];

/// Runs the target `name`.
///
/// # Panics
///
/// Panics if there is no such target, or if it panics.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(found, _)| *found == name).expect("a target");
    target(bytes);
}

/// Parses the bodies of a batch.
fn batch(bytes: &[u8]) {
    let _ = serde_json::from_slice::<BatchRequests<'_>>(bytes);
    if let Ok(batch) = serde_json::from_slice::<BatchReplies<'_>>(bytes) {
        let _ = batch.replies.iter().filter_map(BatchReply::body).count();
    }
}

/// Receives frames, in large and in small reads, which do not change them.
fn frames(bytes: &[u8]) {
    const MAX_BYTES: usize = 1 << 16;
    let frames_of = |read_bytes: usize| {
        let (mut buffer, mut bytes, mut frames) = (FrameBuffer::default(), bytes, Vec::new());
        loop {
            while let Ok(true) = buffer.has_frame(MAX_BYTES) {
                let frame = buffer.take_frame();
                let _ = frame::split::<RequestHead<'_>>(frame);
                let _ = frame::split::<ReplyHead<'_>>(frame);
                frames.push(frame.to_owned());
            }
            let space = buffer.spare();
            let count = read_bytes.min(bytes.len()).min(space.len());
            if count == 0 {
                return frames;
            }
            space[..count].copy_from_slice(&bytes[..count]);
            buffer.fill(count);
            bytes = &bytes[count..];
        }
    };
    assert_eq!(frames_of(usize::MAX), frames_of(3));
}

/// Parses the list of signed files. What is rendered is parsed as the same.
fn signed_files(bytes: &[u8]) {
    let Ok(files) = SignedFiles::parse(bytes) else { return };
    let rendered = files.render();
    assert_eq!(SignedFiles::parse(rendered.as_bytes()).expect("rendered"), files);
}

/// Parses a line of a stream. What is printed is parsed as the same.
fn stream_line(bytes: &[u8]) {
    let Ok(Some(line)) = StreamLine::parse(bytes) else { return };
    let printed = line.to_bytes();
    // A line may have spaces and members that are not printed.
    let line = StreamLine::parse(&printed).expect("printed").expect("not empty");
    assert_eq!(line.to_bytes(), printed);
}

/// Parses the text of contracts. Each is equal to itself, and printed as text that can be parsed.
fn contracts(bytes: &[u8]) {
    let _ = ContractText::parse_exported(bytes);
    let Ok(contracts) = ContractText::parse(&String::from_utf8_lossy(bytes)) else { return };
    for contract in &contracts {
        let bindings = bind(contract, contract).expect("equal");
        assert!(bindings.iter().all(|binding| matches!(binding, Binding::Same(_))));
        assert_eq!(compare(contract, contract).methods, []);
        let _ = compare(&contracts[0], contract).to_string();
        let printed = contract.to_string();
        // Spaces that were missing may exceed the limit.
        if printed.len() <= bytes.len() {
            assert_eq!(ContractText::parse(&printed), Ok(vec![contract.clone()]));
        }
    }
}

/// Parses `plugin.json`. An error has a message.
fn manifest(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(error) = Manifest::parse(&text, Path::new("plugin.json")) {
        assert!(!error.to_string().is_empty());
    }
}

/// Parses the header `traceparent`.
fn traceparent(bytes: &[u8]) {
    let _ = parse_traceparent(&String::from_utf8_lossy(bytes));
}
