//! The shapes, texts and proxies that the macros generate.

use std::collections::BTreeMap;

use hotbay_plugin::PluginError;
use hotbay_plugin::contract::internal::{
    ArgumentTypes, Method, decode_result, encode_arguments, is_repr_c,
};
use hotbay_plugin::contract::{
    CallError, CallErrorKind, Contract, ContractText, Format, Json, Proxy, Stream, Transport,
};

#[hotbay_plugin::data]
#[derive(Clone, Debug, PartialEq)]
struct Word {
    text: String,
    count: u64,
}

#[hotbay_plugin::data]
#[repr(C)]
#[derive(Debug, PartialEq)]
struct Point {
    x: f64,
    y: f64,
    is_set: bool,
}

#[hotbay_plugin::data]
#[derive(Debug, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Event {
    Started,
    WordFound(Word),
    #[serde(rename = "pair")]
    Two(u8, u8),
    Moved {
        to: Point,
        #[serde(default)]
        fast: bool,
    },
}

#[hotbay_plugin::data]
#[derive(Debug, PartialEq)]
struct Id(u64);

#[hotbay_plugin::data]
#[derive(Debug, PartialEq)]
struct Page<T> {
    items: Vec<T>,
    next: Option<Id>,
}

#[hotbay_plugin::contract(name = "everything", version = "2.3")]
trait Everything {
    /// No arguments.
    fn nothing(&self) -> Result<(), CallError>;
    fn numbers(&self, a: u8, b: i64, c: f32, d: bool, e: char) -> Result<f64, PluginError>;
    fn text(&self, a: &str, b: String, c: &[u8], d: &[Word]) -> Result<String, CallError>;
    fn borrowed(&self, a: &Word, b: Option<&str>, c: Option<&[f64]>)
    -> Result<Vec<f64>, CallError>;
    fn plain(&self, point: Point, points: &[Point]) -> Result<Option<Point>, CallError>;
    fn event(&self, event: Event, map: BTreeMap<String, Json>) -> Result<Page<Event>, CallError>;
    #[since("2.2")]
    #[permission]
    fn added(&self, r#type: (u8, String)) -> Result<u32, CallError>;
    #[since("2.3")]
    #[permission("write")]
    fn with_default(&self, n: u32) -> Result<u32, CallError> {
        Ok(self.numbers(1, 2, 3.0, true, 'x').map_err(CallError::from)? as u32 + n)
    }
}

const TEXT: &str = "\
contract everything 2.3
fn nothing() -> unit
fn numbers(a: u8, b: i64, c: f32, d: bool, e: char) -> f64
fn text(a: string, b: string, c: [u8], d: [Word { text: string, count: u64 }]) -> string
fn borrowed(a: Word { text: string, count: u64 }, b: string?, c: [f64]?) -> [f64]
fn plain(point: plain Point { x: f64, y: f64, is_set: bool }, points: [plain Point { x: f64, y: f64, is_set: bool }]) -> plain Point { x: f64, y: f64, is_set: bool }?
fn event(event: enum Event { started, word-found(Word { text: string, count: u64 }), pair(u8, u8), moved { to: plain Point { x: f64, y: f64, is_set: bool }, fast: bool = default } }, map: map<string, json>) -> Page { items: [enum Event { started, word-found(Word { text: string, count: u64 }), pair(u8, u8), moved { to: plain Point { x: f64, y: f64, is_set: bool }, fast: bool = default } }], next: Id(u64)? }
#since 2.2 #permission added fn added(type: (u8, string)) -> u32
#since 2.3 #permission write #default fn with_default(n: u32) -> u32
";

#[test]
fn contract_text_names_all_methods_and_shapes() {
    assert_eq!(<dyn Everything>::DESCRIPTION.text(), TEXT);
}

#[test]
fn contract_text_can_be_parsed() {
    let contracts = ContractText::parse(TEXT).expect("valid");
    let [contract] = contracts.as_slice() else { panic!("{contracts:?}") };
    assert_eq!(
        (contract.name.as_str(), contract.version.to_string().as_str()),
        ("everything", "2.3")
    );
    let methods = contract.methods.iter().zip(<dyn Everything>::DESCRIPTION.methods);
    assert_eq!(methods.clone().count(), 8);
    for (parsed, method) in methods {
        assert_eq!(parsed.name, method.name);
        assert_eq!(parsed.hash(), method.hash(), "{}", parsed.signature);
    }
    assert_eq!(contract.methods[6].permission.as_deref(), Some("added"));
}

/// A transport to a value in this test: serializes arguments and results.
struct Echo(Format, &'static [&'static str]);

