//! The step that calls the methods of the program's contracts: with arguments made from their types,
//! and with invalid ones.

use std::time::{Duration, Instant};

use hotbay_manifest::Checker;
use hotbay_plugin::contract::internal::MethodKind;
use hotbay_plugin::contract::{FieldTypes, MethodText, Type};
use hotbay_process::unsupervised::HttpResponse;
use hotbay_process::{ErrorParts, Failure, ServedContract, method_endpoint};
use hyper::StatusCode;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::kit::{ParsedReply, RESPONSE_TIMEOUT, RawRequest, Sample, TestKit, parse_reply, shown};
use crate::raw_requests::is_refusal;
use crate::report::{Outcome, StepFailure, failed, skipped};

/// Deadline of each call: some methods wait until they are cancelled.
const DEADLINE: Duration = Duration::from_secs(2);

/// Number of items of a stream that are checked.
const MAX_ITEMS: usize = 16;

/// The name of a method that no contract has.
const UNKNOWN: &str = "hotbay-check";

pub(crate) async fn contracts(kit: &TestKit) -> Outcome {
    let contracts = &kit.ours()?.contracts;
    if contracts.is_empty() {
        return skipped("the capabilities contain no `contracts`");
    }
    let mut found = Vec::new();
    for contract in contracts {
        found.push(check(kit, contract).await?);
    }
    Ok(found.join("; "))
}

/// Checks one contract; returns what was found.
async fn check(kit: &TestKit, contract: &ServedContract) -> Result<String, StepFailure> {
    let text = &contract.text;
    let mut errors = 0;
    for method in &text.methods {
        let endpoint = method_endpoint(&text.name, &method.name);
        check_rejection(kit, &endpoint, &json!(7)).await?;
        if let Some(arguments) = invalid_arguments(method) {
            check_rejection(kit, &endpoint, &arguments).await?;
        }
        // It may change something that needs a permission.
        if method.permission.is_none() {
            let has_failed = match method.kind {
                MethodKind::Stream => read(kit, &endpoint, method).await?,
                MethodKind::Sync | MethodKind::Async => call(kit, &endpoint, method).await?,
            };
            errors += usize::from(has_failed);
        }
    }
    let endpoint = method_endpoint(&text.name, UNKNOWN);
    let response = send(kit, &endpoint, &json!({})).await?;
    if !is_refusal(&response, StatusCode::NOT_FOUND) {
        return failed(format!(
            "`POST /{endpoint}`, an unknown method, returned {}; expected 404 with \
             {{\"message\":\"…\",\"statusCode\":404}}",
            describe(&response)
        ));
    }
    let (name, version, count) = (&text.name, text.version, text.methods.len());
    Ok(format!("`{name}` {version}: {count} methods answered, {errors} of them with an error"))
}

async fn send(
    kit: &TestKit,
    endpoint: &str,
    arguments: &Value,
) -> Result<HttpResponse, StepFailure> {
    let mut request = RawRequest::post(endpoint, Sample::json(arguments.to_string()));
    request.deadline = Some(Instant::now() + DEADLINE);
    kit.send(request).await
}

/// Calls a method with arguments of its types; returns whether it returned an error.
async fn call(kit: &TestKit, endpoint: &str, method: &MethodText) -> Result<bool, StepFailure> {
    let arguments = object(method.arguments.iter().map(|(name, found)| (name, found)));
    let response = send(kit, endpoint, &arguments).await?;
    let context = |problem: String| format!("`POST /{endpoint}` with {arguments}: {problem}");
    match parse_reply(&response).map_err(context)? {
        ParsedReply::Error { status: 400 | 404 | 405 | 412 | 415, .. } => {
            let found = describe(&response);
            failed(context(format!("it returned {found}; expected a result, or an error with 422")))
        }
        ParsedReply::Error { .. } => Ok(true),
        ParsedReply::Output => {
            let content_type = response.content_type();
            if content_type.split(';').next().map(str::trim) != Some("application/json") {
                let expected = "expected `application/json`";
                return failed(context(format!("its type is `{content_type}`; {expected}")));
            }
            check_result(method, &response.body).map_err(context)?;
            Ok(false)
        }
    }
}

/// Opens a stream with arguments of its types, and reads its first items; returns whether it, or the
/// method, failed.
async fn read(kit: &TestKit, endpoint: &str, method: &MethodText) -> Result<bool, StepFailure> {
    let arguments = object(method.arguments.iter().map(|(name, found)| (name, found)));
    let context = |problem: String| format!("`POST /{endpoint}` with {arguments}: {problem}");
    let mut request = RawRequest::post(endpoint, Sample::json(arguments.to_string()));
    request.deadline = Some(Instant::now() + DEADLINE);
    let client = kit.live()?.client();
    let opened = timeout(RESPONSE_TIMEOUT, client.open_stream(&request.into_http())).await;
    let Ok(opened) = opened else {
        let waited = RESPONSE_TIMEOUT.as_secs();
        return failed(context(format!("no response within {waited} s")));
    };
    let mut next = match opened {
        Ok(lines) => lines,
        Err(failure) => return is_own(failure, context),
    };
    for _ in 0..MAX_ITEMS {
        match timeout(DEADLINE, next.next()).await {
            // A stream may wait for something, or have no end.
            Err(_) | Ok(Ok(None)) => return Ok(false),
            Ok(Ok(Some(item))) => check_result(method, &item).map_err(context)?,
            Ok(Err(failure)) => return is_own(failure, context),
        }
    }
    Ok(false)
}

