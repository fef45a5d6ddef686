//! ClusterTrustBundles: certificates that everybody may trust, for a signer or for nobody in particular.
//!
//! Who may speak for a signer is admission's to say.

use std::collections::BTreeMap;

use api_machinery::field::Errors;
use api_machinery::names;
use api_machinery::resource::{Resource, Rules};
use serde_json::Value;

use crate::at::At;
use crate::check;
use crate::entry::{Family, columns, computed, selectable};
use crate::fill::text;
use crate::print::or_none;

/// The most bytes of a bundle.
const MOST_BYTES: usize = 1 << 20;
/// What is shown of a bundle.
const OMITTED: &str = "<value omitted>";

pub(super) fn entry(family: &Family) -> Resource {
    let signer = computed(|bundle, _| or_none(text(&bundle["spec"], "signerName")));
    Resource {
        selectable: selectable(&["spec.signerName"]),
        columns: columns(&[("SignerName", "string", 0, signer)]),
        rules: Rules {
            // What a name must be depends on the signer.
            name: |_, _| Vec::new(),
            validate: names_and_signer,
            validate_create: |bundle, e| anchors(&At::root(bundle).get("spec").get("trustBundle"), e),
            validate_update,
            ..Rules::default()
        },
        ..family.cluster_kind("ClusterTrustBundle", "clustertrustbundles")
    }
}

fn names_and_signer(bundle: &Value, e: &mut Errors) {
    let root = At::root(bundle);
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let signer = spec.get("signerName");
    for (field, prefix) in [("generateName", true), ("name", false)] {
        let name = metadata.get(field);
        if !name.is_empty() {
            name.all_invalid(e, name_for(signer.text(), name.text(), prefix));
        }
    }
    if !signer.is_empty() {
        super::validate_signer(&signer, e);
    }
}

/// Why a text is no bundle's name, whoever's it would be.
pub(crate) fn bundle_name(name: &str) -> Vec<String> {
    let signer = name.rsplit_once(':').map_or_else(String::new, |(signer, _)| signer.replace(':', "/"));
    name_for(&signer, name, false)
}

fn name_for(signer: &str, name: &str, prefix: bool) -> Vec<String> {
    if signer.is_empty() {
        return match name.contains(':') {
            true => vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()],
            false => names::dns_subdomain_name(name, prefix),
        };
    }
    let wanted = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&wanted) {
        Some(rest) => names::dns_subdomain_name(rest, prefix),
        None => {
            vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {wanted}")]
        }
    }
}

fn validate_update(new: &Value, old: &Value, e: &mut Errors) {
    let (new, old) = (At::root(new), At::root(old));
    let (spec, before) = (new.get("spec"), old.get("spec"));
    let bundle = spec.get("trustBundle");
    if bundle.text() != before.get("trustBundle").text() {
        anchors(&bundle, e);
    }
    check::immutable(&spec.get("signerName"), &before.get("signerName"), e);
}

/// Certificates of authorities in PEM, each once.
fn anchors(bundle: &At, e: &mut Errors) {
    if bundle.text().len() > MOST_BYTES {
        return bundle.too_long(e, MOST_BYTES);
    }
    let before = e.len();
    let blocks = pem::parse_many(bundle.text()).unwrap_or_default();
    let mut places: BTreeMap<&[u8], Vec<String>> = BTreeMap::new();
    for (place, block) in blocks.iter().enumerate() {
        match fault(block) {
            Some(fault) => bundle.invalid_as(e, OMITTED, format!("entry {place} {fault}")),
            None => places.entry(block.contents()).or_default().push(place.to_string()),
        }
    }
    // After a block that is none these would say it again.
    if e.len() > before {
        return;
    }
    if places.is_empty() {
        bundle.invalid_as(e, OMITTED, "at least one trust anchor must be provided");
    }
    for places in places.values().filter(|places| places.len() > 1) {
        bundle.invalid_as(e, OMITTED, format!("duplicate trust anchor (indices [{}])", places.join(" ")));
    }
}

/// Why a block is nobody's anchor.
fn fault(block: &pem::Pem) -> Option<String> {
    if block.tag() != "CERTIFICATE" {
        return Some(format!("has bad block type: {}", block.tag()));
    }
    if block.headers().iter().next().is_some() {
        return Some("has PEM block headers".to_owned());
    }
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(block.contents()) else {
        return Some("does not parse as X.509".to_owned());
    };
    match certificate.basic_constraints() {
        Ok(Some(constraints)) if constraints.value.ca => None,
        Ok(_) => Some("does not have the CA bit set".to_owned()),
        Err(_) => Some("has invalid basic constraints".to_owned()),
    }
}
