//! Quantities such as `100m`, `1.5Gi` and `2e3`: read exactly, compared, added and written in canonical form.
//!
//! Upstream keeps the notation of what it reads and so does this: `1024Mi` becomes `1Gi`, `1000m` becomes `1`,
//! `2e3` stays decimal exponent. Smaller than a nano is rounded away from zero.

use std::cmp::Ordering;
use std::fmt;

/// An exact number of nano-units and the notation that it was read in.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    notation: Notation,
}

/// How a quantity is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// `m`, `k`, `M`: powers of ten.
    DecimalSi,
    /// `Ki`, `Mi`: powers of two.
    BinarySi,
    /// `e3`: powers of ten.
    DecimalExponent,
}

/// Why text is not a quantity, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The characters are wrong.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// There is no number.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// There is no such suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANO: i128 = 1_000_000_000;

/// The largest absolute value: that of a signed 64-bit number of whole units, as upstream caps it.
const MAX_NANOS: i128 = i64::MAX as i128 * NANO;

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { nanos: 0, notation: Notation::DecimalSi };

    /// A whole number of units.
    pub fn from_units(units: i64, notation: Notation) -> Quantity {
        Quantity { nanos: i128::from(units) * NANO, notation }
    }

    /// A number of thousandths.
    pub fn from_millis(millis: i64) -> Quantity {
        Quantity { nanos: i128::from(millis) * 1_000_000, notation: Notation::DecimalSi }
    }

    /// Reads text.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        let (negative, digits) = match text.as_bytes().first() {
            None => return Err(QuantityError::Format),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
        let (number, suffix) = digits.split_at(end);
        if number.is_empty() || number.matches('.').count() > 1 {
            return Err(QuantityError::Format);
        }
        if number == "." {
            return Err(QuantityError::Numeric);
        }
        let (scale, notation) = Scale::parse(suffix)?;
        let magnitude = scale.apply(number).min(MAX_NANOS);
        Ok(Quantity { nanos: if negative { -magnitude } else { magnitude }, notation })
    }

    /// Reads a string or a JSON number.
    pub fn from_json(value: &serde_json::Value) -> Option<Quantity> {
        match value {
            serde_json::Value::String(text) => Quantity::parse(text).ok(),
            serde_json::Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
            _ => None,
        }
    }

    /// The exact value in billionths.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// In thousandths, rounded up (away from zero), as upstream's `MilliValue`.
    pub fn millis(self) -> i64 {
        self.scaled(1_000_000)
    }

    /// In whole units, rounded up (away from zero), as upstream's `Value`.
    pub fn units(self) -> i64 {
        self.scaled(NANO)
    }

    fn scaled(self, nanos_per: i128) -> i64 {
        let rounded = round_up(self.nanos.unsigned_abs(), nanos_per.unsigned_abs());
        let magnitude = i64::try_from(rounded).unwrap_or(i64::MAX);
        if self.nanos < 0 { -magnitude } else { magnitude }
    }

    /// The notation that it was read in.
    pub fn notation(self) -> Notation {
        self.notation
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is less than nothing.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// The sum. Keeps this one's notation, or takes the other's when this one is zero.
    #[must_use]
    pub fn plus(self, other: Quantity) -> Quantity {
        let notation = if self.is_zero() { other.notation } else { self.notation };
        Quantity { nanos: (self.nanos + other.nanos).clamp(-MAX_NANOS, MAX_NANOS), notation }
    }

    /// The difference. Keeps this one's notation, or takes the other's when this one is zero.
    #[must_use]
    pub fn minus(self, other: Quantity) -> Quantity {
        self.plus(Quantity { nanos: -other.nanos, notation: other.notation })
    }
}

fn round_up(value: u128, unit: u128) -> u128 {
    value.div_ceil(unit)
}

/// What a suffix multiplies with.
#[derive(Clone, Copy)]
enum Scale {
    Ten(i32),
    Two(u32),
}

impl Scale {
    fn parse(suffix: &str) -> Result<(Scale, Notation), QuantityError> {
        let scale = match suffix {
            "n" => Scale::Ten(-9),
            "u" => Scale::Ten(-6),
            "m" => Scale::Ten(-3),
            "" => Scale::Ten(0),
            "k" => Scale::Ten(3),
            "M" => Scale::Ten(6),
            "G" => Scale::Ten(9),
            "T" => Scale::Ten(12),
            "P" => Scale::Ten(15),
            "E" => Scale::Ten(18),
            "Ki" => Scale::Two(10),
            "Mi" => Scale::Two(20),
            "Gi" => Scale::Two(30),
            "Ti" => Scale::Two(40),
            "Pi" => Scale::Two(50),
            "Ei" => Scale::Two(60),
            _ => return Scale::exponent(suffix).map(|scale| (scale, Notation::DecimalExponent)),
        };
        let binary = matches!(scale, Scale::Two(_));
        Ok((scale, if binary { Notation::BinarySi } else { Notation::DecimalSi }))
    }

