//! The example of a shared contract: one function calls a library, a program in Rust, a program in
//! Python, a program that knows no contracts and a value of the program.

use data_contract::{DataProcessor, Processed, Record};
use hotbay::Host;
use hotbay::contract::{CallError, CallErrorKind, Serves};
use hotbay_tests::{Plugins, ProgramFolder, loaded};

const OLDER: &str = include_str!("../../../plugins/data-processor-older/data_processor.py");
const OLDER_MANIFEST: &str = include_str!("../../../plugins/data-processor-older/plugin.json");
const PYTHON: &str = include_str!("../../../plugins/data-processor-python/data_processor.py");

/// Uses a processor, whichever it is; returns what it is.
fn report(processor: &impl DataProcessor) -> Result<String, CallError> {
    let record = Record { name: "sample".to_owned(), values: vec![3, -1, 2] };
    let expected = Processed { name: "sample".to_owned(), sorted: vec![-1, 2, 3], sum: 4 };
    assert_eq!(processor.process_data(record)?, expected);
    let empty = Record { name: "empty".to_owned(), values: Vec::new() };
    let error = processor.process_data(empty).unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Plugin);
    let own = error.plugin_error().expect("its own error");
    assert_eq!((own.code(), own.message()), (422, "`empty` has no values"));
    processor.ping()
}

/// The processor of this program.
struct Own;

impl DataProcessor for Own {
    fn ping(&self) -> Result<String, CallError> {
        Ok("a value of the program".to_owned())
    }

    fn process_data(&self, record: Record) -> Result<Processed, CallError> {
        Ok(Processed::try_from(record)?)
    }
}

#[test]
fn one_function_calls_all_processors() {
    let plugins = Plugins::new();
    let serves = Serves::new().with::<dyn DataProcessor>();
    let builder = Host::builder().plugin_dir(plugins.dir()).serve("own", Own, serves);
    let host = builder.build().unwrap();
    loaded(&host, plugins.add("data-processor", "data-processor").write());
    let name = "data-processor-program";
    loaded(&host, ProgramFolder::new(plugins.dir(), name).built(name, name).install());
    let mut expected = vec!["a library", "a program in Rust", "a value of the program"];
    if hotbay_tests::has_interpreter("python3") {
        let python = ProgramFolder::new(plugins.dir(), "data-processor-python");
        loaded(&host, python.bytes(PYTHON).install());
        let manifest: serde_json::Value = serde_json::from_str(OLDER_MANIFEST).unwrap();
        let older = ProgramFolder::new(plugins.dir(), "data-processor-older");
        let older = older.bytes(OLDER).set("provides", manifest["provides"].clone());
        loaded(&host, older.install());
        expected.splice(1..1, ["a program of the older dialect"]);
        expected.insert(3, "a program in Python");
    }
    let found: Vec<_> = host
        .list()
        .iter()
        .map(|plugin| report(&host.contract::<dyn DataProcessor>(plugin.name.as_str()).unwrap()))
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(found, expected);
    assert_eq!(report(&Own).unwrap(), "a value of the program");
    let first = host.providers_of::<dyn DataProcessor>().unwrap();
    assert_eq!(report(&first).unwrap(), "a value of the program");
}
