//! Schemas and values whose checks would take forever or need unlimited memory, and valid ones for
//! comparison.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::Checker;
use super::check_once;
use crate::schema_error::{Exceeded, SchemaError};

fn nested(levels: usize, inner: Value, wrap: impl Fn(Value) -> Value) -> Value {
    (0..levels).fold(inner, |inner, _| wrap(inner))
}

/// Returns a schema in which `d0` refers to `d1`, as `link` makes it, and so on.
fn chain(length: usize, link: impl Fn(Value) -> Value, last: Value) -> Value {
    let target = |i: usize| json!({ "$ref": format!("#/$defs/d{}", i + 1) });
    let mut links: Map<_, _> = (0..length).map(|i| (format!("d{i}"), link(target(i)))).collect();
    links.insert(format!("d{length}"), last);
    json!({ "$ref": "#/$defs/d0", "$defs": links })
}

fn is_exceeded(result: Result<(), SchemaError>) -> bool {
    matches!(result, Err(SchemaError::Exceeded(_)))
}

#[test]
fn doubled_references_exceed_the_budget() {
    for keyword in ["allOf", "anyOf", "oneOf"] {
        for last in [json!({ "type": "object" }), json!({}), json!(true), json!(false)] {
            let schema = chain(40, |to| json!({ keyword: [to, to] }), last);
            assert!(is_exceeded(check_once(&schema, &json!({}))), "{schema}");
        }
    }
    let schema = chain(40, |to| json!({ "if": to, "then": to, "else": to }), json!(true));
    assert!(is_exceeded(check_once(&schema, &json!({}))));
    let schema = chain(40, |to| json!({ "not": to, "allOf": [{ "not": to }] }), json!(true));
    assert!(is_exceeded(check_once(&schema, &json!({}))));
    let schema = chain(40, |to| json!({ "dependentSchemas": { "a": to, "b": to } }), json!(true));
    assert!(is_exceeded(check_once(&schema, &json!({ "a": 1, "b": 1 }))));
    let both = |to| json!({ "allOf": [to, to], "unevaluatedProperties": false });
    assert!(is_exceeded(check_once(&chain(13, both, json!({})), &json!({}))));
    let message = check_once(&schema, &json!({})).unwrap_err().to_string();
    assert_eq!(
        message,
        "the check would exceed its budget of 10000 evaluations of subschemas at one location of the \
         value: the references of the schema multiply"
    );
}

#[test]
fn references_in_large_cycle_exceed_budget() {
    let clique: Map<_, _> = (0..14)
        .map(|i| {
            let others = (0..14).filter(|j| *j != i);
            let others = others.map(|j| json!({ "$ref": format!("#/$defs/d{j}") }));
            (format!("d{i}"), json!({ "anyOf": others.collect::<Vec<_>>() }))
        })
        .collect();
    let schema = json!({ "$ref": "#/$defs/d0", "$defs": clique });
    assert!(is_exceeded(check_once(&schema, &json!({}))));
}

#[test]
fn named_references_count_like_pointers() {
    let named = |to: &dyn Fn(usize) -> String, name: &dyn Fn(usize) -> Value| {
        let mut links = Map::new();
        for i in 0..40 {
            let mut link = name(i);
            let target = json!({ "$ref": to(i + 1) });
            link["anyOf"] = json!([target, target]);
            links.insert(format!("d{i}"), link);
        }
        links.insert("d40".to_owned(), name(40));
        json!({ "$id": "https://example.com/root", "$ref": to(0), "$defs": links })
    };
    let schema = named(&|i| format!("#d{i}"), &|i| json!({ "$anchor": format!("d{i}") }));
    assert!(is_exceeded(check_once(&schema, &json!({}))));
    let schema = named(&|i| format!("d{i}"), &|i| json!({ "$id": format!("d{i}") }));
    assert!(is_exceeded(check_once(&schema, &json!({}))));
    let schema =
        named(&|i| format!("#/%24defs/d{i}"), &|_| json!({ "description": "percent-encoded" }));
    assert!(is_exceeded(check_once(&schema, &json!({}))));
}

