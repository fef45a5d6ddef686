//! JSON patch (RFC 6902), with upstream's limits: 10,000 operations, and copies that add up to no more than a body.
//!
//! Errors are worded as those of the library that upstream uses. Negative indices count from the end, as there.

use serde_json::{Map, Value};

use crate::decode::{self, MAX_BYTES, MAX_DEPTH};
use crate::field::go_quote;
use crate::status::{ApiError, Cause, Reason};

/// The most operations that one patch may have.
pub const MAX_OPERATIONS: usize = 10_000;

/// Why a patch does not apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// A path leads nowhere.
    #[error("{operation} operation does not apply: doc is missing {what}: {}: missing value", go_quote(.path))]
    Missing {
        /// Which operation.
        operation: &'static str,
        /// `path`, `key` or `from path`.
        what: &'static str,
        /// The path.
        path: String,
    },
    /// A `test` found something else.
    #[error("testing value {0} failed: test failed")]
    TestFailed(String),
    /// An index is not one.
    #[error("Unable to access invalid index: {0}: invalid index referenced")]
    BadIndex(String),
    /// Copies would make the document much larger.
    #[error("Unable to copy, the accumulated size increase of copy is {0}, exceeding the limit {MAX_BYTES}")]
    CopyTooLarge(usize),
    /// The result would be nested too deeply.
    #[error("exceeded max depth")]
    TooDeep,
}

impl From<PatchError> for ApiError {
    fn from(error: PatchError) -> ApiError {
        // Upstream's message says no more than this; its cause is what helps.
        let message = "the server rejected our request due to an error in our request";
        let cause = Cause {
            reason: "UnexpectedServerResponse".to_owned(),
            message: error.to_string(),
            ..Cause::default()
        };
        ApiError::new(Reason::Invalid, message).with_cause(cause)
    }
}

/// A list of operations.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch(Vec<Operation>);

#[derive(Clone, Debug, PartialEq)]
enum Operation {
    Add(Pointer, Value),
    Remove(Pointer),
    Replace(Pointer, Value),
    Move { from: Pointer, to: Pointer },
    Copy { from: Pointer, to: Pointer },
    Test(Pointer, Value),
}

/// A JSON pointer (RFC 6901): its text and its unescaped steps.
#[derive(Clone, Debug, PartialEq)]
struct Pointer {
    text: String,
    steps: Vec<String>,
}

impl Pointer {
    fn parse(text: &str) -> Option<Pointer> {
        let steps = match text.strip_prefix('/') {
            Some(rest) => rest.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect(),
            None if text.is_empty() => Vec::new(),
            None => return None,
        };
        Some(Pointer { text: text.to_owned(), steps })
    }

    fn is_inside(&self, other: &Pointer) -> bool {
        self.steps.len() > other.steps.len() && self.steps.starts_with(&other.steps)
    }
}

impl Patch {
    /// Reads a patch: 400 for what is none, 413 for one with too many operations.
    pub fn parse(bytes: impl AsRef<[u8]>) -> Result<Patch, ApiError> {
        let decoded = decode::json(bytes.as_ref(), None)?;
        let Value::Array(operations) = decoded.value else {
            return Err(ApiError::bad_request("error decoding patch: a JSON patch is a list of operations"));
        };
        if operations.len() > MAX_OPERATIONS {
            return Err(ApiError::too_large(format_args!(
                "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                operations.len()
            )));
        }
        operations.into_iter().map(Operation::parse).collect::<Result<_, _>>().map(Patch)
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value after all operations, or why one of them does not apply.
    pub fn apply(&self, value: &Value) -> Result<Value, ApiError> {
        self.try_apply(value).map_err(ApiError::from)
    }

    /// As [`Patch::apply`], with the error as it is.
    pub fn try_apply(&self, value: &Value) -> Result<Value, PatchError> {
        let mut document = Document { root: value.clone(), copied: 0 };
        self.0.iter().try_for_each(|operation| document.run(operation))?;
        Ok(document.root)
    }
}

impl Operation {
    fn parse(operation: Value) -> Result<Operation, ApiError> {
        let bad = |why: String| ApiError::bad_request(format!("error decoding patch: {why}"));
        let Value::Object(mut fields) = operation else {
            return Err(bad("an operation is an object".to_owned()));
        };
        let pointer = |fields: &Map<String, Value>, name: &str| {
            let text = fields.get(name).and_then(Value::as_str);
            let parsed = text.and_then(Pointer::parse);
            parsed.ok_or_else(|| bad(format!("operation needs a JSON pointer as {name:?}")))
        };
        let path = pointer(&fields, "path")?;
        let name = fields.get("op").and_then(Value::as_str).unwrap_or("").to_owned();
        match name.as_str() {
            "remove" => return Ok(Operation::Remove(path)),
            "move" => return Ok(Operation::Move { from: pointer(&fields, "from")?, to: path }),
            "copy" => return Ok(Operation::Copy { from: pointer(&fields, "from")?, to: path }),
            "add" | "replace" | "test" => {}
            _ => return Err(bad(format!("Unexpected kind: {name}"))),
        }
        let value = fields.remove("value").ok_or_else(|| bad(format!("operation {name:?} needs a value")))?;
        Ok(match name.as_str() {
            "add" => Operation::Add(path, value),
            "replace" => Operation::Replace(path, value),
            _ => Operation::Test(path, value),
        })
    }
}

struct Document {
    root: Value,
    /// Bytes that copies have added so far.
    copied: usize,
}

impl Document {
    fn run(&mut self, operation: &Operation) -> Result<(), PatchError> {
        match operation {
            Operation::Add(path, value) => self.add("add", path, value.clone()),
            Operation::Remove(path) => self.remove("remove", path, "path").map(drop),
            Operation::Replace(path, value) => self.replace(path, value),
            Operation::Test(path, value) => {
                let found = get(&self.root, &path.steps)?;
                // An absent field is null to a test, as it is upstream.
                if equal(found.unwrap_or(&Value::Null), value) {
                    Ok(())
                } else {
                    Err(PatchError::TestFailed(path.text.clone()))
                }
            }
            Operation::Copy { from, to } => {
                let found =
                    get(&self.root, &from.steps)?.ok_or_else(|| missing("copy", "from path", from))?;
                let value = charge(&mut self.copied, found).map(|()| found.clone())?;
                self.add("copy", to, value)
            }
            Operation::Move { from, to } if from == to => {
                get(&self.root, &from.steps)?.map(drop).ok_or_else(|| missing("move", "from path", from))
            }
            Operation::Move { from, to } if to.is_inside(from) => Err(missing("move", "path", to)),
            Operation::Move { from, to } => {
                let value = self.remove("move", from, "from path")?;
                // Going deeper needs a look at all of it: that is paid for like a copy.
                if to.steps.len() > from.steps.len() {
                    charge(&mut self.copied, &value)?;
                }
                self.add("move", to, value)
            }
        }
    }

