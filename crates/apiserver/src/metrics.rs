//! Counters for `/metrics`, with labels that clients cannot make up.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use http::{Method, StatusCode};

/// Counters of requests.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

/// The methods that are counted by name; everything else is `other`.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

impl Metrics {
    /// Counts an answered request.
    pub fn count(&self, method: &Method, code: StatusCode) {
        let method = METHODS.into_iter().find(|known| *known == method.as_str()).unwrap_or("other");
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((method, code.as_u16())).or_default() += 1;
    }

    /// The text that Prometheus reads.
    pub fn render(&self, revision: u64) -> String {
        let mut out = String::from(
            "# HELP apiserver_request_total Counter of apiserver requests by HTTP method and response code.\n\
             # TYPE apiserver_request_total counter\n",
        );
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((method, code), count) in requests.iter() {
            writeln!(out, "apiserver_request_total{{verb=\"{method}\",code=\"{code}\"}} {count}")
                .expect("writing to a string cannot fail");
        }
        writeln!(
            out,
            "# HELP skiff_store_revision The newest revision that the watch cache holds.\n\
             # TYPE skiff_store_revision gauge\nskiff_store_revision {revision}"
        )
        .expect("writing to a string cannot fail");
        out
    }
}
