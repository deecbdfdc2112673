//! The Rust code of the guide and of the README, as documentation tests: a module for each chapter
//! with Rust code. A test of `hotbay-tests` fails if a chapter is missing.

macro_rules! chapters {
    ($($name:ident: $path:literal;)*) => {
        $(
            // Some chapters show what needs Unix, such as programs.
            #[cfg(unix)]
            #[doc = include_str!(concat!("../../../", $path))]
            pub mod $name {}
        )*
    };
}

chapters! {
    readme: "README.md";
    applications: "docs/src/applications.md";
    async_plugins: "docs/src/async.md";
    checklist: "docs/src/checklist.md";
    contracts: "docs/src/contracts.md";
    errors: "docs/src/errors.md";
    getting_started: "docs/src/getting-started.md";
    moving: "docs/src/moving.md";
    plugins: "docs/src/plugins.md";
    processes: "docs/src/processes.md";
    state: "docs/src/state.md";
    testing: "docs/src/testing.md";
}