    fn exponent(suffix: &str) -> Result<Scale, QuantityError> {
        let allowed = |c: char| c.is_ascii_digit() || "eEinumkKMGTP+-".contains(c);
        if !suffix.chars().all(allowed) {
            return Err(QuantityError::Format);
        }
        let power = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
        power.parse::<i32>().map(Scale::Ten).map_err(|_| QuantityError::Suffix)
    }

    /// The nano-units of a number with this suffix, rounded up; more than there can be is the most that there can.
    fn apply(self, number: &str) -> i128 {
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let fraction = fraction.trim_end_matches('0');
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|byte| byte - b'0').collect();
        let mut power = 9 - i64::try_from(fraction.len()).unwrap_or(i64::MAX);
        match self {
            Scale::Ten(ten) => power = power.saturating_add(i64::from(ten)),
            Scale::Two(two) => digits = times(&digits, 1 << two),
        }
        // Digits below a nano only matter for rounding.
        let mut rest = false;
        while power < 0 {
            let Some(digit) = digits.pop() else { break };
            rest |= digit != 0;
            power += 1;
        }
        let value = digits.iter().try_fold(0u128, |sum, digit| {
            sum.checked_mul(10).and_then(|sum| sum.checked_add(u128::from(*digit)))
        });
        if value == Some(0) {
            return i128::from(rest);
        }
        let ten = u32::try_from(power).ok().and_then(|power| 10u128.checked_pow(power));
        let nanos = value.zip(ten).and_then(|(value, ten)| value.checked_mul(ten));
        let nanos = nanos.and_then(|nanos| nanos.checked_add(u128::from(rest)));
        nanos.and_then(|nanos| i128::try_from(nanos).ok()).unwrap_or(MAX_NANOS)
    }
}

