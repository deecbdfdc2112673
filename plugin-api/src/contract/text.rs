//! Parses the text of contracts, which libraries export and programs return. Accepts any bytes:
//! invalid text is an error.

use std::fmt;

use super::shape::{self, MAX_TEXT_BYTES, MethodKind};

/// The types without parts that have bytes in postcard.
const SCALARS: [&str; 14] = [
    "bool", "char", "f32", "f64", "i16", "i32", "i64", "i8", "json", "string", "u16", "u32", "u64",
    "u8",
];

/// Maximum nesting of a shape.
const MAX_DEPTH: usize = 32;

/// A contract, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContractText {
    /// The name.
    pub name: String,
    /// The version.
    pub version: ContractVersion,
    /// The methods, in the order of the text.
    pub methods: Vec<MethodText>,
}

/// The version of a contract. Contracts with different major numbers are incompatible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContractVersion {
    /// Incremented for breaking changes.
    pub major: u32,
    /// Incremented for additions.
    pub minor: u32,
}

/// A method, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodText {
    /// The name.
    pub name: String,
    /// The version that added it, if it is not the first.
    pub since: Option<ContractVersion>,
    /// The operation that the plugin needs permission for, if any.
    pub permission: Option<String>,
    /// Whether the caller has a default body for it.
    pub has_default: bool,
    /// How it answers.
    pub kind: MethodKind,
    /// Names and types of its arguments.
    pub arguments: Vec<(String, Type)>,
    /// Type of its result, or of an item of its stream.
    pub output: Type,
    /// The text of name, arguments and result.
    pub signature: String,
}

impl MethodText {
    /// Returns the hash of the signature, as libraries and programs state it.
    pub fn hash(&self) -> u64 {
        shape::hash_of(&self.signature)
    }
}

/// A type, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// A name, such as `u32`.
    Scalar(String),
    /// `[T]`.
    List(Box<Type>),
    /// `set<T>`.
    Set(Box<Type>),
    /// `T?`.
    Optional(Box<Type>),
    /// `map<K, V>`.
    Map(Box<Type>, Box<Type>),
    /// `(A, B)`.
    Tuple(Vec<Type>),
    /// `Name { … }` or `Name(…)`, with or without `plain`.
    Struct(String, FieldTypes),
    /// `enum Name { … }`.
    Enum(String, Vec<(String, FieldTypes)>),
}

/// Fields, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldTypes {
    /// None.
    Unit,
    /// Without names.
    Unnamed(Vec<Type>),
    /// With names; `true` if a reader uses a default for a missing field.
    Named(Vec<(String, Type, bool)>),
}

impl Type {
    /// Returns whether it has lists of values without bytes in postcard: a few bytes can then claim
    /// any number of them.
    #[doc(hidden)]
    pub fn has_empty_items(&self) -> bool {
        match self {
            Self::Scalar(_) => false,
            Self::List(item) | Self::Set(item) => item.is_empty() || item.has_empty_items(),
            Self::Map(key, value) => {
                (key.is_empty() && value.is_empty())
                    || key.has_empty_items()
                    || value.has_empty_items()
            }
            Self::Optional(part) => part.has_empty_items(),
            Self::Tuple(parts) => parts.iter().any(Self::has_empty_items),
            Self::Struct(_, fields) => fields.types().any(Self::has_empty_items),
            Self::Enum(_, variants) => {
                variants.iter().any(|(_, fields)| fields.types().any(Self::has_empty_items))
            }
        }
    }

    /// Returns whether its values have no bytes in postcard.
    fn is_empty(&self) -> bool {
        match self {
            // Any other name is that of a type without fields.
            Self::Scalar(name) => !SCALARS.contains(&name.as_str()),
            Self::Tuple(parts) => parts.iter().all(Self::is_empty),
            Self::Struct(_, fields) => fields.types().all(Self::is_empty),
            _ => false,
        }
    }
}

impl FieldTypes {
    fn types(&self) -> impl Iterator<Item = &Type> {
        let (unnamed, named) = match self {
            Self::Unit => (&[][..], &[][..]),
            Self::Unnamed(types) => (&types[..], &[][..]),
            Self::Named(fields) => (&[][..], &fields[..]),
        };
        unnamed.iter().chain(named.iter().map(|(_, found, _)| found))
    }
}

/// The reason a text is not the text of contracts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidText {
    line: usize,
    column: usize,
    expected: &'static str,
}

impl InvalidText {
    /// Returns the line and the column, which start at 1.
    pub fn position(&self) -> (usize, usize) {
        (self.line, self.column)
    }

    /// Returns what was expected there.
    pub fn expected(&self) -> &'static str {
        self.expected
    }
}

impl fmt::Display for InvalidText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, expected } = self;
        write!(f, "line {line}, column {column}: expected {expected}")
    }
}

