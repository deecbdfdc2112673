//! The types that arguments and results may have.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::form::{Copied, Encoded, Form, List, OptionalForm, SliceForm, Text};
use super::shape::Shape;

/// A type of arguments and results of contracts. `#[hotbay_plugin::data]` implements it.
///
/// It has a shape, which both sides compare, and crosses in the form that its shape determines.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross a contract",
    label = "not a type of contract data",
    note = "put `#[hotbay_plugin::data]` on a type of your own; of std, numbers except `usize`, \
            `isize`, `i128` and `u128`, `bool`, `char`, `String`, options, lists, sets, maps and tuples of \
            data can cross; `hotbay_plugin::contract::Json` is any JSON value"
)]
pub trait Data: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The shape.
    const SHAPE: Shape;
    /// How a value crosses.
    type Form: Form<Self>;
    /// How a list of values crosses.
    type ListForm: SliceForm<Self>;
}

macro_rules! scalars {
    ($($type:ty => $name:literal),* $(,)?) => {
        $(impl Data for $type {
            const SHAPE: Shape = Shape::Scalar($name);
            type Form = Copied;
            type ListForm = List;
        })*
    };
}
scalars! {
    () => "unit", bool => "bool", char => "char",
    u8 => "u8", u16 => "u16", u32 => "u32", u64 => "u64",
    i8 => "i8", i16 => "i16", i32 => "i32", i64 => "i64",
    f32 => "f32", f64 => "f64",
}

impl Data for String {
    const SHAPE: Shape = Shape::Scalar("string");
    type Form = Text;
    type ListForm = Encoded;
}

impl<T: Data> Data for Vec<T> {
    const SHAPE: Shape = Shape::List(&T::SHAPE);
    type Form = T::ListForm;
    type ListForm = Encoded;
}

impl<T: Data> Data for Option<T> {
    const SHAPE: Shape = Shape::Optional(&T::SHAPE);
    type Form = OptionalForm<T::Form>;
    type ListForm = Encoded;
}

macro_rules! encoded {
    ($([$($generics:tt)*] $type:ty => $shape:expr;)*) => {
        $(impl<$($generics)*> Data for $type {
            const SHAPE: Shape = $shape;
            type Form = Encoded;
            type ListForm = Encoded;
        })*
    };
}
encoded! {
    [K: Data + Ord, V: Data] BTreeMap<K, V> => Shape::Map(&K::SHAPE, &V::SHAPE);
    [K: Data + Eq + Hash, V: Data] HashMap<K, V> => Shape::Map(&K::SHAPE, &V::SHAPE);
    [T: Data + Ord] BTreeSet<T> => Shape::Set(&T::SHAPE);
    [T: Data + Eq + Hash] HashSet<T> => Shape::Set(&T::SHAPE);
    [A: Data] (A,) => Shape::Tuple(&[A::SHAPE]);
    [A: Data, B: Data] (A, B) => Shape::Tuple(&[A::SHAPE, B::SHAPE]);
    [A: Data, B: Data, C: Data] (A, B, C) => Shape::Tuple(&[A::SHAPE, B::SHAPE, C::SHAPE]);
    [A: Data, B: Data, C: Data, D: Data] (A, B, C, D) =>
        Shape::Tuple(&[A::SHAPE, B::SHAPE, C::SHAPE, D::SHAPE]);
}

/// Any JSON value, as an argument, a result or a field.
///
/// ```
/// use hotbay_plugin::contract::Json;
/// use serde_json::json;
///
/// let settings = Json(json!({ "depth": 3 }));
/// assert_eq!(settings.0["depth"], 3);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Json(pub serde_json::Value);

impl Data for Json {
    const SHAPE: Shape = Shape::Scalar("json");
    type Form = Encoded;
    type ListForm = Encoded;
}

// postcard cannot read a value whose type it does not know, so there the value is text.
impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            self.0.serialize(serializer)
        } else {
            serializer.collect_str(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return serde_json::Value::deserialize(deserializer).map(Self);
        }
        let text = String::deserialize(deserializer)?;
        serde_json::from_str(&text).map(Self).map_err(D::Error::custom)
    }
}
