//! Fields of the type `Vec<u8>`: serde would serialize each byte as one number, which takes
//! ten times as long in postcard. The bytes that cross are the same.

use std::fmt;

use serde::de::{Deserialize as _, Deserializer, Error, Visitor};
use serde::ser::{Serialize as _, Serializer};

/// Serializes a field.
pub fn serialize<S: Serializer>(bytes: &Vec<u8>, serializer: S) -> Result<S::Ok, S::Error> {
    // JSON has numbers in both cases.
    if serializer.is_human_readable() {
        bytes.serialize(serializer)
    } else {
        serializer.serialize_bytes(bytes)
    }
}

/// Deserializes a field.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    // JSON would accept a string in place of bytes.
    if deserializer.is_human_readable() {
        Vec::deserialize(deserializer)
    } else {
        deserializer.deserialize_byte_buf(Bytes)
    }
}

struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::super::codec::Format;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct AsBytes {
        #[serde(with = "super")]
        bytes: Vec<u8>,
        after: u8,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct AsNumbers {
        bytes: Vec<u8>,
        after: u8,
    }

    /// Builds with either form can call each other.
    #[test]
    fn the_bytes_that_cross_are_those_of_a_list_of_numbers() {
        for length in [0, 1, 127, 128, 70_000] {
            let bytes: Vec<u8> = (0..length).map(|number| number as u8).collect();
            let whole = AsBytes { bytes: bytes.clone(), after: 7 };
            let numbers = AsNumbers { bytes, after: 7 };
            for format in [Format::Json, Format::Postcard] {
                let encoded = format.encode(&whole).unwrap();
                assert_eq!(encoded, format.encode(&numbers).unwrap(), "{format:?}, {length}");
                assert_eq!(format.decode::<AsBytes>(&encoded).unwrap(), whole);
                assert_eq!(format.decode::<AsNumbers>(&encoded).unwrap(), numbers);
            }
        }
    }

    #[test]
    fn other_values_are_rejected() {
        for json in [r#"{"bytes":"text","after":7}"#, r#"{"bytes":[256],"after":7}"#] {
            assert!(Format::Json.decode::<AsBytes>(json.as_bytes()).is_err(), "{json}");
        }
        // More bytes are announced than follow.
        for postcard in [&[5, 1, 2][..], &[0xff, 0xff, 0xff, 0xff, 0x0f, 1], &[]] {
            assert!(Format::Postcard.decode::<AsBytes>(postcard).is_err(), "{postcard:?}");
        }
    }
}