impl Transport for Echo {
    fn call<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<M::Output, CallError> {
        let Some(answer) = self.1.iter().find_map(|answer| {
            answer.strip_prefix(M::SHAPE.name).and_then(|rest| rest.strip_prefix('='))
        }) else {
            return Err(CallError::new(CallErrorKind::NotProvided, "no such method"));
        };
        let sent = encode_arguments::<M>(self.0, arguments)?;
        if self.0 == Format::Json {
            let answer = answer.replace("$", &String::from_utf8_lossy(&sent));
            return decode_result::<M>(Format::Json, answer.as_bytes());
        }
        decode_result::<M>(Format::Json, answer.as_bytes())
    }

    async fn call_async<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<M::Output, CallError> {
        self.call::<C, M>(arguments)
    }

    fn call_stream<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<Stream<M::Output>, CallError> {
        self.call::<C, M>(arguments).map(|item| Stream::from_items([item]))
    }
}

fn proxy(answers: &'static [&'static str]) -> Proxy<dyn Everything, Echo> {
    Proxy::new(Echo(Format::Json, answers))
}

#[test]
fn proxy_sends_named_arguments() {
    let everything = Proxy::<dyn EchoJson, _>::new(Echo(Format::Json, &["echo=$"]));
    let Json(sent) = everything.echo("a\"b", &[1, 2], Some(&Id(3)), None).expect("answer");
    assert_eq!(sent, serde_json::json!({ "text": "a\"b", "bytes": [1, 2], "id": 3, "none": null }));
}

#[hotbay_plugin::contract(name = "echo", version = "1.0")]
trait EchoJson {
    fn echo(
        &self,
        text: &str,
        bytes: &[u8],
        id: Option<&Id>,
        none: Option<u32>,
    ) -> Result<Json, CallError>;
}

#[test]
fn missing_method_has_its_default_body() {
    assert_eq!(proxy(&["numbers=4.0"]).with_default(3).expect("default"), 7);
    assert_eq!(proxy(&["numbers=4.0", "with_default=9"]).with_default(3).expect("provided"), 9);
    let error = proxy(&[]).with_default(3).unwrap_err();
    assert_eq!(error.plugin_error().map(PluginError::code), Some(501)); // Of `numbers`.
}

#[test]
fn error_of_a_proxy_is_that_of_the_method() {
    let error: PluginError = proxy(&[]).numbers(1, 2, 3.0, true, 'x').unwrap_err();
    assert_eq!(error.code(), 501);
}

#[test]
fn layout_of_plain_data_is_that_of_its_fields() {
    let (byte, word) = ((1, 1), (8, 8));
    assert!(is_repr_c(16, 8, &[byte, word]));
    assert!(is_repr_c(24, 8, &[byte, word, byte]));
    assert!(!is_repr_c(9, 1, &[byte, word])); // Packed.
    assert!(!is_repr_c(16, 16, &[byte, word])); // Aligned.
    assert!(!is_repr_c(16, 8, &[byte, word, byte])); // In another order.
    assert!(!is_repr_c(24, 8, &[byte, word])); // With another field.
}

#[hotbay_plugin::data]
#[derive(Debug, PartialEq)]
#[allow(non_camel_case_types, reason = "names on the wire")]
enum r#match {
    r#type { r#fn: u8 },
}

#[hotbay_plugin::contract(name = "raw", version = "1.0")]
trait Raw {
    fn r#loop(&self, r#in: r#match) -> Result<u8, CallError>;
}

#[test]
fn raw_names_are_plain_on_the_wire() {
    let text = <dyn Raw as Contract>::DESCRIPTION.text();
    let expected = "contract raw 1.0\nfn loop(in: enum match { type { fn: u8 } }) -> u8\n";
    assert_eq!(text, expected);
    let value = r#match::r#type { r#fn: 1 };
    let json = Format::Json.encode(&value).unwrap();
    assert_eq!(json, br#"{"type":{"fn":1}}"#);
}