impl std::error::Error for InvalidText {}

impl ContractText {
    /// Parses the text that a library exports, up to the first NUL.
    ///
    /// # Errors
    ///
    /// If it is not the text of contracts.
    pub fn parse_exported(bytes: &[u8]) -> Result<Vec<Self>, InvalidText> {
        let error = |expected| InvalidText { line: 1, column: 1, expected };
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| error("UTF-8 text"))?;
        let text = text.strip_prefix(shape::MAGIC).and_then(|text| text.strip_prefix('\n'));
        Self::parse_all(text.ok_or_else(|| error("`HOTBAY-CONTRACTS 1`"))?, 2)
    }

    /// Parses the text of contracts. Empty lines, and lines that begin with `//`, are ignored.
    ///
    /// # Errors
    ///
    /// If it is not the text of contracts.
    ///
    /// ```
    /// use hotbay_plugin::contract::ContractText;
    ///
    /// let text = "contract text-analysis 1.0\nfn words(text: string) -> u64\n";
    /// let contracts = ContractText::parse(text)?;
    /// assert_eq!(contracts[0].methods[0].name, "words");
    ///
    /// let error = ContractText::parse("contract a 1.0\nfn words(text) -> u64").unwrap_err();
    /// assert_eq!(error.to_string(), "line 2, column 14: expected `:`");
    /// # Ok::<(), hotbay_plugin::contract::InvalidText>(())
    /// ```
    pub fn parse(text: &str) -> Result<Vec<Self>, InvalidText> {
        Self::parse_all(text, 1)
    }

    fn parse_all(text: &str, first_line: usize) -> Result<Vec<Self>, InvalidText> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(InvalidText { line: 1, column: 1, expected: "at most 64 KiB" });
        }
        let mut contracts: Vec<Self> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let content = line.trim();
            if content.is_empty() || content.starts_with("//") {
                continue;
            }
            let mut parser = Parser { line, rest: line.trim_start(), number: first_line + index };
            if parser.skip("contract ") {
                let contract = parser.contract()?;
                if contracts.iter().any(|known| known.name == contract.name) {
                    return Err(parser.error("a contract that was not described before"));
                }
                contracts.push(contract);
                continue;
            }
            let Some(contract) = contracts.last_mut() else {
                return Err(parser.error("`contract`"));
            };
            let method = parser.method()?;
            if contract.methods.iter().any(|known| known.name == method.name) {
                return Err(parser.error("a method that was not described before"));
            }
            contract.methods.push(method);
        }
        Ok(contracts)
    }
}

struct Parser<'t> {
    line: &'t str,
    rest: &'t str,
    number: usize,
}

impl<'t> Parser<'t> {
    fn error(&self, expected: &'static str) -> InvalidText {
        let before = &self.line[..self.line.len() - self.rest.len()];
        InvalidText { line: self.number, column: before.chars().count() + 1, expected }
    }

    /// Skips `text`, if it is next.
    fn skip(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, text: &str, expected: &'static str) -> Result<(), InvalidText> {
        if self.skip(text) { Ok(()) } else { Err(self.error(expected)) }
    }

