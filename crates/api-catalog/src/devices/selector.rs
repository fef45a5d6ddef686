//! Expressions that select devices: what they may see of one, and what they may cost.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use api_machinery::field::Errors;
use cel::types::{Field, Object, Schema, Type};
use cel::{Environment, PER_CALL_LIMIT};

use super::shared::{MOST_NAMED, MOST_SELECTORS, each};
use crate::at::At;

/// The longest expression, in bytes.
const LONGEST: usize = 10 << 10;

/// The variable `device`.
static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| {
    let sized = |ty, max_elements| Schema { max_elements, ..Schema::of(ty) };
    let map = |inner: Schema| {
        let ty = Type::map(Type::String, inner.ty.clone());
        Schema { max_elements: MOST_NAMED as u64, inner: Some(Arc::new(inner)), ..Schema::of(ty) }
    };
    let fields = [
        ("driver", sized(Type::String, 63)),
        ("attributes", map(map(sized(Type::Dyn, 64)))),
        ("capacity", map(map(Schema::of(Type::Opaque("kubernetes.Quantity"))))),
        ("allowMultipleAllocations", Schema::of(Type::Bool)),
    ];
    let fields: BTreeMap<String, Field> = fields
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), Field { json: name.to_owned(), schema: Arc::new(schema) }))
        .collect();
    let device = Object { name: "kubernetes.DRADevice".to_owned(), fields };
    Environment::new().with_type("device", Type::Object(Arc::new(device)))
});

/// Selectors, all of which a device must meet.
pub(super) fn selectors(list: &At, e: &mut Errors) {
    each(list, MOST_SELECTORS, e, |selector, e| {
        let cel = selector.get("cel");
        if cel.is_set() {
            expression(&cel.get("expression"), e);
        } else {
            cel.required(e, "");
        }
    });
}

fn expression(at: &At, e: &mut Errors) {
    if at.text().len() > LONGEST {
        return at.too_long(e, LONGEST);
    }
    match ENVIRONMENT.compile(at.text()) {
        Err(error) => at.invalid_text(e, format!("compilation failed: {error}")),
        Ok(program) if !matches!(program.result(), Type::Bool | Type::Dyn) => {
            at.invalid_text(
                e,
                format!("must evaluate to bool or the unknown type, not {}", program.result()),
            );
        }
        Ok(program) if program.estimated_cost().max > PER_CALL_LIMIT => {
            at.forbidden(e, "too complex, exceeds cost limit");
        }
        Ok(_) => {}
    }
}
