//! Values as they cross between sides with different signatures.

use hotbay_plugin::contract::Format;
use proptest::prelude::*;

proptest! {
    #[test]
    fn numbers_cross_as_json_without_a_change(bits: u64, single: u32) {
        let (value, single) = (f64::from_bits(bits), f32::from_bits(single));
        prop_assume!(value.is_finite() && single.is_finite());
        let text = Format::Json.encode(&(value, single)).unwrap();
        let read: (f64, f32) = Format::Json.decode(&text).unwrap();
        prop_assert_eq!((read.0.to_bits(), read.1.to_bits()), (bits, single.to_bits()));
    }
}

#[test]
fn number_that_is_not_finite_cannot_be_read_from_json() {
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let text = Format::Json.encode(&number).unwrap();
        assert!(Format::Json.decode::<f64>(&text).is_err());
        let binary = Format::Postcard.encode(&number).unwrap();
        let read: f64 = Format::Postcard.decode(&binary).unwrap();
        assert_eq!(read.to_bits(), number.to_bits());
    }
}
