//! Named formats, such as those of Kubernetes' names: `format.dns1123Label().validate(name)`.

use std::rc::Rc;

use api_machinery::names;
use base64::Engine as _;

use super::{Line, Opaque, Outcome, text};
use crate::cost::Charge::{One, Text as Walked};
use crate::time::Timestamp;
use crate::value::{EvalError, Value};

/// A format and how a text is checked against it.
#[derive(Debug)]
pub struct Named {
    /// As `format.named` knows it.
    pub name: &'static str,
    check: fn(&str) -> Vec<String>,
}

fn prefix(value: &str, check: fn(&str) -> Vec<String>) -> Vec<String> {
    // A prefix may end where a generated suffix begins.
    check(&value.strip_suffix('-').map_or(value.to_owned(), |rest| format!("{rest}a")))
}

fn one(fine: bool, message: &str) -> Vec<String> {
    if fine { Vec::new() } else { vec![message.to_owned()] }
}

static FORMATS: [Named; 12] = [
    Named { name: "dns1123Label", check: names::is_dns1123_label },
    Named { name: "dns1123Subdomain", check: names::is_dns1123_subdomain },
    Named { name: "dns1035Label", check: names::is_dns1035_label },
    Named { name: "qualifiedName", check: names::is_qualified_name },
    Named { name: "dns1123LabelPrefix", check: |value| prefix(value, names::is_dns1123_label) },
    Named { name: "dns1123SubdomainPrefix", check: |value| prefix(value, names::is_dns1123_subdomain) },
    Named { name: "dns1035LabelPrefix", check: |value| prefix(value, names::is_dns1035_label) },
    Named { name: "labelValue", check: names::is_valid_label_value },
    Named { name: "uuid", check: |value| one(is_uuid(value), "does not match the UUID format") },
    Named {
        name: "byte",
        check: |value| {
            let fine = base64::engine::general_purpose::STANDARD.decode(value).is_ok();
            one(fine, "invalid base64")
        },
    },
    Named { name: "date", check: |value| one(Timestamp::parse_date(value).is_some(), "invalid date") },
    Named { name: "datetime", check: |value| one(Timestamp::parse(value).is_some(), "invalid datetime") },
];

fn is_uuid(value: &str) -> bool {
    let hexadecimal = |c: char| c.is_ascii_hexdigit();
    let parts: Vec<&str> = value.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [8, 4, 4, 4, 12] && parts.iter().all(|part| part.chars().all(hexadecimal))
}

macro_rules! named {
    ($($function:literal => $index:literal),* $(,)?) => {
        &[$(($function, "() -> kubernetes.NamedFormat", One, |_, _| Ok(value(&FORMATS[$index])))),*,
            ("format.named", "(string) -> optional_type(kubernetes.NamedFormat)", One, |_, args| {
                let wanted = text(&args[0])?;
                let found = FORMATS.iter().find(|format| format.name == wanted);
                Ok(found.map_or(Value::Optional(None), |format| Value::some(value(format))))
            }),
            ("validate", "kubernetes.NamedFormat.(string) -> optional_type(list(string))", Walked(1), |_, args| validate(args)),
        ]
    };
}

pub(super) const LINES: &[Line] = named! {
    "format.dns1123Label" => 0,
    "format.dns1123Subdomain" => 1,
    "format.dns1035Label" => 2,
    "format.qualifiedName" => 3,
    "format.dns1123LabelPrefix" => 4,
    "format.dns1123SubdomainPrefix" => 5,
    "format.dns1035LabelPrefix" => 6,
    "format.labelValue" => 7,
    "format.uuid" => 8,
    "format.byte" => 9,
    "format.date" => 10,
    "format.datetime" => 11,
};

fn value<'a>(format: &'static Named) -> Value<'a> {
    Value::Opaque(Rc::new(Opaque::Format(format)))
}

fn validate<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let Value::Opaque(opaque) = &args[0] else { return Err(EvalError::NoOverload) };
    let Opaque::Format(format) = &**opaque else { return Err(EvalError::NoOverload) };
    let errors = (format.check)(text(&args[1])?);
    if errors.is_empty() {
        return Ok(Value::Optional(None));
    }
    Ok(Value::some(Value::list(errors.into_iter().map(Value::text).collect())))
}