/// The library compiles each subschema again for each list of resources that leads to it.
#[test]
fn many_paths_between_resources_exceed_budget() {
    let schema = |count: usize, more: Value| {
        let id = |i: usize| format!("https://example.com/{i}");
        let resource = |i: usize| {
            let (one, other) = (json!({ "$ref": id(i + 1) }), json!({ "$ref": id(i + 2) }));
            let mut resource = json!({ "$id": id(i), "properties": { "a": one, "b": other } });
            resource.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            (format!("d{i}"), resource)
        };
        let last = |i: usize| (format!("d{i}"), json!({ "$id": id(i), "type": "integer" }));
        let resources = (0..count).map(resource).chain([last(count), last(count + 1)]);
        let draft = if more.get("$recursiveAnchor").is_some() { "2019-09" } else { "2020-12" };
        json!({
            "$schema": format!("https://json-schema.org/draft/{draft}/schema"),
            "$ref": id(0),
            "$defs": resources.collect::<Map<_, _>>(),
        })
    };
    let dynamic = json!({ "$dynamicAnchor": "n", "items": { "$dynamicRef": "#n" } });
    let recursive = json!({ "$recursiveAnchor": true, "items": { "$recursiveRef": "#" } });
    for more in [json!({}), dynamic, recursive] {
        let many = check_once(&schema(40, more.clone()), &json!({}));
        assert!(is_exceeded(many), "{more}");
        let few = schema(5, more);
        assert_eq!(check_once(&few, &json!({ "a": { "b": {} } })), Ok(()), "{few}");
    }
}

/// Values that double the work at each level.
#[test]
fn recursive_alternatives_end_with_a_result() {
    let deep = |inner| nested(60, inner, |inner| json!({ "a": inner }));
    let a = |to: &str| json!({ "properties": { "a": { to: "#n" } }, "required": ["a"] });
    for to in ["$ref", "$dynamicRef"] {
        for keyword in ["anyOf", "oneOf", "allOf"] {
            for more in [json!({}), json!({ "unevaluatedProperties": false })] {
                let mut schema = json!({
                    "$dynamicAnchor": "n",
                    keyword: [{ "type": "string" }, a(to), a(to)],
                });
                schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                for last in [json!(7), json!("x"), json!({ "z": 1 })] {
                    // Any result is fine: it ends.
                    let _ = check_once(&schema, &deep(last));
                }
            }
        }
    }
    let list = json!({
        "$dynamicAnchor": "n",
        "anyOf": [{ "prefixItems": [{ "$dynamicRef": "#n" }] }, { "items": { "$dynamicRef": "#n" } }],
        "unevaluatedItems": false,
    });
    let _ = check_once(&list, &nested(60, json!([1, 2]), |inner| json!([inner, 1])));
}

#[test]
fn dynamic_reference_error_contains_the_budget() {
    let alternative = json!({ "properties": { "a": { "$dynamicRef": "#n" } } });
    let schema = json!({
        "$defs": { "x": {
            "$dynamicAnchor": "n",
            "anyOf": [alternative, alternative],
            "unevaluatedProperties": false,
        } },
        "$ref": "#/$defs/x",
    });
    let value = nested(41, json!({ "z": 1 }), |inner| json!({ "a": inner }));
    let result = check_once(&schema, &value).unwrap_err().to_string();
    assert!(result.contains("exceeded its budget of 2000000 steps"), "{result}");
}

#[test]
fn check_after_its_deadline_fails() {
    let schema = json!({ "items": { "items": { "type": "integer" } } });
    let checker = Checker::new(&schema, None).unwrap();
    let value = json!(vec![vec![1; 1000]; 10]);
    assert!(checker.check(&value, None).is_ok());
    let past = Instant::now() - Duration::from_millis(1);
    let result = checker.check(&value, Some(past));
    assert_eq!(result, Err(SchemaError::Exceeded(Exceeded::Deadline)));
    assert!(matches!(
        Checker::new(&schema, Some(past)),
        Err(SchemaError::Exceeded(Exceeded::Deadline))
    ));
}

