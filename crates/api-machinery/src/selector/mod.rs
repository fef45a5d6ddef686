//! Label and field selectors: parsed, checked, matched and printed.
//!
//! Parsed requirements are public, so that lists can use an index. Which fields a kind lets selectors name is the
//! catalogue's to say.

mod field;
mod label;

pub use field::{FieldSelector, FieldTerm};
pub use label::{LabelSelector, Operator, Requirement, validate_label_selector};

/// Why a selector cannot be understood; the text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);