/// Returns `true` for a failure of the plugin itself.
fn is_own(failure: Failure, context: impl Fn(String) -> String) -> Result<bool, StepFailure> {
    let Failure::Other(error) = failure else { return Ok(true) };
    let ErrorParts { message, cause, .. } = error.into_parts();
    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    failed(context(format!("it {message}{cause}")))
}

/// Checks a result against the schema of its type.
fn check_result(method: &MethodText, body: &[u8]) -> Result<(), String> {
    let expected = || format!("expected a result of the type `{}`", method.output);
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| format!("{} is not JSON: {error}; {}", shown(body), expected()))?;
    let checker = Checker::new(&method.output_schema(), None).map_err(|error| error.to_string())?;
    checker.check(&value, None).map_err(|error| format!("{}: {error}; {}", shown(body), expected()))
}

/// Checks that a method rejects arguments before it runs.
async fn check_rejection(
    kit: &TestKit,
    endpoint: &str,
    arguments: &Value,
) -> Result<(), StepFailure> {
    let response = send(kit, endpoint, arguments).await?;
    if is_refusal(&response, StatusCode::BAD_REQUEST) {
        return Ok(());
    }
    failed(format!(
        "`POST /{endpoint}` with the invalid arguments {arguments} returned {}; expected 400 with \
         {{\"message\":\"…\",\"statusCode\":400}}",
        describe(&response)
    ))
}

fn describe(response: &HttpResponse) -> String {
    format!("{} with {}", response.status.as_u16(), shown(&response.body))
}

/// Returns arguments of which the first that can be invalid is; `None` if all values are valid.
fn invalid_arguments(method: &MethodText) -> Option<Value> {
    let mut arguments = object(method.arguments.iter().map(|(name, found)| (name, found)));
    let mut all = method.arguments.iter();
    let (name, invalid) = all.find_map(|(name, found)| Some((name, invalid(found)?)))?;
    arguments[name] = invalid;
    Some(arguments)
}

/// Returns a value that is not of a type; `None` if there is none.
fn invalid(of: &Type) -> Option<Value> {
    match of {
        Type::Scalar(name) if name == "json" => None,
        Type::Scalar(name) if matches!(name.as_str(), "string" | "char") => Some(json!(7)),
        Type::Optional(inner) => invalid(inner),
        Type::Struct(_, FieldTypes::Unnamed(parts)) if parts.len() == 1 => invalid(&parts[0]),
        Type::Enum(..) => Some(json!(7)),
        _ => Some(json!("text")),
    }
}

/// Returns a value of a type.
fn example(of: &Type) -> Value {
    match of {
        Type::Scalar(name) => match name.as_str() {
            "unit" => Value::Null,
            "bool" => json!(true),
            "char" | "string" => json!("a"),
            "f32" | "f64" => json!(1.5),
            "json" => json!({}),
            _ => json!(1),
        },
        Type::List(item) | Type::Set(item) => json!([example(item)]),
        Type::Optional(inner) => example(inner),
        Type::Map(key, value) => {
            let key = match example(key) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            Value::Object(Map::from_iter([(key, example(value))]))
        }
        Type::Tuple(parts) => parts.iter().map(example).collect(),
        Type::Struct(_, fields) => example_of_fields(fields),
        Type::Enum(_, variants) => match variants.first() {
            Some((name, FieldTypes::Unit)) => json!(name),
            Some((name, fields)) => {
                Value::Object(Map::from_iter([(name.clone(), example_of_fields(fields))]))
            }
            None => Value::Null,
        },
    }
}

fn example_of_fields(fields: &FieldTypes) -> Value {
    match fields {
        FieldTypes::Unit => Value::Null,
        FieldTypes::Unnamed(parts) if parts.len() == 1 => example(&parts[0]),
        FieldTypes::Unnamed(parts) => parts.iter().map(example).collect(),
        FieldTypes::Named(fields) => object(fields.iter().map(|(name, found, _)| (name, found))),
    }
}

fn object<'t>(fields: impl Iterator<Item = (&'t String, &'t Type)>) -> Value {
    Value::Object(fields.map(|(name, found)| (name.clone(), example(found))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotbay_plugin::contract::ContractText;

    #[test]
    fn examples_match_the_schemas_of_their_types_and_invalid_values_do_not() {
        for of in [
            "unit",
            "bool",
            "char",
            "u8",
            "i64",
            "f32",
            "string",
            "json",
            "[u8]",
            "set<string>",
            "bool?",
            "map<string, [i8]>",
            "map<u8, bool>",
            "(u8, string)",
            "plain P { x: f64 }",
            "Meters(f64)",
            "N { a: string, b: u8? = default }",
            "enum E { A, B(u8) }",
            "enum E { A(u8, u8) }",
            "enum E { A { a: u8 } }",
        ] {
            let text = format!("contract a 1.0\nfn f(value: {of}) -> {of}");
            let method = ContractText::parse(&text).unwrap().remove(0).methods.remove(0);
            let (_, found) = &method.arguments[0];
            let value = example(found).to_string();
            assert_eq!(check_result(&method, value.as_bytes()), Ok(()), "{of}");
            let invalid =
                invalid_arguments(&method).map(|arguments| arguments["value"].to_string());
            let is_rejected =
                invalid.is_some_and(|value| check_result(&method, value.as_bytes()).is_err());
            assert_eq!(is_rejected, of != "json", "{of}");
        }
    }
}
