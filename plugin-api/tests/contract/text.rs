//! The text of contracts: any text is parsed or rejected, and what is valid is printed as the same
//! contract.

use hotbay_plugin::contract::{Binding, ContractText, Impact, bind, compare};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::string::string_regex;

fn name() -> impl Strategy<Value = String> {
    string_regex("[a-z][a-z0-9_]{0,6}").expect("a pattern")
}

/// Names that differ: duplicates are invalid.
fn numbered(names: Vec<String>) -> impl Iterator<Item = String> {
    names.into_iter().enumerate().map(|(at, name)| format!("{name}_{at}"))
}

fn join(parts: impl IntoIterator<Item = String>) -> String {
    parts.into_iter().collect::<Vec<_>>().join(", ")
}

/// The text of a type.
fn shape() -> impl Strategy<Value = String> {
    let scalars =
        ["u8", "i16", "u32", "i64", "f32", "f64", "bool", "char", "string", "json", "unit"];
    let scalar = prop::sample::select(scalars.to_vec()).prop_map(str::to_owned);
    scalar.prop_recursive(4, 24, 3, |part| {
        let parts = vec(part.clone(), 1..4);
        let fields = vec((name(), part.clone(), any::<bool>()), 1..4).prop_map(|fields| {
            let (names, fields): (Vec<_>, Vec<_>) =
                fields.into_iter().map(|(name, part, default)| (name, (part, default))).unzip();
            let field = |(name, (part, has_default)): (String, (String, bool))| {
                format!("{name}: {part}{}", if has_default { " = default" } else { "" })
            };
            format!(" {{ {} }}", join(numbered(names).zip(fields).map(field)))
        });
        let unnamed = parts.clone().prop_map(|parts| format!("({})", join(parts)));
        let fields = prop_oneof![fields, unnamed.clone()];
        let variants = vec((name(), option::of(fields.clone())), 1..4).prop_map(|variants| {
            let (names, fields): (Vec<_>, Vec<_>) = variants.into_iter().unzip();
            let variants = numbered(names).zip(fields);
            join(variants.map(|(name, fields)| name + &fields.unwrap_or_default()))
        });
        prop_oneof![
            part.clone().prop_map(|part| format!("[{part}]")),
            part.clone().prop_map(|part| format!("set<{part}>")),
            part.clone().prop_map(|part| format!("{part}?")),
            (part.clone(), part).prop_map(|(key, value)| format!("map<{key}, {value}>")),
            unnamed,
            (any::<bool>(), name(), fields).prop_map(|(is_plain, name, fields)| {
                format!("{}{name}{fields}", if is_plain { "plain " } else { "" })
            }),
            (name(), variants).prop_map(|(name, variants)| format!("enum {name} {{ {variants} }}")),
        ]
    })
}

prop_compose! {
    /// A method, without the numbers that make names differ.
    fn method()(
        since in option::of((0_u32..4, 0_u32..4)),
        permission in option::of("[!-~]{1,8}"),
        has_default in any::<bool>(),
        kind in prop::sample::select(vec!["fn", "async fn", "stream fn"]),
        name in name(),
        arguments in vec((name(), shape()), 0..4),
        output in shape(),
    ) -> (String, String, String) {
        let mut attributes = String::new();
        if let Some((major, minor)) = since {
            attributes += &format!("#since {major}.{minor} ");
        }
        if let Some(permission) = permission {
            attributes += &format!("#permission {permission} ");
        }
        if has_default {
            attributes += "#default ";
        }
        let (names, shapes): (Vec<_>, Vec<_>) = arguments.into_iter().unzip();
        let arguments = numbered(names).zip(shapes).map(|(name, shape)| format!("{name}: {shape}"));
        (format!("{attributes}{kind} "), name, format!("({}) -> {output}", join(arguments)))
    }
}

prop_compose! {
    /// The text of a contract.
    fn contract()(
        name in "[a-z][a-z0-9._-]{0,8}",
        version in (0_u32..4, 0_u32..4),
        methods in vec(method(), 0..6),
    ) -> String {
        let mut text = format!("contract {name} {}.{}\n", version.0, version.1);
        for (at, (before, name, after)) in methods.into_iter().enumerate() {
            text += &format!("{before}{name}_{at}{after}\n");
        }
        text
    }
}

