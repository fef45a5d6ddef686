//! What calls cost: one formula a function, over ranges of sizes. The estimate puts in what schemas allow, the
//! evaluator what is really there.
//!
//! The figures are upstream's, since they decide which rules may be written. Where an operation can make more than
//! it is charged for (long lists, patterns that expand), the evaluator charges for that as well.

/// From the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The least.
    pub min: u64,
    /// The most.
    pub max: u64,
}

/// What walking over a character costs.
const CHARACTER: f64 = 0.1;
/// What a character of a pattern multiplies with.
const PATTERN: f64 = 0.25;
/// An address has four bytes or sixteen.
const ADDRESS: Range = Range { min: 4, max: 16 };

impl Range {
    /// Nothing.
    pub const ZERO: Range = Range::exactly(0);
    /// Anything.
    pub const ANY: Range = Range { min: 0, max: u64::MAX };

    /// A range of one number.
    pub const fn exactly(value: u64) -> Range {
        Range { min: value, max: value }
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Range) -> Range {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    /// The product.
    #[must_use]
    pub fn times(self, other: Range) -> Range {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Scaled and rounded up.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Range {
        // Conversions from floating point saturate.
        let scale =
            |value: u64| if value == u64::MAX { value } else { (value as f64 * factor).ceil() as u64 };
        Range { min: scale(self.min), max: scale(self.max) }
    }

    /// What holds both.
    #[must_use]
    pub fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    fn walked(self) -> Range {
        self.scaled(CHARACTER)
    }
}

/// What a call costs and how large its result can be, if that is known.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// Beside its arguments.
    pub cost: Range,
    /// The size of the result.
    pub result: Option<Range>,
}

/// How a function is charged. Numbers are positions of arguments, the target being the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// Nothing of its own: the evaluator counts what is evaluated.
    Free,
    /// One.
    One,
    /// A question to the authorizer: two of them fit into a call.
    Authorization,
    /// A walk over a text; the result is no longer.
    Text(usize),
    /// As many walks as that over the first text; the result has up to that many parts.
    Split,
    /// Two walks; the length of the result follows from what is replaced.
    Replace,
    /// A walk over what comes out.
    Join,
    /// The first text by the second as a pattern.
    Matches,
    /// The same, with parts of the text as the result.
    Find,
    /// The first text by the second.
    Contains,
    /// Items of the list in that place.
    Items(usize),
    /// Items of the first list, with their texts.
    Walk,
    /// A walk over both texts.
    AddText,
    /// One; the result is as long as both.
    AddList,
    /// As much as the smaller has.
    Compare,
    /// Text to bytes.
    Encode,
    /// Bytes to text.
    Decode,
    /// Text with escapes.
    Quote,
    /// Two addresses; whether the second is text.
    InRange(bool),
    /// Two ranges; whether the second is text.
    RangeInRange(bool),
    /// Each item of one with each of the other, so many times.
    Pairs(u64),
}

impl Charge {
    /// Over the sizes of target and arguments; `elements` is that of the first one's items, if they are texts.
    pub fn estimate(self, sizes: &[Range], elements: Option<Range>) -> Estimate {
        let size = |index: usize| sizes.get(index).copied().unwrap_or(Range::ZERO);
        let one = Range::exactly(1);
        let (cost, result) = match self {
            Charge::Free => (Range::ZERO, None),
            Charge::One => (one, None),
            Charge::Authorization => (Range::exactly(350_000), None),
            Charge::Text(index) => (size(index).walked(), Some(Range { min: 0, max: size(index).max })),
            Charge::Split => (size(0).scaled(2.0 * CHARACTER), Some(Range { min: 0, max: size(0).max })),
            Charge::Replace => (size(0).scaled(2.0 * CHARACTER), Some(replaced(size(0), size(1), size(2)))),
            Charge::Join => {
                let separators =
                    Range { min: size(0).min.saturating_sub(1), max: size(0).max.saturating_sub(1) };
                let length = size(0).times(elements.unwrap_or(Range::ZERO)).plus(size(1).times(separators));
                (length.walked(), Some(length))
            }
            Charge::Matches => (pattern(size(0), size(1)), None),
            Charge::Find => (pattern(size(0), size(1)), Some(Range { min: 0, max: size(0).max })),
            Charge::Contains => (size(0).walked().times(size(1).walked()), None),
            Charge::Items(index) => (size(index), None),
            Charge::Walk => (size(0).times(one.plus(elements.map_or(Range::ZERO, Range::walked))), None),
            Charge::AddText => {
                let length = size(0).plus(size(1));
                (length.walked(), Some(length))
            }
            Charge::AddList => (one, Some(size(0).plus(size(1)))),
            Charge::Compare => {
                let most = size(0).max.min(size(1).max);
                (Range { min: most.min(1), max: most }.walked(), None)
            }
            Charge::Encode => {
                (size(0).walked(), Some(Range { min: size(0).min, max: size(0).max.saturating_mul(4) }))
            }
            Charge::Decode => (size(0).walked(), Some(Range { min: size(0).min / 4, max: size(0).max })),
            Charge::Quote => {
                (size(0).walked(), Some(Range { min: size(0).min, max: size(0).max.saturating_mul(2) }))
            }
            Charge::InRange(text) => (addresses(text, size(1)), None),
            Charge::RangeInRange(text) => (addresses(text, size(1)).plus(ADDRESS.walked()).plus(one), None),
            Charge::Pairs(times) => (size(0).times(size(1)).times(Range::exactly(times)).plus(one), None),
        };
        Estimate { cost, result }
    }
}

/// An empty text is matched too, so that an expensive pattern is never free.
fn pattern(text: Range, pattern: Range) -> Range {
    text.plus(Range::exactly(1)).walked().times(pattern.scaled(PATTERN))
}

fn addresses(text: bool, other: Range) -> Range {
    let compared = ADDRESS.plus(ADDRESS).walked();
    if text { compared.plus(other.walked()) } else { compared }
}

/// The length after replacing: longest when the shortest is replaced by the longest.
fn replaced(text: Range, from: Range, to: Range) -> Range {
    let max = if from.min == 0 {
        text.max.saturating_add(1).saturating_mul(to.max).saturating_add(text.max)
    } else if to.max <= from.min {
        text.max
    } else {
        text.max.div_ceil(from.min).saturating_mul(to.max)
    };
    let min = match text.min.checked_div(from.max) {
        Some(count) if to.min < from.max => count.saturating_mul(to.min),
        _ => text.min,
    };
    Range { min, max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let sizes = [Range { min: 0, max: 100 }, Range::exactly(12)];
        let cost = |charge: Charge| charge.estimate(&sizes, None).cost;
        assert_eq!(cost(Charge::Matches), Range { min: 3, max: 33 });
        assert_eq!(cost(Charge::Contains), Range { min: 0, max: 20 });
        assert_eq!(cost(Charge::Compare), Range { min: 1, max: 2 });
        assert_eq!(cost(Charge::AddText), Range { min: 2, max: 12 });
        assert_eq!(Charge::Matches.estimate(&[Range::ANY, Range::exactly(8)], None).cost.max, u64::MAX);
    }
}
