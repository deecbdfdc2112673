//! Arguments of methods: the kinds that a signature may have, and lists of them.
//!
//! The macro decides the kind of an argument by its type as written: `&str`, `&[T]`, `&T`, an option
//! of one of these, or a value. A list of arguments is a list of pairs: `(a, (b, ()))`.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::codec::{CodecError, Format};
use super::data::Data;
use super::form::{Form, RawOption, RawSlice, SliceForm, Text};
use super::shape::{Shape, ShapeList};

/// A kind of argument.
pub trait Argument: 'static {
    /// The argument's type.
    type Type<'a>: Serialize + Send + Sync;
    /// What the caller keeps until the call returns.
    type Store;
    /// The argument as it crosses.
    type Raw;
    /// The argument without borrows, as it is deserialized.
    type Owned: DeserializeOwned + Send + 'static;
    /// The shape.
    const SHAPE: Shape;

    /// Prepares the argument.
    ///
    /// # Errors
    ///
    /// If it cannot be serialized.
    fn prepare(value: &Self::Type<'_>) -> Result<Self::Store, CodecError>;

    /// Returns the argument as it crosses, which borrows from both.
    fn lower(value: &Self::Type<'_>, store: &Self::Store) -> Self::Raw;

    /// Returns the number of bytes behind its pointers.
    fn byte_len(raw: &Self::Raw) -> usize;

    /// Reads the argument, into `space` if it has to be deserialized.
    ///
    /// # Errors
    ///
    /// If it cannot be deserialized.
    ///
    /// # Safety
    ///
    /// F1 and F2 of `form.rs`.
    unsafe fn lift<'a>(
        raw: &'a Self::Raw,
        space: &'a mut Option<Self::Owned>,
    ) -> Result<Self::Type<'a>, CodecError>;

    /// Returns the argument from `space`, where it was deserialized.
    fn borrow(space: &mut Option<Self::Owned>) -> Option<Self::Type<'_>>;
}

/// A value.
#[derive(Debug)]
pub struct ByValue<T>(PhantomData<fn() -> T>);

impl<T: Data> Argument for ByValue<T> {
    type Type<'a> = T;
    type Store = <T::Form as Form<T>>::Store;
    type Raw = <T::Form as Form<T>>::Raw;
    type Owned = T;
    const SHAPE: Shape = T::SHAPE;

    #[inline(always)]
    fn prepare(value: &T) -> Result<Self::Store, CodecError> {
        T::Form::prepare(value)
    }

    #[inline(always)]
    fn lower(value: &T, store: &Self::Store) -> Self::Raw {
        T::Form::lower(value, store)
    }

    #[inline(always)]
    fn byte_len(raw: &Self::Raw) -> usize {
        T::Form::byte_len(raw)
    }

    #[inline(always)]
    unsafe fn lift<'a>(raw: &'a Self::Raw, _: &'a mut Option<T>) -> Result<T, CodecError> {
        // SAFETY: this function's contract.
        unsafe { T::Form::lift(raw) }
    }

    fn borrow(space: &mut Option<T>) -> Option<T> {
        space.take()
    }
}

/// A reference to a value.
#[derive(Debug)]
pub struct ByRef<T>(PhantomData<fn() -> T>);

impl<T: Data> Argument for ByRef<T> {
    type Type<'a> = &'a T;
    type Store = <T::Form as Form<T>>::Store;
    type Raw = <T::Form as Form<T>>::Raw;
    type Owned = T;
    const SHAPE: Shape = T::SHAPE;

    #[inline(always)]
    fn prepare(value: &&T) -> Result<Self::Store, CodecError> {
        T::Form::prepare(value)
    }

    #[inline(always)]
    fn lower(value: &&T, store: &Self::Store) -> Self::Raw {
        T::Form::lower(value, store)
    }

    #[inline(always)]
    fn byte_len(raw: &Self::Raw) -> usize {
        T::Form::byte_len(raw)
    }

    #[inline(always)]
    unsafe fn lift<'a>(raw: &'a Self::Raw, space: &'a mut Option<T>) -> Result<&'a T, CodecError> {
        // SAFETY: this function's contract.
        Ok(space.insert(unsafe { T::Form::lift(raw) }?))
    }

    fn borrow(space: &mut Option<T>) -> Option<&T> {
        space.as_ref()
    }
}

/// `&str`.
#[derive(Debug)]
pub struct Str;

impl Argument for Str {
    type Type<'a> = &'a str;
    type Store = ();
    type Raw = RawSlice<u8>;
    type Owned = String;
    const SHAPE: Shape = String::SHAPE;

    #[inline(always)]
    fn prepare(_: &&str) -> Result<(), CodecError> {
        Ok(())
    }

    #[inline(always)]
    fn lower(value: &&str, (): &()) -> RawSlice<u8> {
        Text::lower(value)
    }