/// Parts of the text in any order, which reach more of the parser than any characters.
fn pieces() -> impl Strategy<Value = String> {
    let pieces = [
        "contract ",
        "a",
        " 1.0",
        "\n",
        "fn ",
        "async fn ",
        "(",
        ")",
        ": ",
        "u8",
        " -> ",
        "[",
        "]",
        "?",
        "set<",
        "map<",
        ">",
        ", ",
        "enum ",
        "plain ",
        "{",
        "}",
        "= default",
        "#since 1.1 ",
        "#permission p ",
        "#default ",
        "//",
        "é",
        "\u{2003}",
        "\r",
        "\0",
        "\t",
    ];
    vec(prop::sample::select(pieces.to_vec()), 0..200).prop_map(|pieces| pieces.concat())
}

fn check_printed(text: &str) {
    let Ok(contracts) = ContractText::parse(text) else { return };
    let printed: String = contracts.iter().map(ToString::to_string).collect();
    assert_eq!(ContractText::parse(&printed).as_ref(), Ok(&contracts), "{printed}");
    for contract in &contracts {
        let expected: Vec<_> = (0..contract.methods.len()).map(Binding::Same).collect();
        assert_eq!(bind(contract, contract).as_ref(), Ok(&expected));
        let changes = compare(contract, contract);
        assert!(changes.methods.is_empty() && changes.are_allowed());
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_rejected(text in any::<String>()) {
        check_printed(&text);
    }

    #[test]
    fn any_order_of_pieces_is_parsed_or_rejected(text in pieces()) {
        check_printed(&text);
    }

    #[test]
    fn any_bytes_are_parsed_or_rejected(mut bytes in vec(any::<u8>(), 0..200), has_start in any::<bool>()) {
        if has_start {
            bytes.splice(0..0, *b"HOTBAY-CONTRACTS 1\n");
        }
        let _ = ContractText::parse_exported(&bytes);
    }

    #[test]
    fn contract_of_any_shape_is_printed_as_it_was(text in contract()) {
        let contracts = ContractText::parse(&text).expect("valid");
        prop_assert_eq!(contracts.len(), 1);
        prop_assert_eq!(contracts[0].to_string(), text.clone());
        check_printed(&text);
    }

    #[test]
    fn comparison_agrees_with_both_bindings(old in contract(), new in contract()) {
        let (old, new) = (ContractText::parse(&old).expect("valid"), ContractText::parse(&new).expect("valid"));
        let (mut old, new) = (old[0].clone(), new[0].clone());
        old.version.major = new.version.major;
        let is_bound = bind(&new, &old).is_ok() && bind(&old, &new).is_ok();
        let changes = compare(&old, &new);
        prop_assert_eq!(changes.impact() < Impact::Breaking, is_bound);
        prop_assert_eq!(changes.are_allowed(), is_bound);
        prop_assert!(is_bound || changes.methods.iter().any(|change| !change.reasons.is_empty()));
    }
}

#[test]
fn hostile_text_is_parsed_in_bounded_time() {
    let limit = 64 * 1024;
    let long = |piece: &str| piece.repeat(limit / piece.len() - 1);
    let signature = |shape: String| format!("contract a 1.0\nfn f() -> {shape}");
    let many = (0..4_000).map(|at| format!("fn f{at}()->u\n")).collect::<String>();
    let fields = (0..8_000).map(|at| format!("f{at}:u,")).collect::<String>();
    let texts = [
        signature(long("[")[..60_000].to_owned()),
        signature(long("?")[..60_000].to_owned()),
        signature(long("map<")[..60_000].to_owned()),
        signature(long("enum e {")[..60_000].to_owned()),
        signature(format!(
            "A {{ {} }}",
            fields[..60_000].trim_end_matches(|char| char != ',').trim_end_matches(',')
        )),
        format!(
            "contract a 1.0\n{}",
            &many[..many.len().min(65_000)].trim_end_matches(|char| char != '\n')
        ),
        long("\n"),
        long("contract a 1.0 "),
        long("é"),
    ];
    let start = std::time::Instant::now();
    for text in &texts {
        assert!(text.len() <= limit, "{}", text.len());
        check_printed(text);
    }
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    assert!(ContractText::parse(&"\n".repeat(limit + 1)).is_err());
}