    fn add(&mut self, operation: &'static str, path: &Pointer, value: Value) -> Result<(), PatchError> {
        if path.steps.len() + height(&value) > MAX_DEPTH {
            return Err(PatchError::TooDeep);
        }
        let Some((last, parents)) = path.steps.split_last() else {
            self.root = value;
            return Ok(());
        };
        match get_mut(&mut self.root, parents)? {
            Some(Value::Object(fields)) => {
                fields.insert(last.clone(), value);
                Ok(())
            }
            Some(Value::Array(items)) => {
                let at = if last == "-" { items.len() } else { index(last, items.len() + 1)? };
                items.insert(at, value);
                Ok(())
            }
            _ => Err(missing(operation, "path", path)),
        }
    }

    fn replace(&mut self, path: &Pointer, value: &Value) -> Result<(), PatchError> {
        if path.steps.len() + height(value) > MAX_DEPTH {
            return Err(PatchError::TooDeep);
        }
        let parents = path.steps.split_last().map_or(&[][..], |(_, parents)| parents);
        if get_mut(&mut self.root, parents)?.is_none() {
            return Err(missing("replace", "path", path));
        }
        let found = get_mut(&mut self.root, &path.steps)?.ok_or_else(|| missing("replace", "key", path))?;
        *found = value.clone();
        Ok(())
    }

    fn remove(
        &mut self,
        operation: &'static str,
        path: &Pointer,
        what: &'static str,
    ) -> Result<Value, PatchError> {
        let absent = || missing(operation, what, path);
        let (last, parents) = path.steps.split_last().ok_or_else(absent)?;
        match get_mut(&mut self.root, parents)? {
            Some(Value::Object(fields)) => fields.remove(last).ok_or_else(absent),
            Some(Value::Array(items)) => {
                let at = index(last, items.len())?;
                Ok(items.remove(at))
            }
            _ => Err(absent()),
        }
    }
}

fn missing(operation: &'static str, what: &'static str, path: &Pointer) -> PatchError {
    PatchError::Missing { operation, what, path: path.text.clone() }
}

fn charge(copied: &mut usize, value: &Value) -> Result<(), PatchError> {
    *copied = copied.saturating_add(size(value));
    if *copied > MAX_BYTES { Err(PatchError::CopyTooLarge(*copied)) } else { Ok(()) }
}

/// An index below `len`; negative ones count from the end.
fn index(step: &str, len: usize) -> Result<usize, PatchError> {
    let bad = || PatchError::BadIndex(step.to_owned());
    let index: i64 = step.parse().map_err(|_| bad())?;
    let len = i64::try_from(len).map_err(|_| bad())?;
    let index = if index < 0 { index + len } else { index };
    usize::try_from(index).ok().filter(|_| index < len).ok_or_else(bad)
}

fn get<'a>(root: &'a Value, steps: &[String]) -> Result<Option<&'a Value>, PatchError> {
    let mut at = root;
    for step in steps {
        let next = match at {
            Value::Object(fields) => fields.get(step),
            Value::Array(items) => items.get(index(step, items.len())?),
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

fn get_mut<'a>(root: &'a mut Value, steps: &[String]) -> Result<Option<&'a mut Value>, PatchError> {
    let mut at = root;
    for step in steps {
        let next = match at {
            Value::Object(fields) => fields.get_mut(step),
            Value::Array(items) => {
                let at = index(step, items.len())?;
                items.get_mut(at)
            }
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// Levels of objects and lists.
fn height(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(height).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(height).max().unwrap_or(0),
        _ => 0,
    }
}

/// About as many bytes as the value has when it is written, and more for what takes much more in memory.
fn size(value: &Value) -> usize {
    match value {
        Value::Object(fields) => {
            32 + fields.iter().map(|(key, value)| key.len() + 4 + size(value)).sum::<usize>()
        }
        Value::Array(items) => 2 + items.iter().map(|item| 1 + size(item)).sum::<usize>(),
        Value::String(text) => 2 + text.len(),
        _ => 5,
    }
}

/// Equality as the RFC has it: 1 and 1.0 are the same number.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64().is_some_and(|a| Some(a) == b.as_f64()),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            let same = |(key, value): (&String, &Value)| b.get(key).is_some_and(|other| equal(value, other));
            a.len() == b.len() && a.iter().all(same)
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests;