    #[inline(always)]
    fn byte_len(raw: &RawSlice<u8>) -> usize {
        Text::len(raw)
    }

    #[inline(always)]
    unsafe fn lift<'a>(
        raw: &'a RawSlice<u8>,
        _: &'a mut Option<String>,
    ) -> Result<&'a str, CodecError> {
        // SAFETY: this function's contract.
        Ok(unsafe { Text::borrow(raw) })
    }

    fn borrow(space: &mut Option<String>) -> Option<&str> {
        space.as_deref()
    }
}

/// `&[T]`.
#[derive(Debug)]
pub struct Slice<T>(PhantomData<fn() -> T>);

impl<T: Data> Argument for Slice<T> {
    type Type<'a> = &'a [T];
    type Store = <T::ListForm as Form<Vec<T>>>::Store;
    type Raw = <T::ListForm as Form<Vec<T>>>::Raw;
    type Owned = Vec<T>;
    const SHAPE: Shape = <Vec<T>>::SHAPE;

    #[inline(always)]
    fn prepare(value: &&[T]) -> Result<Self::Store, CodecError> {
        T::ListForm::prepare_slice(value)
    }

    #[inline(always)]
    fn lower(value: &&[T], store: &Self::Store) -> Self::Raw {
        T::ListForm::lower_slice(value, store)
    }

    #[inline(always)]
    fn byte_len(raw: &Self::Raw) -> usize {
        T::ListForm::byte_len(raw)
    }

    #[inline(always)]
    unsafe fn lift<'a>(
        raw: &'a Self::Raw,
        space: &'a mut Option<Vec<T>>,
    ) -> Result<&'a [T], CodecError> {
        // SAFETY: this function's contract.
        unsafe { T::ListForm::borrow(raw, space) }
    }

    fn borrow(space: &mut Option<Vec<T>>) -> Option<&[T]> {
        space.as_deref()
    }
}

/// An option of a borrowed argument.
#[derive(Debug)]
pub struct Maybe<A>(PhantomData<fn() -> A>);

impl<A: Argument> Argument for Maybe<A> {
    type Type<'a> = Option<A::Type<'a>>;
    type Store = Option<A::Store>;
    type Raw = RawOption<A::Raw>;
    type Owned = Option<A::Owned>;
    const SHAPE: Shape = Shape::Optional(&A::SHAPE);

    #[inline]
    fn prepare(value: &Self::Type<'_>) -> Result<Self::Store, CodecError> {
        value.as_ref().map(A::prepare).transpose()
    }

    #[inline]
    fn lower(value: &Self::Type<'_>, store: &Self::Store) -> Self::Raw {
        RawOption::new(
            value.as_ref().zip(store.as_ref()).map(|(value, store)| A::lower(value, store)),
        )
    }

    #[inline]
    fn byte_len(raw: &Self::Raw) -> usize {
        raw.get().map_or(0, A::byte_len)
    }

    #[inline]
    unsafe fn lift<'a>(
        raw: &'a Self::Raw,
        space: &'a mut Option<Self::Owned>,
    ) -> Result<Self::Type<'a>, CodecError> {
        let Some(raw) = raw.get() else { return Ok(None) };
        // SAFETY: this function's contract.
        unsafe { A::lift(raw, space.insert(None)) }.map(Some)
    }

    fn borrow(space: &mut Option<Self::Owned>) -> Option<Self::Type<'_>> {
        match space {
            Some(Some(_)) => Some(A::borrow(space.as_mut()?)),
            Some(None) => Some(None),
            None => None,
        }
    }
}