/// The digits of a multiple of a number of any length.
fn times(digits: &[u8], factor: u64) -> Vec<u8> {
    let mut product = Vec::with_capacity(digits.len() + 20);
    let mut carry = 0u128;
    let mut digits = digits.iter().rev();
    loop {
        match digits.next() {
            Some(digit) => carry += u128::from(*digit) * u128::from(factor),
            None if carry == 0 => break,
            None => {}
        }
        product.push((carry % 10) as u8);
        carry /= 10;
    }
    product.reverse();
    product
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// Canonical form: no fraction, and the largest suffix that allows that.
impl fmt::Display for Quantity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return out.write_str("0");
        }
        let magnitude = self.nanos.unsigned_abs();
        if self.nanos < 0 {
            out.write_str("-")?;
        }
        // Below 1024 upstream writes powers of ten, above it rounds fractions up.
        if self.notation == Notation::BinarySi && magnitude >= 1024 * NANO.unsigned_abs() {
            let units = round_up(magnitude, NANO.unsigned_abs());
            let step = (units.trailing_zeros() / 10).min(6);
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step as usize];
            return write!(out, "{}{suffix}", units >> (10 * step));
        }
        let (mut number, mut step) = (magnitude, 0);
        while number % 1000 == 0 && step < 9 {
            number /= 1000;
            step += 1;
        }
        match self.notation {
            Notation::DecimalExponent if step != 3 => write!(out, "{number}e{}", 3 * (step as i32 - 3)),
            _ => write!(out, "{number}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][step]),
        }
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Quantity, QuantityError> {
        Quantity::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_forms() {
        let cases = [
            ("0", "0"),
            ("0Ki", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("-1", "-1"),
            ("1.5", "1500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.1", "100m"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("1025Ki", "1025Ki"),
            ("1023Mi", "1023Mi"),
            ("0.5Ki", "512"),
            ("1.0001Ki", "1025"),
            ("0.0001Ki", "102400u"),
            ("0.5Mi", "512Ki"),
            ("2e3", "2e3"),
            ("2E3", "2e3"),
            ("2e-3", "2e-3"),
            ("1e4", "10e3"),
            ("1n", "1n"),
            ("1u", "1u"),
            ("0.1n", "1n"),
            ("1.0000000001", "1000000001n"),
            ("-0.1n", "-1n"),
            ("1E", "1E"),
            ("1Ei", "1Ei"),
            ("100E", "9223372036854775807"),
            ("-100Ei", "-9223372036854775807"),
            ("1e400", "9223372036854775807e0"),
            ("1.000000000000000000000000000000000001Ki", "1025"),
            ("1.92337203685477580812345Ei", "2217496982649344059"),
            ("1e-400", "1e-9"),
            ("12345678901234567890123456789012345678901234567890n", "9223372036854775807"),
        ];
        for (text, expected) in cases {
            let quantity = Quantity::parse(text);
            let shown = quantity.map(|quantity| quantity.to_string().trim_end_matches("e0").to_owned());
            assert_eq!(shown.as_deref(), Ok(expected.trim_end_matches("e0")), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_quantity() {
        use QuantityError::{Format, Numeric, Suffix};
        let cases = [
            ("", Format),
            ("-", Format),
            (".", Numeric),
            ("a", Format),
            ("1.2.3", Format),
            ("1 Gi", Format),
            ("1Gb", Format),
            ("1KI", Format),
            ("1kk", Suffix),
            ("1e", Suffix),
            ("1e3.5", Format),
            ("--1", Format),
            ("1\u{e9}", Format),
        ];
        for (text, expected) in cases {
            assert_eq!(Quantity::parse(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn rounding() {
        let quantity = |text| Quantity::parse(text).expect("is well formed");
        assert_eq!((quantity("1.5").units(), quantity("1.5").millis()), (2, 1500));
        assert_eq!((quantity("-1.5").units(), quantity("1n").millis()), (-2, 1));
        assert_eq!(quantity("0").plus(quantity("1Ki")).to_string(), "1Ki");
        assert_eq!(quantity("1Gi").minus(quantity("512Mi")).to_string(), "512Mi");
        assert!(quantity("1k") < quantity("1Ki") && quantity("1000m") == quantity("1"));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            number in "[0-9]{1,12}(\\.[0-9]{0,6})?",
            suffix in prop::sample::select(vec!["", "n", "u", "m", "k", "M", "G", "e3", "E-2", "e6"]),
        ) {
            let quantity = Quantity::parse(&format!("{number}{suffix}")).expect("is well formed");
            let again = Quantity::parse(&quantity.to_string()).expect("canonical form is well formed");
            prop_assert_eq!(again, quantity);
            prop_assert_eq!(again.to_string(), quantity.to_string());
        }

        #[test]
        fn whole_powers_of_two_read_back(
            number in 1..1_000_000i64, suffix in prop::sample::select(vec!["Ki", "Mi", "Gi"]),
        ) {
            let quantity = Quantity::parse(&format!("{number}{suffix}")).expect("is well formed");
            prop_assert_eq!(Quantity::parse(&quantity.to_string()), Ok(quantity));
            prop_assert_eq!(quantity.units() % number, 0);
        }

        #[test]
        fn what_is_read_is_what_is_written_out_in_full(
            whole in 0..1_000_000i128, fraction in prop::option::of(0..1_000i128), negative in any::<bool>(),
            (suffix, up, down) in prop::sample::select(vec![
                ("", 1, 1), ("n", 1, 1_000_000_000), ("u", 1, 1_000_000), ("m", 1, 1_000), ("k", 1_000, 1),
                ("M", 1_000_000, 1), ("G", 1_000_000_000, 1), ("Ki", 1 << 10, 1), ("Mi", 1 << 20, 1), ("Gi", 1 << 30, 1),
                ("e3", 1_000, 1), ("E-2", 1, 100), ("e+1", 10, 1),
            ]),
        ) {
            let sign = if negative { "-" } else { "" };
            let point = fraction.map_or(String::new(), |fraction| format!(".{fraction:03}"));
            let quantity = Quantity::parse(&format!("{sign}{whole}{point}{suffix}")).expect("is well formed");
            // Thousandths of nano-units, of which the rest counts as a whole one.
            let thousandths = (whole * 1_000 + fraction.unwrap_or(0)) * up * NANO;
            let (exact, rest) = (thousandths / (1_000 * down), thousandths % (1_000 * down));
            let magnitude = exact + i128::from(rest > 0);
            prop_assert_eq!(quantity.nanos(), if negative { -magnitude } else { magnitude });
        }

        #[test]
        fn order_and_sums_are_those_of_the_numbers(a in any::<i32>(), b in any::<i32>()) {
            let (x, y) = (Quantity::from_millis(a.into()), Quantity::from_millis(b.into()));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x.plus(y).millis(), i64::from(a) + i64::from(b));
            prop_assert_eq!(x.plus(y).minus(y), x);
        }

        #[test]
        fn nothing_makes_it_panic(text in "[-+0-9.eEinumkKMGTP]{0,60}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                let again = Quantity::parse(&quantity.to_string()).expect("canonical form is well formed");
                prop_assert_eq!(again.units(), quantity.units());
            }
        }
    }
}
