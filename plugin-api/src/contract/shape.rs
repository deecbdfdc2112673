//! Shapes: what a type looks like on the wire, as constants, and their text.
//!
//! Rust sources become text at compile time, so that a library can export the text of its contracts
//! as bytes without a pointer. The host parses it (`text.rs`) before it opens the library.

/// The shape of a value.
///
/// Its text determines both encodings of a value and, with `plain`, its layout in memory.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A type without parts, such as `u32`, `string` or `json`.
    Scalar(&'static str),
    /// `[T]`: values in order.
    List(&'static Shape),
    /// `set<T>`: different values in no order.
    Set(&'static Shape),
    /// `T?`: a value or nothing.
    Optional(&'static Shape),
    /// `map<K, V>`.
    Map(&'static Shape, &'static Shape),
    /// `(A, B)`.
    Tuple(&'static [Shape]),
    /// `Name { field: T }` or `Name(T)`.
    Struct {
        /// The name of the type.
        name: &'static str,
        /// Whether the type is `repr(C)`, and crosses without serialization.
        is_plain: bool,
        /// The fields.
        fields: Fields,
    },
    /// `enum Name { A, B(T), C { field: T } }`.
    Enum {
        /// The name of the type.
        name: &'static str,
        /// The variants.
        variants: &'static [Variant],
    },
}

/// The fields of a struct or a variant.
#[derive(Clone, Copy, Debug)]
pub enum Fields {
    /// None.
    Unit,
    /// Fields without names.
    Unnamed(&'static [Shape]),
    /// Fields with names.
    Named(&'static [Field]),
}

/// A field with a name.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The name on the wire.
    pub name: &'static str,
    /// The shape of its value.
    pub shape: Shape,
    /// Whether a reader uses a default if the field is missing.
    pub has_default: bool,
}

/// A variant of an enum.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// The name on the wire.
    pub name: &'static str,
    /// Its fields.
    pub fields: Fields,
}

/// A method of a contract.
#[derive(Clone, Copy, Debug)]
pub struct MethodShape {
    /// The name.
    pub name: &'static str,
    /// The version of the contract that added it, if it is not the first.
    pub since: Option<&'static str>,
    /// The operation that the plugin needs permission for, if any.
    pub permission: Option<&'static str>,
    /// Whether the trait has a default body for it.
    pub has_default: bool,
    /// How it answers.
    pub kind: MethodKind,
    /// Names of the arguments.
    pub names: &'static [&'static str],
    /// Shapes of the arguments.
    pub arguments: ShapeList,
    /// Shape of the result, or of an item of the stream.
    pub output: Shape,
}

/// How a method answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodKind {
    /// It returns its result.
    Sync,
    /// It returns a future of its result.
    Async,
    /// It returns a stream of items.
    Stream,
}

/// The shapes of arguments, as a list of pairs.
#[derive(Clone, Copy, Debug)]
pub enum ShapeList {
    /// No more arguments.
    End,
    /// An argument, and those after it.
    Next(Shape, &'static ShapeList),
}

/// A contract: a trait as data.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// The name of the contract.
    pub name: &'static str,
    /// Its version, `MAJOR.MINOR`.
    pub version: &'static str,
    /// Its methods, in the order of the trait.
    pub methods: &'static [MethodShape],
}

impl MethodShape {
    /// Returns a hash of the signature: name, arguments and result.
    pub const fn hash(&self) -> u64 {
        let mut writer = Writer { bytes: &mut [], used: 0, hash: HASH_START };
        writer.signature(self);
        writer.hash
    }
}

const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

/// Returns the hash of the text of a signature (FNV-1a).
pub(super) const fn hash_of(text: &str) -> u64 {
    let mut writer = Writer { bytes: &mut [], used: 0, hash: HASH_START };
    writer.text(text);
    writer.hash
}

impl Description {
    /// Returns the text of the contract.
    pub fn text(&self) -> String {
        let mut text = vec![0; Writer::length_of(self)];
        let mut writer = Writer { bytes: &mut text, used: 0, hash: HASH_START };
        writer.contract(self);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// The exported symbol of the contracts' text.
pub const SYMBOL: &str = "HOTBAY_PLUGIN_CONTRACTS";

/// The first line of the exported text, without the line end.
pub(super) const MAGIC: &str = "HOTBAY-CONTRACTS 1";

/// The size limit of the text that a library exports.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;

/// Returns the length of the text that a library with these contracts exports.
///
/// # Panics
///
/// Panics at compile time if it exceeds [`MAX_TEXT_BYTES`].
pub const fn export_length(contracts: &[&Description]) -> usize {
    let mut writer = Writer { bytes: &mut [], used: 0, hash: HASH_START };
    writer.export(contracts);
    assert!(writer.used < MAX_TEXT_BYTES, "the text of the plugin's contracts exceeds 64 KiB");
    writer.used
}

/// Returns the text that a library with these contracts exports, which ends with a NUL.
pub const fn export_text<const LENGTH: usize>(contracts: &[&Description]) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let mut writer = Writer { bytes: &mut bytes, used: 0, hash: HASH_START };
    writer.export(contracts);
    bytes
}

/// Writes text; counts what does not fit.
struct Writer<'a> {
    bytes: &'a mut [u8],
    used: usize,
    /// The hash of all that was written.
    hash: u64,
}

impl Writer<'_> {
    fn length_of(contract: &Description) -> usize {
        let mut writer = Writer { bytes: &mut [], used: 0, hash: HASH_START };
        writer.contract(contract);
        writer.used
    }

    const fn export(&mut self, contracts: &[&Description]) {
        self.text(MAGIC);
        self.text("\n");
        let mut at = 0;
        while at < contracts.len() {
            self.contract(contracts[at]);
            at += 1;
        }
        self.text("\0");
    }

    const fn contract(&mut self, contract: &Description) {
        self.text("contract ");
        self.text(contract.name);
        self.text(" ");
        self.text(contract.version);
        self.text("\n");
        let mut at = 0;
        while at < contract.methods.len() {
            self.method(&contract.methods[at]);
            self.text("\n");
            at += 1;
        }
    }

    const fn method(&mut self, method: &MethodShape) {
        if let Some(since) = method.since {
            self.text("#since ");
            self.text(since);
            self.text(" ");
        }
        if let Some(permission) = method.permission {
            self.text("#permission ");
            self.text(permission);
            self.text(" ");
        }
        if method.has_default {
            self.text("#default ");
        }
        self.signature(method);
    }

    const fn signature(&mut self, method: &MethodShape) {
        self.text(match method.kind {
            MethodKind::Sync => "fn ",
            MethodKind::Async => "async fn ",
            MethodKind::Stream => "stream fn ",
        });
        self.text(method.name);
        self.text("(");
        let mut rest = &method.arguments;
        let mut at = 0;
        while let ShapeList::Next(shape, next) = rest {
            self.separator(at);
            self.text(method.names[at]);
            self.text(": ");
            self.shape(shape);
            rest = next;
            at += 1;
        }
        self.text(") -> ");
        self.shape(&method.output);
    }

    const fn shape(&mut self, shape: &Shape) {
        match shape {
            Shape::Scalar(name) => self.text(name),
            Shape::List(item) => {
                self.text("[");
                self.shape(item);
                self.text("]");
            }
            Shape::Set(item) => {
                self.text("set<");
                self.shape(item);
                self.text(">");
            }
            Shape::Optional(item) => {
                self.shape(item);
                self.text("?");
            }
            Shape::Map(key, value) => {
                self.text("map<");
                self.shape(key);
                self.text(", ");
                self.shape(value);
                self.text(">");
            }
            Shape::Tuple(parts) => self.unnamed(parts),
            Shape::Struct { name, is_plain, fields } => {
                if *is_plain {
                    self.text("plain ");
                }
                self.text(name);
                self.fields(fields);
            }
            Shape::Enum { name, variants } => {
                self.text("enum ");
                self.text(name);
                self.text(" { ");
                let mut at = 0;
                while at < variants.len() {
                    self.separator(at);
                    self.text(variants[at].name);
                    self.fields(&variants[at].fields);
                    at += 1;
                }
                self.text(" }");
            }
        }
    }

    const fn fields(&mut self, fields: &Fields) {
        match fields {
            Fields::Unit => {}
            Fields::Unnamed(parts) => self.unnamed(parts),
            Fields::Named(fields) => {
                self.text(" { ");
                let mut at = 0;
                while at < fields.len() {
                    self.separator(at);
                    self.text(fields[at].name);
                    self.text(": ");
                    self.shape(&fields[at].shape);
                    if fields[at].has_default {
                        self.text(" = default");
                    }
                    at += 1;
                }
                self.text(" }");
            }
        }
    }

    const fn unnamed(&mut self, parts: &[Shape]) {
        self.text("(");
        let mut at = 0;
        while at < parts.len() {
            self.separator(at);
            self.shape(&parts[at]);
            at += 1;
        }
        self.text(")");
    }

    const fn separator(&mut self, at: usize) {
        if at > 0 {
            self.text(", ");
        }
    }

    const fn text(&mut self, text: &str) {
        let text = text.as_bytes();
        let mut at = 0;
        while at < text.len() {
            if self.used < self.bytes.len() {
                self.bytes[self.used] = text[at];
            }
            self.hash = (self.hash ^ text[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
            self.used += 1;
            at += 1;
        }
    }
}