/// The arguments of a method.
pub trait Arguments: 'static {
    /// Their types, as a list of pairs.
    type Types<'a>: Serialize + Send + Sync;
    /// What the caller keeps until the call returns.
    type Store;
    /// The arguments as they cross, as a list of pairs.
    type Raw;
    /// Space for arguments that are deserialized.
    type Space: Default + Send;
    /// The arguments without borrows.
    type Owned: DeserializeOwned;
    /// Their shapes.
    const SHAPES: ShapeList;

    /// Prepares the arguments.
    ///
    /// # Errors
    ///
    /// If one cannot be serialized.
    fn prepare(values: &Self::Types<'_>) -> Result<Self::Store, CodecError>;

    /// Returns the arguments as they cross, which borrow from both.
    fn lower(values: &Self::Types<'_>, store: &Self::Store) -> Self::Raw;

    /// Returns the number of bytes behind their pointers.
    fn byte_len(raw: &Self::Raw) -> usize;

    /// Writes the arguments into a map.
    ///
    /// # Errors
    ///
    /// Those of the map.
    fn write<M: SerializeMap>(
        values: &Self::Types<'_>,
        names: &[&str],
        map: &mut M,
    ) -> Result<(), M::Error>;

    /// Takes the arguments out of a map.
    ///
    /// # Errors
    ///
    /// If one is missing or does not match its type.
    fn read(map: &mut Map<String, Value>, names: &[&str]) -> Result<Self::Space, CodecError>;

    /// Returns the space with these arguments in it.
    fn space(owned: Self::Owned) -> Self::Space;

    /// Returns the arguments from the space that [`read`](Self::read) or [`space`](Self::space)
    /// filled. `None` for one that was not filled.
    fn borrow(space: &mut Self::Space) -> Option<Self::Types<'_>>;
}

impl Arguments for () {
    type Types<'a> = ();
    type Store = ();
    type Raw = ();
    type Space = ();
    type Owned = ();
    const SHAPES: ShapeList = ShapeList::End;

    #[inline(always)]
    fn prepare((): &()) -> Result<(), CodecError> {
        Ok(())
    }

    #[inline(always)]
    fn lower((): &(), (): &()) {}

    #[inline(always)]
    fn byte_len((): &()) -> usize {
        0
    }

    fn write<M: SerializeMap>((): &(), _: &[&str], _: &mut M) -> Result<(), M::Error> {
        Ok(())
    }

    fn read(_: &mut Map<String, Value>, _: &[&str]) -> Result<(), CodecError> {
        Ok(())
    }

    fn space((): ()) {}

    fn borrow((): &mut ()) -> Option<()> {
        Some(())
    }
}

impl<A: Argument, B: Arguments> Arguments for (A, B) {
    type Types<'a> = (A::Type<'a>, B::Types<'a>);
    type Store = (A::Store, B::Store);
    type Raw = (A::Raw, B::Raw);
    type Space = (Option<A::Owned>, B::Space);
    type Owned = (A::Owned, B::Owned);
    const SHAPES: ShapeList = ShapeList::Next(A::SHAPE, &B::SHAPES);

    #[inline(always)]
    fn prepare((first, rest): &Self::Types<'_>) -> Result<Self::Store, CodecError> {
        Ok((A::prepare(first)?, B::prepare(rest)?))
    }

    #[inline(always)]
    fn lower((first, rest): &Self::Types<'_>, store: &Self::Store) -> Self::Raw {
        (A::lower(first, &store.0), B::lower(rest, &store.1))
    }

    #[inline(always)]
    fn byte_len((first, rest): &Self::Raw) -> usize {
        A::byte_len(first).saturating_add(B::byte_len(rest))
    }

    fn write<M: SerializeMap>(
        (first, rest): &Self::Types<'_>,
        names: &[&str],
        map: &mut M,
    ) -> Result<(), M::Error> {
        let (name, names) = split(names);
        map.serialize_entry(name, first)?;
        B::write(rest, names, map)
    }

    fn read(map: &mut Map<String, Value>, names: &[&str]) -> Result<Self::Space, CodecError> {
        let (name, names) = split(names);
        // A missing optional argument is `null`.
        let value = map.remove(name);
        let is_missing = value.is_none();
        let first = serde_json::from_value(value.unwrap_or(Value::Null)).map_err(|error| {
            let error =
                if is_missing { CodecError::new("missing") } else { CodecError::new(error) };
            error.in_argument(name)
        })?;
        Ok((Some(first), B::read(map, names)?))
    }

    fn space((first, rest): Self::Owned) -> Self::Space {
        (Some(first), B::space(rest))
    }

    fn borrow(space: &mut Self::Space) -> Option<Self::Types<'_>> {
        Some((A::borrow(&mut space.0)?, B::borrow(&mut space.1)?))
    }
}

/// Splits off the name of the first argument. The macro writes as many names as arguments.
fn split<'n>(names: &'n [&'n str]) -> (&'n str, &'n [&'n str]) {
    names.split_first().map_or(("", &[]), |(name, names)| (*name, names))
}

/// Arguments with their names, to be serialized as an object.
struct Named<'n, 'a, A: Arguments> {
    values: &'n A::Types<'a>,
    names: &'n [&'n str],
}

impl<A: Arguments> Serialize for Named<'_, '_, A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.names.len()))?;
        A::write(self.values, self.names, &mut map)?;
        map.end()
    }
}

/// Serializes arguments.
///
/// # Errors
///
/// If one cannot be serialized.
pub(super) fn encode<A: Arguments>(
    format: Format,
    values: &A::Types<'_>,
    names: &[&str],
) -> Result<Vec<u8>, CodecError> {
    match format {
        Format::Json => format.encode(&Named::<A> { values, names }),
        Format::Postcard => format.encode(values),
    }
}

/// Deserializes arguments.
///
/// # Errors
///
/// If one is missing or invalid. Arguments with other names are ignored: the caller may be newer.
pub(super) fn decode<A: Arguments>(
    format: Format,
    bytes: &[u8],
    names: &[&str],
) -> Result<A::Space, CodecError> {
    match format {
        Format::Json => A::read(&mut format.decode(bytes)?, names),
        Format::Postcard => Ok(A::space(format.decode(bytes)?)),
    }
}
