//! Binaries of other versions, without building them: copies of the binary under test that say that they are older or
//! newer. What they do is the same, so this shows the rules about versions and that nothing is taken for granted of the
//! other side's version; it does not show how a real older release behaves.

use std::path::Path;

use api_machinery::VERSION;

use crate::machine::{Cluster, binary};

/// The version so many minor versions from the one under test.
pub fn version(minors: i32) -> String {
    let mut parts: Vec<String> = VERSION.splitn(3, '.').map(str::to_owned).collect();
    let minor: i32 = parts[1].parse().expect("a minor version");
    parts[1] = (minor + minors).to_string();
    parts.join(".")
}

/// Makes `to` a binary so many minor versions from the one under test, and gives back what it calls itself.
pub fn other_binary(cluster: &Cluster, to: &Path, minors: i32) -> String {
    let other = version(minors);
    assert_eq!(other.len(), VERSION.len(), "nothing in the file may move");
    let (from, to) = (binary().display().to_string(), to.display());
    cluster.inside(&format!(
        "LC_ALL=C sed 's/{}/{other}/g' {from} >{to} && chmod 755 {to} && [ \"$({to} --version)\" = 'skiff {other}' ] && \
         [ $(stat -c %s {from}) = $(stat -c %s {to}) ]",
        VERSION.replace('.', "\\.")
    ));
    other
}
