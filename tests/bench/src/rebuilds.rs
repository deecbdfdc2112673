//! The time to build a library again after an edit: a plugin with a contract of ten methods, one of
//! bytes, and a plain `cdylib` with ten functions and no dependencies.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::sample::quantile;
use crate::table::{Report, Table, none, verdict};
use crate::workspace;

const MAX_RATIO: f64 = 1.3;
/// The time between builds. Cargo compares times in whole seconds on some file systems.
const PAUSE: Duration = Duration::from_millis(1100);

const MEMBERS: [&str; 4] = ["plain", "bytes", "typed", "ten-contract"];
const METHODS: usize = 10;
const CONTRACTS: &str = "hotbay-plugin = { workspace = true, features = [\"contracts\"] }";

pub(crate) fn measure(quick: bool, report: &Report) -> anyhow::Result<()> {
    let edits = if quick { 2 } else { 15 };
    let dir = workspace::create(&MEMBERS)?;
    let dir = dir.path();
    write_crate(dir, "ten-contract", "", CONTRACTS, &contract())?;
    for package in &MEMBERS[..3] {
        write_package(dir, package, 0)?;
    }
    let mut times = [const { Vec::new() }; 3];
    // The first builds compile the dependencies, the second ones fill the caches of the compiler.
    for edit in 1..=edits + 2 {
        for (index, package) in MEMBERS[..3].iter().enumerate() {
            write_package(dir, package, edit)?;
            let start = Instant::now();
            workspace::cargo_build(dir, package)?;
            if edit > 2 {
                times[index].push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        thread::sleep(PAUSE);
    }
    report.print(&table(edits, &times));
    Ok(())
}

fn table(edits: u32, times: &[Vec<f64>; 3]) -> Table {
    let title = format!("Warm rebuilds: `cargo build` after an edit, {edits} edits each (ms)");
    let mut table = Table::new(title, ["what", "best", "median", "ratio", "goal", ""]);
    let names =
        ["`cdylib` with ten functions", "plugin of bytes", "plugin with a contract of ten methods"];
    let first = quantile(times[0].clone(), 0.5);
    for (row, (name, times)) in names.into_iter().zip(times).enumerate() {
        let [best, median] = [0.0, 0.5].map(|part| quantile(times.clone(), part));
        let ratio = median / first;
        let (goal, met) = match row {
            2 => (format!("≤ {MAX_RATIO}"), verdict(ratio <= MAX_RATIO)),
            _ => (none(), none()),
        };
        let [best, median] = [best, median].map(|ms| format!("{ms:.0}"));
        table.row([name.to_owned(), best, median, format!("{ratio:.2}"), goal, met]);
    }
    table.note("The contract is in another crate, which is not edited.".to_owned());
    table
}

fn write_package(dir: &Path, package: &str, edit: u32) -> anyhow::Result<()> {
    let cdylib =
        "[lib]\ncrate-type = [\"cdylib\"]\n\n[features]\ndefault = [\"export\"]\nexport = []\n";
    let (dependencies, source) = match package {
        "plain" => (String::new(), plain(edit)),
        "bytes" => (CONTRACTS.to_owned(), bytes(edit)),
        _ => (format!("{CONTRACTS}\nten-contract = {{ path = \"../ten-contract\" }}"), typed(edit)),
    };
    write_crate(dir, package, cdylib, &dependencies, &source)
}

fn write_crate(
    dir: &Path,
    name: &str,
    lib: &str,
    dependencies: &str,
    source: &str,
) -> anyhow::Result<()> {
    let dir = dir.join(name);
    fs::create_dir_all(dir.join("src"))?;
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n{lib}\n\
         [dependencies]\n{dependencies}\n"
    );
    let path = dir.join("Cargo.toml");
    if fs::read_to_string(&path).ok().as_deref() != Some(&manifest) {
        fs::write(path, manifest)?;
    }
    fs::write(dir.join("src/lib.rs"), source)?;
    Ok(())
}

/// Returns lines, one for each method.
fn each(line: impl Fn(usize) -> String) -> String {
    (0..METHODS).map(line).collect()
}

fn contract() -> String {
    let methods = each(|n| {
        format!("    fn count{n}(&self, text: &str, n: u32) -> Result<u64, CallError>;\n")
    });
    format!(
        "use hotbay_plugin::contract::CallError;\n\n\
         #[hotbay_plugin::contract(name = \"ten\", version = \"1.0\")]\n\
         pub trait Ten {{\n{methods}}}\n"
    )
}

/// Returns the body of a method or function of this edit.
fn body(n: usize, edit: u32) -> String {
    format!("text.split(' ').count() as u64 + u64::from(n) + {n} + {edit}")
}

fn plain(edit: u32) -> String {
    each(|n| {
        let body = body(n, edit);
        format!(
            "/// # Safety\n///\n/// `text` has `len` bytes of UTF-8.\n\
             #[unsafe(no_mangle)]\n\
             pub unsafe extern \"C\" fn count{n}(text: *const u8, len: usize, n: u32) -> u64 {{\n\
             \x20   let text = unsafe {{ std::slice::from_raw_parts(text, len) }};\n\
             \x20   let text = std::str::from_utf8(text).unwrap_or_default();\n\
             \x20   {body}\n}}\n"
        )
    })
}

/// Returns the source of a plugin, up to its export.
fn plugin(edit: u32) -> String {
    format!(
        "use hotbay_plugin::{{CallContext, Config, HostServices, Output, Payload, Plugin, PluginError}};\n\n\
         struct Counts;\n\n\
         impl Plugin for Counts {{\n\
         \x20   fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {{\n\
         \x20       Ok(Self)\n    }}\n\n\
         \x20   fn execute(&self, _: &CallContext, input: Payload) -> Result<Output, PluginError> {{\n\
         \x20       let text = input.as_text()?;\n\
         \x20       let n = 0_u32;\n\
         \x20       Ok(Output::text(({}).to_string()))\n    }}\n}}\n\n",
        body(0, edit)
    )
}

fn bytes(edit: u32) -> String {
    format!("{}hotbay_plugin::export_plugin!(Counts);\n", plugin(edit))
}

fn typed(edit: u32) -> String {
    let methods = each(|n| {
        let body = body(n, edit);
        format!(
            "    fn count{n}(&self, text: &str, n: u32) -> Result<u64, CallError> {{\n\
             \x20       Ok({body})\n    }}\n"
        )
    });
    format!(
        "use hotbay_plugin::contract::CallError;\nuse ten_contract::Ten;\n\n{}\
         impl Ten for Counts {{\n{methods}}}\n\n\
         hotbay_plugin::export_plugin!(Counts, contracts = [Ten]);\n",
        plugin(edit)
    )
}
