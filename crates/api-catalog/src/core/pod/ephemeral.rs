//! `pods/ephemeralcontainers`: containers are added to a pod that runs, and stay.

use api_machinery::field::Errors;
use api_machinery::meta;
use api_machinery::resource::Part;
use serde_json::Value;

use super::validate;
use crate::at::At;
use crate::check;
use crate::fill::keep_old;

pub(crate) const PART: Part = Part { name: "ephemeralcontainers", prepare, validate: added };

/// Nothing else changes.
fn prepare(new: &mut Value, old: &Value) {
    let wanted = super::restored(new, old);
    keep_old(&mut new["spec"], &wanted, "ephemeralContainers");
}

fn added(new: &Value, old: &Value, e: &mut Errors) {
    validate::pod(new, e);
    let (root, before) = (At::root(new), At::root(old));
    if meta::annotation(old, "kubernetes.io/config.mirror").is_some() {
        return root.forbidden(e, "static pods do not support ephemeral containers");
    }
    let (spec, before) = (root.get("spec"), before.get("spec"));
    let (list, known) = (spec.get("ephemeralContainers"), before.get("ephemeralContainers"));
    for old in known.items() {
        let name = old.get("name").text().to_owned();
        match list.items().find(|one| one.get("name").text() == name) {
            None => {
                list.forbidden(e, &format!("existing ephemeral containers {name:?} may not be removed\n"))
            }
            Some(new) if !check::same(new.value(), old.value()) => {
                list.forbidden(e, &format!("existing ephemeral containers {name:?} may not be changed\n"));
            }
            Some(_) => {}
        }
    }
}
