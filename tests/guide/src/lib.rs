//! The Rust code of the guide and of the README, as documentation tests: a module for each chapter
//! with Rust code. A test of `hotbay-tests` fails if a chapter is missing.

macro_rules! chapters {
    ($($name:ident: $path:literal;)*) => {
        $(
            #[doc = include_str!(concat!("../../../", $path))]
            pub mod $name {}
        )*
    };
}

chapters! {
    errors: "docs/src/errors.md";
    getting_started: "docs/src/getting-started.md";
}