#[test]
fn backtracking_patterns_are_bounded_by_budget() {
    let schema = json!({ "items": { "anyOf": [{ "pattern": "^(a|aa|(?=a)a)+$" }, {}] } });
    let texts: Vec<_> = (0..20_000).map(|i| "a".repeat(200 + i % 50) + "b").collect();
    assert!(is_exceeded(check_once(&schema, &json!(texts))));
    // This one is matched without backtracking.
    let schema = json!({ "items": { "pattern": "^(a+)+$" } });
    let texts: Vec<_> = (0..2_000).map(|_| "a".repeat(200) + "b").collect();
    assert!(matches!(check_once(&schema, &json!(texts)), Err(SchemaError::Value(_))));
    let many: Map<_, _> = (0..5_000).map(|i| (format!("^a{i}$"), json!(true))).collect();
    let result = check_once(&json!({ "patternProperties": many }), &json!({})).unwrap_err();
    assert!(result.to_string().contains("5000 patterns; the limit is 4096"), "{result}");
    let result = check_once(&json!({ "pattern": "((\\w{100}){100}){100}" }), &json!("a"));
    assert!(matches!(result, Err(SchemaError::Schema(_))), "{result:?}");
}

#[test]
fn large_valid_values_pass() {
    let tree = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "minLength": 1 },
            "children": { "type": "array", "items": { "$ref": "#" }, "uniqueItems": true },
        },
        "required": ["name"],
        "additionalProperties": false,
    });
    let mut count = 0;
    let mut node = |children: Vec<Value>| {
        count += 1;
        json!({ "name": format!("node {count}"), "children": children })
    };
    let leaves: Vec<_> = (0..100).map(|_| (0..100).map(|_| node(vec![])).collect()).collect();
    let branches: Vec<_> = leaves.into_iter().map(&mut node).collect();
    let root = node(branches);
    assert!(count > 10_000);
    assert_eq!(check_once(&tree, &root), Ok(()));
    let mut wrong = root;
    wrong["children"][99]["children"][99]["name"] = json!("");
    assert_eq!(
        check_once(&tree, &wrong).unwrap_err().to_string(),
        "`/children/99/children/99/name`: \"\" is shorter than 1 character"
    );
    let distinct: Vec<_> = (0..50_000).map(|i| json!({ "id": i })).collect();
    assert_eq!(check_once(&json!({ "uniqueItems": true }), &json!(distinct)), Ok(()));
    let words: Vec<_> = (0..1_000).map(|i| format!("word {i}")).collect();
    let enumerated = json!({ "items": { "enum": words } });
    assert_eq!(check_once(&enumerated, &json!(vec!["word 999"; 5_000])), Ok(()));
    let alternatives: Vec<_> =
        (0..1_000).map(|i| json!({ "required": [format!("k{i}")] })).collect();
    assert_eq!(check_once(&json!({ "anyOf": alternatives }), &json!({ "k999": 1 })), Ok(()));
}

#[test]
fn wide_alternatives_for_many_values_exceed_the_budget() {
    let alternatives: Vec<_> = (0..5_000).map(|i| json!({ "minimum": i, "maximum": i })).collect();
    let schema = json!({ "items": { "anyOf": alternatives } });
    assert!(is_exceeded(check_once(&schema, &json!(vec![4_999; 20_000]))));
}

/// Errors repeat parts of the schema and of the value; all are found before the first is reported.
#[test]
fn repeated_parts_in_errors_are_bounded() {
    let long = "k".repeat(200_000);
    let schema = json!({ "additionalProperties": { "items": { "not": { "const": long } } } });
    let checker = Checker::new(&schema, None).unwrap();
    let value = json!({ &long: vec![&long; 1] });
    assert!(matches!(checker.check(&value, None), Err(SchemaError::Value(_))));
    let schema = json!({ "additionalProperties": { "items": { "type": "integer" } } });
    let value = json!({ &long: vec!["wrong"; 20_000] });
    let result = check_once(&schema, &value).unwrap_err().to_string();
    assert!(result.contains("exceeded its budget of 2000000 steps"), "{result}");
}

fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({})),
        Just(json!(true)),
        Just(json!(false)),
        Just(json!({ "type": "string", "minLength": 2 })),
        Just(json!({ "type": ["integer", "null"], "minimum": 1 })),
        Just(json!({ "const": { "a": 1 } })),
        Just(json!({ "enum": [1, "ab", [], null] })),
        Just(json!({ "pattern": "^a+b?$" })),
        Just(json!({ "$ref": "#" })),
        Just(json!({ "$ref": "#/$defs/d" })),
        Just(json!({ "$dynamicRef": "#d" })),
        Just(json!({ "uniqueItems": true, "maxItems": 2 })),
        Just(json!({ "required": ["a"], "maxProperties": 2 })),
        Just(json!({ "propertyNames": { "maxLength": 1 } })),
    ];
    leaf.prop_recursive(3, 24, 3, |inner| {
        let list = prop::collection::vec(inner.clone(), 1..3);
        prop_oneof![
            list.clone().prop_map(|list| json!({ "allOf": list })),
            list.clone().prop_map(|list| json!({ "anyOf": list })),
            list.clone().prop_map(|list| json!({ "oneOf": list, "unevaluatedProperties": false })),
            list.prop_map(
                |list| json!({ "prefixItems": list, "unevaluatedItems": { "type": "null" } })
            ),
            inner.clone().prop_map(|one| json!({ "not": one })),
            inner.clone().prop_map(|one| json!({ "items": one, "type": "array" })),
            inner.clone().prop_map(|one| json!({ "contains": one, "maxContains": 1 })),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| {
                json!({ "properties": { "a": a }, "patternProperties": { "^b": b } })
            }),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| json!({ "if": a, "then": b, "else": c })),
            (inner.clone(), inner).prop_map(|(a, b)| {
                json!({ "properties": { "a": a }, "additionalProperties": b })
            }),
        ]
    })
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        Just(json!(true)),
        (-1..3_i64).prop_map(Value::from),
        Just(json!(1.0)),
        "[ab]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        let members = prop::collection::btree_map("[abc]{1,2}", inner.clone(), 0..3);
        prop_oneof![
            prop::collection::vec(inner, 0..3).prop_map(Value::from),
            members.prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    /// A budget that is not exceeded changes no result and no message.
    #[test]
    fn metered_check_matches_the_library(
        schema in schemas(),
        shared in schemas(),
        value in values(),
    ) {
        let mut whole = json!({ "allOf": [schema] });
        whole["$defs"] = json!({ "d": { "$dynamicAnchor": "d", "allOf": [shared] } });
        let plain = jsonschema::options().offline().build(&whole).unwrap();
        let metered = jsonschema::options_for::<super::metered::MeteredJson>().build(&whole).unwrap();
        let node = super::metered::Metered(&value);
        let budget = super::metered::Budget { steps: 1 << 40, deadline: None };
        let messages = super::metered::with_budget(budget, Default::default(), || {
            metered.iter_errors(node).map(|error| error.to_string()).collect::<Vec<_>>()
        });
        let expect: Vec<_> = plain.iter_errors(&value).map(|error| error.to_string()).collect();
        prop_assert_eq!(messages.unwrap(), expect);
        match check_once(&whole, &value) {
            Ok(()) => prop_assert!(plain.is_valid(&value)),
            Err(SchemaError::Value(_)) => prop_assert!(!plain.is_valid(&value)),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Combines all kinds of schemas: each check ends.
    #[test]
    fn any_schema_checks_a_deep_value_within_its_budget(
        definitions in prop::array::uniform3(schemas()),
        levels in 10..60_usize,
    ) {
        let [d, e, f] = definitions;
        let twice = json!([{ "$ref": "#/$defs/e" }, { "$ref": "#/$defs/f" }, d]);
        let schema = json!({
            "$ref": "#/$defs/d",
            "$defs": {
                "d": { "$dynamicAnchor": "d", "anyOf": twice, "unevaluatedProperties": false },
                "e": { "properties": { "a": { "$dynamicRef": "#d" } }, "anyOf": [e, { "$ref": "#" }] },
                "f": { "properties": { "a": { "$ref": "#/$defs/e" } }, "oneOf": [f, { "$ref": "#" }] },
            },
        });
        let value = nested(levels, json!({ "z": 1 }), |inner| json!({ "a": inner, "b": 1 }));
        let _ = check_once(&schema, &value);
    }
}
