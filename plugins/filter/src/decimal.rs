//! Compares JSON numbers exactly, as decimal fractions of any size. Does no arithmetic and no
//! binary conversion, so the cost of `1e999999999` is the cost of parsing its text.

use std::borrow::Cow;
use std::cmp::Ordering;

/// A number `0.d₁d₂d₃… × 10^power`. The first and the last digit are not zero.
#[derive(Clone, Debug)]
pub(crate) struct Decimal<'a> {
    sign: Sign,
    power: i64,
    /// Significant digits. May contain a decimal point, which is ignored.
    digits: Cow<'a, str>,
}

/// The order of the variants is the order of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sign {
    Negative,
    Zero,
    Positive,
}

impl<'a> Decimal<'a> {
    /// Parses a JSON number; returns `None` for any other text.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (is_negative, magnitude) = match text.strip_prefix('-') {
            Some(magnitude) => (true, magnitude),
            None => (false, text),
        };
        let (mantissa, exponent) = match magnitude.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (magnitude, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
        if !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let digits = mantissa.trim_start_matches(['0', '.']);
        // Trailing zeros carry no information, since the power is kept separately.
        let digits = digits.trim_end_matches(['0', '.']);
        if digits.is_empty() {
            return Some(Self { sign: Sign::Zero, power: 0, digits: Cow::Borrowed("") });
        }
        let whole = whole.trim_start_matches('0');
        let places = if whole.is_empty() {
            let zeros = fraction.len() - fraction.trim_start_matches('0').len();
            -i64::try_from(zeros).unwrap_or(i64::MAX)
        } else {
            i64::try_from(whole.len()).unwrap_or(i64::MAX)
        };
        Some(Self {
            sign: if is_negative { Sign::Negative } else { Sign::Positive },
            power: exponent.saturating_add(places),
            digits: Cow::Borrowed(digits),
        })
    }

    /// Converts the number into one that owns its digits.
    pub(crate) fn into_owned(self) -> Decimal<'static> {
        Decimal { sign: self.sign, power: self.power, digits: Cow::Owned(self.digits.into_owned()) }
    }

    /// Returns whether the number is greater than zero.
    pub(crate) fn is_positive(&self) -> bool {
        self.sign == Sign::Positive
    }

    fn digits(&self) -> impl Iterator<Item = u8> {
        self.digits.bytes().filter(|&byte| byte != b'.')
    }
}

impl Ord for Decimal<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let magnitudes = || {
            // Digits without zeros at either end compare like text: `1` < `15` < `2`.
            self.power.cmp(&other.power).then_with(|| self.digits().cmp(other.digits()))
        };
        self.sign.cmp(&other.sign).then_with(|| match self.sign {
            Sign::Negative => magnitudes().reverse(),
            Sign::Zero => Ordering::Equal,
            Sign::Positive => magnitudes(),
        })
    }
}

impl PartialOrd for Decimal<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Decimal<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Decimal<'_> {}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Parses an exponent; saturates if it does not fit into 64 bits.
fn parse_exponent(text: &str) -> Option<i64> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !is_digits(digits) {
        return None;
    }
    let magnitude: i64 = digits.parse().unwrap_or(i64::MAX);
    Some(if is_negative { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(left: &str, expected: Ordering, right: &str) {
        let [a, b] = [left, right].map(|text| Decimal::parse(text).expect("number"));
        assert_eq!(a.cmp(&b), expected, "{left} against {right}");
        assert_eq!(b.cmp(&a), expected.reverse(), "{right} against {left}");
    }

    #[test]
    fn numbers_are_compared_by_value() {
        for spelling in ["10", "10.0", "1e1", "1E+1", "100e-1", "0.1e2", "10.000e0", "1000.00e-2"] {
            check(spelling, Ordering::Equal, "10");
        }
        for zero in ["0", "-0", "0.0", "-0.00e5", "0e999999999999999999999"] {
            check(zero, Ordering::Equal, "0");
        }
        check("0.10", Ordering::Equal, "0.1");
        check("1.05", Ordering::Greater, "1.005");
        check("105", Ordering::Less, "1005");
        check("15", Ordering::Less, "2e1");
        check("-15", Ordering::Greater, "-2e1");
        check("-1", Ordering::Less, "0");
        check("0.009", Ordering::Less, "0.01");
    }

    #[test]
    fn numbers_beyond_double_precision_are_compared_exactly() {
        check("9007199254740993", Ordering::Greater, "9007199254740992");
        check("9007199254740993", Ordering::Greater, "9007199254740992.5");
        check("18446744073709551616", Ordering::Greater, "18446744073709551615");
        check("1e400", Ordering::Greater, "1.7976931348623157e308");
        check("-1e400", Ordering::Less, "-1.7976931348623157e308");
        check("1e-400", Ordering::Greater, "0");
        check("1e99999999999999999999", Ordering::Greater, "1e400");
        check("1e-99999999999999999999", Ordering::Less, "1e-400");
    }

    #[test]
    fn other_text_is_not_a_number() {
        for text in ["", "-", "+1", ".5", "5.", "1e", "1e+", "1.e5", "0x10", "1_0", "NaN", "--1"] {
            assert!(Decimal::parse(text).is_none(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn integers_compare_as_integers(a in any::<i128>(), b in any::<i128>(), c in -99i128..99) {
            for (a, b) in [(a, b), (a, c), (c, b), (a, a.saturating_add(1))] {
                let (left, right) = (a.to_string(), b.to_string());
                let order = Decimal::parse(&left).cmp(&Decimal::parse(&right));
                prop_assert_eq!(order, a.cmp(&b));
            }
        }

        #[test]
        fn doubles_compare_as_doubles(
            a in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL,
            b in proptest::num::f64::NORMAL | proptest::num::f64::ZERO,
        ) {
            let [left, right] = [a, b].map(|number| serde_json::to_string(&number).unwrap());
            let order = Decimal::parse(&left).unwrap().cmp(&Decimal::parse(&right).unwrap());
            prop_assert_eq!(order, a.partial_cmp(&b).unwrap());
        }

        #[test]
        fn any_text_is_handled(text in any::<String>(), close in "[-+0-9.eE]{0,12}") {
            let _ = Decimal::parse(&text);
            let is_json_number = close.parse::<serde_json::Number>().is_ok();
            if is_json_number {
                prop_assert!(Decimal::parse(&close).is_some(), "{close}");
            }
        }
    }
}
