//! `spec.conversion`: how objects come from one version into another. Paths are those of upstream's inner form.

use std::collections::BTreeSet;

use api_machinery::field::Errors;
use api_machinery::names;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::admission::webhook;
use crate::at::At;
use crate::check;

/// The versions of `ConversionReview` that are known.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// Checks a conversion. `old` is that of the definition as it was.
pub fn validate(conversion: &Value, old: Option<&Value>, e: &mut Errors) {
    let root = At::named("spec.conversion", conversion);
    let strategy = root.get("strategy");
    if strategy.must_be_set(e) {
        check::one_of(&strategy, &["None", "Webhook"], e);
    }
    let hook = &conversion["webhook"];
    let client = At::named("spec.conversion.webhookClientConfig", &hook["clientConfig"]);
    let reviews = At::named("spec.conversion.conversionReviewVersions", &hook["conversionReviewVersions"]);
    if strategy.text() != "Webhook" {
        let only = "should not be set when strategy is not set to Webhook";
        if client.is_set() {
            client.forbidden(e, only);
        }
        if !reviews.is_empty() {
            reviews.forbidden(e, only);
        }
        return;
    }
    if client.is_set() {
        webhook::client(&client, e);
        // As upstream since 1.31: what was stored before that may stay.
        let before = old.map(|old| old["webhook"]["clientConfig"]["caBundle"].as_str().unwrap_or_default());
        if before.is_none_or(|before| authorities(before).is_ok()) {
            let bundle = client.get("caBundle");
            if let Err(why) = authorities(bundle.text()) {
                bundle.invalid(e, format!("unable to load root certificates: {why}"));
            }
        }
    } else {
        client.required(e, "required when strategy is set to Webhook");
    }
    let before = old.map(|old| &old["webhook"]["conversionReviewVersions"]);
    review_versions(&reviews, before.is_none_or(is_known_or_empty), e);
}

/// Whether there is an authority in a bundle, or none is meant. The reasons are those of upstream's client.
fn authorities(bundle: &str) -> Result<(), String> {
    if bundle.is_empty() {
        return Ok(());
    }
    let blocks = STANDARD.decode(bundle).ok().and_then(|bytes| pem::parse_many(bytes).ok());
    let blocks = blocks.filter(|blocks| !blocks.is_empty()).ok_or("unable to parse bytes as PEM block")?;
    let mut wrong = "no valid certificate authority data seen".to_owned();
    for block in blocks.iter().filter(|block| block.tag() == "CERTIFICATE") {
        match x509_parser::parse_x509_certificate(block.contents()) {
            Ok(_) => return Ok(()),
            Err(error) => wrong = format!("failed to parse certificate: {error}"),
        }
    }
    Err(wrong)
}

fn is_known_or_empty(versions: &Value) -> bool {
    let versions = versions.as_array().map_or(&[][..], Vec::as_slice);
    versions.is_empty() || versions.iter().any(|version| REVIEWS.iter().any(|known| version == known))
}

fn review_versions(versions: &At, must_be_known: bool, e: &mut Errors) {
    if versions.is_empty() {
        return versions.required(e, "");
    }
    let mut seen = BTreeSet::new();
    for version in versions.items() {
        if seen.insert(version.text()) {
            version.all_invalid(e, names::is_dns1035_label(version.text()));
        } else {
            version.invalid(e, "duplicate version");
        }
    }
    if must_be_known && !REVIEWS.iter().any(|known| seen.contains(known)) {
        versions.invalid(e, format!("must include at least one of {}", REVIEWS.join(", ")));
    }
}
