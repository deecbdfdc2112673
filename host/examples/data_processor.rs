//! One contract, served by a library, a program in Rust, a program in Python, a program that knows no
//! contracts and a value of this program, and called by one function.
//!
//! Run it with `cargo xtask build-plugins`, then
//! `cargo run -p hotbay --example data_processor -- target/plugins`.

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use data_contract::{DataProcessor, Processed, Record};
use hotbay::Host;
use hotbay::contract::{CallError, Serves};

/// Uses a processor, whichever it is.
fn report(processor: &impl DataProcessor) -> Result<String, CallError> {
    let record = Record { name: "sample".to_owned(), values: vec![3, -1, 2] };
    let Processed { name, sorted, sum } = processor.process_data(record)?;
    Ok(format!("{}: {name} {sorted:?}, sum {sum}", processor.ping()?))
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

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Some(plugins) = std::env::args_os().nth(1) else {
        return Err("expected an argument: the folder of built plugins".into());
    };
    let serves = Serves::new().with::<dyn DataProcessor>();
    let host = Host::builder().serve("own", Own, serves).build()?;
    let suffixes = ["", "-program", "-python", "-older"];
    for plugin in suffixes.map(|suffix| format!("data-processor{suffix}")) {
        host.load(Path::new(&plugins).join(plugin)).await?;
    }
    for plugin in host.list() {
        println!("{}", report(&host.contract::<dyn DataProcessor>(plugin.name.as_str())?)?);
    }
    // The value itself, and whichever plugin comes first.
    println!("{}", report(&Own)?);
    println!("{}", report(&host.providers_of::<dyn DataProcessor>()?)?);
    host.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
