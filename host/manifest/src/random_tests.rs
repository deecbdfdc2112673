//! Random manifests and strings: a written manifest is parsed as an equal one, and nothing panics.

use std::path::Path;

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(text, Path::new("plugin.json"))
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec((".{0,6}", inner), 0..4)
                .prop_map(|pairs| serde_json::Value::Object(pairs.into_iter().collect())),
        ]
    })
}

prop_compose! {
    fn manifests()(
        name in "[a-z][a-z0-9-]{0,20}",
        version in "[0-9]\\.[0-9]\\.[0-9](-rc\\.[1-9])?(\\+[a-z]{1,4})?",
        description in prop::option::of(".{0,20}"),
        config in prop::collection::vec((".{0,6}", json_value()), 0..4),
        schema in prop::option::of(prop::collection::vec((".{0,6}", json_value()), 0..3)),
        permissions in prop::collection::vec("[a-z][a-z0-9._-]{4,9}|call:[a-z][a-z0-9-]{0,9}", 0..4),
        requires in prop::collection::vec(("[a-z][a-z0-9-]{21,30}", "[~^=]?[0-9](\\.[0-9]){0,2}"), 0..4),
        numbers in prop::array::uniform8(prop::option::of(1..=u32::MAX)),
        words in (any::<bool>(), any::<bool>(), any::<bool>()),
        sha256 in prop::option::of(any::<[u8; 32]>()),
    ) -> Manifest {
        let object = |pairs: Vec<_>| serde_json::Value::Object(pairs.into_iter().collect());
        let mut limits = Limits::default();
        for ((limit, _), number) in Limits::default().entries().into_iter().zip(numbers) {
            number.iter().for_each(|number| limits.set(limit, u64::from(*number)));
        }
        let mut manifest = Manifest::new(&name, &version).unwrap();
        manifest = manifest.with_config(object(config)).unwrap().with_limits(limits).unwrap();
        manifest.description = description;
        for permission in permissions {
            manifest = manifest.with_permission(&permission).unwrap();
        }
        for (required, accepted) in requires {
            manifest = manifest.with_requirement(&required, &accepted).unwrap();
        }
        if let Some(schema) = schema {
            manifest = manifest.with_config_schema(object(schema.clone())).unwrap();
            manifest = manifest.with_input_schema(object(schema)).unwrap();
        }
        if words.0 {
            manifest.kind = Kind::Process;
            manifest.command = vec!["serve".to_owned(), manifest.name.to_string()];
            manifest.socket_type = if words.2 { SocketType::Tcp } else { SocketType::Unix };
        }
        if words.1 {
            manifest = manifest.with_isolation(Isolation::Process);
        }
        manifest.handover = if words.1 { Handover::Pause } else { Handover::Overlap };
        manifest.unload = if words.2 { Unload::Keep } else { Unload::Auto };
        manifest.sha256 = sha256.map(Digest::new);
        manifest.length = sha256.map(|bytes| u64::from(bytes[0]));
        manifest
    }
}

proptest! {
    #[test]
    fn written_manifest_is_parsed_as_equal(manifest in manifests()) {
        let text = format!("{:#}", manifest.to_json());
        prop_assert_eq!(parse(&text), Ok(manifest.clone()));
        prop_assert!(Checker::new(&json_schema(), None).unwrap().check(&manifest.to_json(), None).is_ok());
        let digest = Digest::new([7; 32]);
        let sealed = parse(&Manifest::seal_text(&text, &digest, 9).unwrap());
        let expect = Manifest { sha256: Some(digest), length: Some(9), ..manifest };
        prop_assert_eq!(sealed, Ok(expect));
    }

    #[test]
    fn parser_never_panics_on_random_text(text in "\\PC{0,60}|[\\[\\]{}\",:/*'a\\\\u0-9.e+ \n\u{feff}-]{0,60}") {
        let _ = parse(&text);
        let _ = position_of(&text, "/a/0");
        let _ = Manifest::seal_text(&text, &Digest::new([0; 32]), 1);
    }

    #[test]
    fn parser_never_panics_on_damaged_manifest(
        manifest in manifests(), cut in any::<prop::sample::Index>(), put in "[\\[\\]{}\",:\\\\0é-]{0,3}",
    ) {
        let mut text: Vec<char> = manifest.to_json().to_string().chars().collect();
        let at = cut.index(text.len());
        text.splice(at..(at + 1), put.chars());
        let text: String = text.into_iter().collect();
        let _ = parse(&text);
        let _ = Manifest::seal_text(&text, &Digest::new([0; 32]), 1);
    }
}
