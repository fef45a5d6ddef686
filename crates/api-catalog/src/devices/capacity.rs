//! How the capacity of a device that several claims share may be asked for.

use api_machinery::field::Errors;
use api_machinery::quantity::Quantity;

use crate::at::At;
use crate::check;
use crate::check::resources::{parse, shown};

const MOST_VALUES: usize = 10;
const NOT_A_MILLI: &str = "value cannot be represented as a milli value";
const NANOS_OF_MILLI: i128 = 1_000_000;

/// The policy of a capacity.
pub(super) fn policy(capacity: &At, e: &mut Errors) {
    let policy = capacity.get("requestPolicy");
    let (default, values, range) =
        (policy.get("default"), policy.get("validValues"), policy.get("validRange"));
    let most = parse(&capacity.get("value")).unwrap_or(Quantity::ZERO);
    match (!values.is_empty(), range.is_set()) {
        (true, true) => policy.forbidden(
            e,
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time",
        ),
        (true, false) if !default.is_set() => default.required(e, "required when validValues is defined"),
        (false, true) if !default.is_set() => default.required(e, "required when validRange is defined"),
        (true, false) => valid_values(&values, &default, most, e),
        (false, true) => valid_range(&range, &default, most, e),
        (false, false) => {}
    }
}

fn valid_values(values: &At, default: &At, most: Quantity, e: &mut Errors) {
    let mut previous: Option<Quantity> = None;
    for value in values.items() {
        let quantity = parse(&value);
        if quantity < previous {
            value.invalid_as(e, shown(&value), "values must be sorted in ascending order");
        }
        previous = quantity;
    }
    if values.len() > MOST_VALUES {
        values.too_many(e, values.len(), MOST_VALUES);
    } else {
        for value in values.items().filter(|value| parse(value) > Some(most)) {
            value.invalid_as(e, shown(&value), format!("option is larger than capacity value: {most}"));
        }
        for (place, value) in values.items().enumerate() {
            if values.items().take(place).any(|other| parse(&other) == parse(&value)) {
                value.duplicate_as(e, shown(&value));
            }
        }
    }
    if !values.items().any(|value| parse(&value) == parse(default)) {
        values.invalid_as(e, shown(default), "default value is not valid according to the requestPolicy");
    }
}

fn valid_range(range: &At, default: &At, most: Quantity, e: &mut Errors) {
    let (low, high, step) = (range.get("min"), range.get("max"), range.get("step"));
    let Some(least) = parse(&low) else {
        return low.required(e, "required when validRange is defined");
    };
    // Upstream says of the range what is said of the policy.
    let default = Bound { at: &range.get("default"), value: parse(default) };
    let shown_default = default.shown();
    if least > most {
        low.invalid_as(e, shown(&low), format!("min is larger than capacity value: {most}"));
    }
    if default.value < Some(least) {
        default.at.invalid_as(e, shown_default.as_str(), format!("default is less than min: {least}"));
    }
    if let Some(highest) = parse(&high) {
        if least > highest {
            high.invalid_as(e, shown(&low), format!("min is larger than max: {highest}"));
        }
        if highest > most {
            high.invalid_as(e, shown(&high), format!("max is larger than capacity value: {most}"));
        }
        if default.value > Some(highest) {
            default.at.invalid_as(e, shown_default.as_str(), format!("default is more than max: {highest}"));
        }
    }
    let bounds = [
        default,
        Bound { at: &low, value: Some(least) },
        Bound { at: &high, value: parse(&high) },
        Bound { at: &step, value: parse(&step) },
    ];
    if bounds
        .iter()
        .filter(|bound| bound.is_finer_than_milli())
        .inspect(|bound| bound.at.invalid_as(e, bound.shown(), NOT_A_MILLI))
        .count()
        > 0
    {
        return;
    }
    steps(&bounds, most, e);
}

/// A quantity, and what errors about it name.
struct Bound<'a, 'p, 'v> {
    at: &'a At<'p, 'v>,
    value: Option<Quantity>,
}

impl Bound<'_, '_, '_> {
    fn shown(&self) -> String {
        self.value.map(|value| value.to_string()).unwrap_or_default()
    }

    fn is_finer_than_milli(&self) -> bool {
        self.value.is_some_and(|value| value.nanos() % NANOS_OF_MILLI != 0)
    }
}

/// The default and the upper end are whole steps away from the lower end.
fn steps([default, low, high, step]: &[Bound; 4], most: Quantity, e: &mut Errors) {
    let (Some(width), Some(least)) = (step.value, low.value) else { return };
    if width.nanos() <= 0 {
        return step.at.invalid_as(e, step.shown(), "must be greater than zero");
    }
    let first = least.plus(width);
    if first > most {
        let detail = format!("one step {first} is larger than capacity value: {most}");
        step.at.invalid_as(e, step.shown(), detail);
    }
    let bounds = [default, low, high, step];
    let negative = |bound: &&&Bound| bound.value.is_some_and(Quantity::is_negative);
    if bounds
        .iter()
        .filter(negative)
        .inspect(|bound| bound.at.invalid_as(e, bound.shown(), check::NEGATIVE))
        .count()
        > 0
    {
        return;
    }
    for bound in [default, high] {
        let Some(value) = bound.value else { continue };
        if (value.nanos() - least.nanos()) % width.nanos() != 0 {
            let detail = format!("value is not a multiple of a given step ({width}) from ({least})");
            step.at.invalid_as(e, value.to_string(), detail);
        }
    }
}
