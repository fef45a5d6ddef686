//! Rules as data: what the fields of one object must be, for those that no other field bears on.

use api_machinery::field::Errors;
use api_machinery::names;

use super::{
    NameCheck, between, label_selector, labels, name, not_negative, one_of, required_name, required_one_of,
};
use crate::at::At;

/// What a field must be. Absent fields pass, but for those that say `Required`.
pub(crate) enum Rule {
    /// Not empty.
    Required,
    /// A text of these.
    OneOf(&'static [&'static str]),
    /// A text of these, not empty.
    RequiredOneOf(&'static [&'static str]),
    /// A text that passes.
    Name(NameCheck),
    /// A text that passes, not empty.
    RequiredName(NameCheck),
    /// 0 or more.
    NotNegative,
    /// Between two bounds, both included.
    Between(i64, i64),
    /// A map of labels.
    Labels,
    /// A label selector.
    Selector,
    /// An object whose fields follow a table.
    Object(&'static [(&'static str, Rule)]),
    /// A list of such objects.
    Each(&'static [(&'static str, Rule)]),
    /// Anything else, if the field is set.
    Check(fn(&At, &mut Errors)),
}

/// Fields and what they must be.
pub(crate) type Table = [(&'static str, Rule)];

/// Checks the fields of an object.
pub(crate) fn follow(at: &At, table: &Table, e: &mut Errors) {
    for (field, rule) in table {
        rule.apply(&at.get(field), e);
    }
}

impl Rule {
    fn apply(&self, at: &At, e: &mut Errors) {
        match self {
            Rule::Required => {
                at.must_be_set(e);
            }
            Rule::OneOf(supported) => one_of(at, supported, e),
            Rule::RequiredOneOf(supported) => required_one_of(at, supported, e),
            Rule::Name(check) => name(at, *check, e),
            Rule::RequiredName(check) => required_name(at, *check, e),
            Rule::NotNegative => not_negative(at, e),
            Rule::Between(low, high) => between(at, *low, *high, e),
            Rule::Labels => labels(at, e),
            Rule::Selector => label_selector(at, e),
            Rule::Object(table) if at.is_set() => follow(at, table, e),
            Rule::Each(table) => at.items().for_each(|item| follow(&item, table, e)),
            Rule::Check(check) if at.is_set() => check(at, e),
            Rule::Object(_) | Rule::Check(_) => {}
        }
    }
}

/// A DNS label.
pub(crate) const LABEL: NameCheck = names::is_dns1123_label;
/// A DNS subdomain, as most names are.
pub(crate) const SUBDOMAIN: NameCheck = names::is_dns1123_subdomain;
/// A name with an optional DNS prefix.
pub(crate) const QUALIFIED: NameCheck = names::is_qualified_name;