    /// Returns the next word of these characters.
    fn word(
        &mut self,
        expected: &'static str,
        is_part: impl Fn(char) -> bool,
    ) -> Result<&'t str, InvalidText> {
        let rest = self.rest;
        let end = rest.find(|char| !is_part(char)).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        if word.is_empty() {
            return Err(self.error(expected));
        }
        self.rest = rest.trim_start();
        Ok(word)
    }

    fn name(&mut self) -> Result<String, InvalidText> {
        // Names on the wire may have dashes: `#[serde(rename_all = "kebab-case")]`.
        let is_part = |char: char| char.is_alphanumeric() || char == '_' || char == '-';
        self.word("a name", is_part).map(str::to_owned)
    }

    fn version(&mut self) -> Result<ContractVersion, InvalidText> {
        const EXPECTED: &str = "a version such as `1.0`";
        let error = self.error(EXPECTED);
        let word = self.word(EXPECTED, |char| char.is_ascii_digit() || char == '.')?;
        let version = word.split_once('.').and_then(|(major, minor)| {
            Some(ContractVersion { major: major.parse().ok()?, minor: minor.parse().ok()? })
        });
        version.ok_or(error)
    }

    fn end(&self) -> Result<(), InvalidText> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error("the end of the line")) }
    }

    fn contract(&mut self) -> Result<ContractText, InvalidText> {
        let is_part = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
        let name = self.word("the name of a contract", is_part)?.to_owned();
        let version = self.version()?;
        self.end()?;
        Ok(ContractText { name, version, methods: Vec::new() })
    }

    fn method(&mut self) -> Result<MethodText, InvalidText> {
        let since = if self.skip("#since ") { Some(self.version()?) } else { None };
        let permission = if self.skip("#permission ") {
            let is_part = |char: char| !char.is_whitespace() && !char.is_control();
            Some(self.word("the name of an operation", is_part)?.to_owned())
        } else {
            None
        };
        let has_default = self.skip("#default ");
        let signature = self.rest.trim_end().to_owned();
        let kind = if self.skip("async fn ") {
            MethodKind::Async
        } else if self.skip("stream fn ") {
            MethodKind::Stream
        } else {
            self.expect("fn ", "`fn`")?;
            MethodKind::Sync
        };
        let name = self.name()?;
        self.expect("(", "`(`")?;
        let mut arguments = Vec::new();
        while !self.skip(")") {
            if !arguments.is_empty() {
                self.expect(",", "`,` or `)`")?;
            }
            let name = self.name()?;
            self.expect(":", "`:`")?;
            arguments.push((name, self.shape(0)?));
        }
        self.expect("->", "`->`")?;
        let output = self.shape(0)?;
        self.end()?;
        Ok(MethodText { name, since, permission, has_default, kind, arguments, output, signature })
    }

    fn shape(&mut self, depth: usize) -> Result<Type, InvalidText> {
        if depth > MAX_DEPTH {
            return Err(self.error("a type that nests at most 32 levels"));
        }
        let mut found = self.shape_before_marks(depth)?;
        let mut marks = depth;
        while self.skip("?") {
            marks += 1;
            if marks > MAX_DEPTH {
                return Err(self.error("a type that nests at most 32 levels"));
            }
            found = Type::Optional(Box::new(found));
        }
        Ok(found)
    }

    fn shape_before_marks(&mut self, depth: usize) -> Result<Type, InvalidText> {
        if self.skip("[") {
            let item = self.shape(depth + 1)?;
            self.expect("]", "`]`")?;
            return Ok(Type::List(Box::new(item)));
        }
        if self.rest.starts_with('(') {
            return self.unnamed(depth).map(Type::Tuple);
        }
        if self.skip("set<") {
            let item = self.shape(depth + 1)?;
            self.expect(">", "`>`")?;
            return Ok(Type::Set(Box::new(item)));
        }
        if self.skip("map<") {
            let key = self.shape(depth + 1)?;
            self.expect(",", "`,`")?;
            let value = self.shape(depth + 1)?;
            self.expect(">", "`>`")?;
            return Ok(Type::Map(Box::new(key), Box::new(value)));
        }
        if self.skip("enum ") {
            let name = self.name()?;
            self.expect("{", "`{`")?;
            let mut variants = Vec::new();
            while !self.skip("}") {
                if !variants.is_empty() {
                    self.expect(",", "`,` or `}`")?;
                }
                let name = self.name()?;
                variants.push((name, self.fields(depth)?));
            }
            return Ok(Type::Enum(name, variants));
        }
        let is_plain = self.skip("plain ");
        let name = self.name()?;
        Ok(match self.fields(depth)? {
            FieldTypes::Unit if !is_plain => Type::Scalar(name),
            fields => Type::Struct(name, fields),
        })
    }

    fn fields(&mut self, depth: usize) -> Result<FieldTypes, InvalidText> {
        if self.rest.starts_with('(') {
            return self.unnamed(depth).map(FieldTypes::Unnamed);
        }
        if !self.skip("{") {
            return Ok(FieldTypes::Unit);
        }
        let mut fields = Vec::new();
        while !self.skip("}") {
            if !fields.is_empty() {
                self.expect(",", "`,` or `}`")?;
            }
            let name = self.name()?;
            self.expect(":", "`:`")?;
            let found = self.shape(depth + 1)?;
            fields.push((name, found, self.skip("= default")));
        }
        Ok(FieldTypes::Named(fields))
    }

    fn unnamed(&mut self, depth: usize) -> Result<Vec<Type>, InvalidText> {
        self.expect("(", "`(`")?;
        let mut parts = Vec::new();
        while !self.skip(")") {
            if !parts.is_empty() {
                self.expect(",", "`,` or `)`")?;
            }
            parts.push(self.shape(depth + 1)?);
        }
        Ok(parts)
    }
}

impl fmt::Display for ContractText {
    /// Prints the text, which [`ContractText::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "contract {} {}", self.name, self.version)?;
        self.methods.iter().try_for_each(|method| writeln!(f, "{method}"))
    }
}

impl fmt::Display for MethodText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(since) = self.since {
            write!(f, "#since {since} ")?;
        }
        if let Some(permission) = &self.permission {
            write!(f, "#permission {permission} ")?;
        }
        if self.has_default {
            f.write_str("#default ")?;
        }
        f.write_str(&self.signature)
    }
}

impl fmt::Display for ContractVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
