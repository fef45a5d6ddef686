//! Which controllers run (`--controllers`), by upstream's names.

/// Every controller: its name, and the short one that it had before.
const KNOWN: [(&str, &str); 29] = [
    ("bootstrap-signer-controller", "bootstrapsigner"),
    ("certificatesigningrequest-approving-controller", "csrapproving"),
    ("certificatesigningrequest-cleaner-controller", "csrcleaner"),
    ("certificatesigningrequest-signing-controller", "csrsigning"),
    ("clusterrole-aggregation-controller", "clusterrole-aggregation"),
    ("cronjob-controller", "cronjob"),
    ("daemonset-controller", "daemonset"),
    ("deployment-controller", "deployment"),
    ("disruption-controller", "disruption"),
    ("endpoints-controller", "endpoint"),
    ("endpointslice-controller", "endpointslice"),
    ("garbage-collector-controller", "garbagecollector"),
    ("job-controller", "job"),
    ("namespace-controller", "namespace"),
    ("node-ipam-controller", "nodeipam"),
    ("node-lifecycle-controller", "nodelifecycle"),
    ("persistentvolume-protection-controller", "pv-protection"),
    ("persistentvolumeclaim-protection-controller", "pvc-protection"),
    ("pod-garbage-collector-controller", "podgc"),
    ("replicaset-controller", "replicaset"),
    ("replicationcontroller-controller", "replicationcontroller"),
    ("resourcequota-controller", "resourcequota"),
    ("root-ca-certificate-publisher-controller", "root-ca-cert-publisher"),
    ("serviceaccount-controller", "serviceaccount"),
    ("statefulset-controller", "statefulset"),
    ("storage-version-migrator-controller", "storage-version-migrator-controller"),
    ("token-cleaner-controller", "tokencleaner"),
    ("ttl-after-finished-controller", "ttl-after-finished"),
    ("volumeattributesclass-protection-controller", "vac-protection"),
];

/// There is no such controller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not in the list of known controllers")]
pub struct UnknownController(pub String);

/// The controllers that run; all by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(Vec<String>);

impl Default for Selection {
    fn default() -> Self {
        Self(vec!["*".to_owned()])
    }
}

impl Selection {
    /// From words: `*` is all, `name` one of them, `-name` all but that. The first word about a controller counts.
    ///
    /// # Errors
    /// A name that no controller has.
    pub fn new(words: &[String]) -> Result<Self, UnknownController> {
        let canonical = |word: &String| {
            let (sign, name) = word.strip_prefix('-').map_or(("", word.as_str()), |name| ("-", name));
            if word == "*" {
                return Ok(word.clone());
            }
            let found = KNOWN.iter().find(|(long, short)| [*long, *short].contains(&name));
            found.map(|(long, _)| format!("{sign}{long}")).ok_or_else(|| UnknownController(name.to_owned()))
        };
        words.iter().map(canonical).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a controller runs.
    pub(crate) fn has(&self, name: &str) -> bool {
        let word = self.0.iter().find(|word| word.strip_prefix('-').unwrap_or(word) == name);
        word.map_or_else(|| self.0.iter().any(|word| word == "*"), |word| !word.starts_with('-'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(words: &str) -> Result<Selection, String> {
        let words: Vec<String> = words.split(',').map(str::to_owned).collect();
        Selection::new(&words).map_err(|error| error.to_string())
    }

    #[test]
    fn stars_names_and_exceptions() {
        for (words, deployment, namespace) in [
            ("*", true, true),
            ("*,-deployment-controller", false, true),
            ("-deployment,*", false, true),
            ("deployment-controller", true, false),
            ("deployment,-deployment", true, false),
            ("-namespace", false, false),
        ] {
            let selection = selection(words).expect("known");
            assert_eq!(selection.has("deployment-controller"), deployment, "{words}");
            assert_eq!(selection.has("namespace-controller"), namespace, "{words}");
        }
        let error = selection("*,-weather").expect_err("there is none");
        assert_eq!(error, "\"weather\" is not in the list of known controllers");
        assert!(selection("").is_err());
    }
}
