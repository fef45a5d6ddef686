//! How far apart the versions of a node and of its control plane may be. Pure.
//!
//! What makes versions apart work at all is not here: both sides leave alone what they do not know. Nodes write their
//! status by patches, and the API keeps fields that a client did not send.

/// Minor versions that a node may be behind its control plane, as upstream has it.
const BEHIND: u32 = 3;
/// Minor versions that it may be ahead: one, for as long as an update takes that began with the wrong side.
const AHEAD: u32 = 1;

/// What becomes of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skew {
    /// The versions are the same.
    None,
    /// It works, and somebody should know.
    Warned(String),
    /// It might not work.
    Refused(String),
}

/// Judges by the versions of the node and of the server, such as `v1.37.1`.
pub fn judge(node: &str, server: &str) -> Skew {
    let (Some(own), Some(theirs)) = (minor(node), minor(server)) else {
        return Skew::Warned(format!(
            "cannot tell how far this node's {node} and the server's {server} are apart"
        ));
    };
    let apart = format!("this node is of version {node}, and its server of {server}");
    match (own.0 == theirs.0).then_some((own.1, theirs.1)) {
        Some((own, theirs)) if own == theirs => Skew::None,
        Some((own, theirs)) if own > theirs && own - theirs <= AHEAD => {
            Skew::Warned(format!("{apart}: update the server, which should never be the older one"))
        }
        Some((own, theirs)) if own < theirs && theirs - own <= BEHIND => {
            Skew::Warned(format!("{apart}: update the node"))
        }
        Some((own, theirs)) if own > theirs => Skew::Refused(format!(
            "{apart}: a node may be at most {AHEAD} minor version ahead; update the server first"
        )),
        _ => Skew::Refused(format!(
            "{apart}: a node may be at most {BEHIND} minor versions behind; install a newer one here"
        )),
    }
}

/// Whether an installed Skiff may become this version: a newer one, or the same again, and no minor version is left out.
/// That is also how far apart servers of one cluster may be.
pub fn upgrade(from: &str, to: &str) -> Result<(), String> {
    let (Some(old), Some(new)) = (minor(from), minor(to)) else {
        return Err(format!("cannot tell how far {from} and {to} are apart"));
    };
    if numbers(to) < numbers(from) {
        return Err(format!(
            "{to} is older than {from}, which is installed: what that has written may be unknown to it"
        ));
    }
    if old.0 != new.0 || new.1 - old.1 > 1 {
        return Err(format!(
            "from {from} to {to}: one minor version at a time; upgrade to v{}.{} first",
            old.0,
            old.1 + 1
        ));
    }
    Ok(())
}

/// Whether a node that is upgraded goes with its server then: it is never the newer one.
pub fn node_upgrade(to: &str, server: &str) -> Result<(), String> {
    match judge(to, server) {
        Skew::Refused(words) => Err(words),
        _ if minor(to) > minor(server) => {
            Err(format!("{to} is newer than the server's {server}: upgrade the server first"))
        }
        _ => Ok(()),
    }
}

/// All numbers of a version, in which the newer one has the greater number first.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|letter: char| !letter.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Major and minor version. What comes behind them does not matter.
fn minor(version: &str) -> Option<(u32, u32)> {
    let (major, rest) = version.strip_prefix('v').unwrap_or(version).split_once('.')?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..end].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_goes_forward_by_small_steps() {
        let cases = [
            ("v1.37.1+skiff-0.1.0", ""),
            ("v1.37.1+skiff-0.2.0", ""),
            ("v1.37.10+skiff-0.0.1", ""),
            ("v1.38.0", ""),
            ("v1.37.0+skiff-0.1.0", "is older than v1.37.1+skiff-0.1.0"),
            ("v1.37.1+skiff-0.0.9", "is older"),
            ("v1.36.9+skiff-0.9.0", "is older"),
            ("v1.39.0", "upgrade to v1.38 first"),
            ("v2.0.0", "one minor version at a time"),
            ("nonsense", "cannot tell"),
        ];
        for (to, wanted) in cases {
            let said = upgrade("v1.37.1+skiff-0.1.0", to).err().unwrap_or_default();
            assert!(said.contains(wanted) && said.is_empty() == wanted.is_empty(), "{to}: {said}");
        }
        let node = |to| node_upgrade(to, "v1.37.1").err().unwrap_or_default();
        assert_eq!((node("v1.37.9"), node("v1.34.0")), (String::new(), String::new()));
        assert!(node("v1.38.0").contains("upgrade the server first"));
        assert!(node("v1.33.0").contains("at most 3 minor versions behind"));
    }

    #[test]
    fn a_node_may_be_a_little_older_and_hardly_newer() {
        let own = "v1.37.1+skiff-0.1.0";
        let cases = [
            ("v1.37.1+skiff-0.1.0", "", ""),
            ("v1.37.9", "", ""),
            ("v1.38.0-alpha.1", "warned", "update the node"),
            ("v1.40.0", "warned", "update the node"),
            ("v1.41.0", "refused", "at most 3 minor versions behind"),
            ("v1.36.2", "warned", "update the server"),
            ("v1.35.0", "refused", "at most 1 minor version ahead"),
            ("v2.37.0", "refused", "behind"),
            ("v1.37+", "", ""),
            ("nonsense", "warned", "cannot tell"),
            ("", "warned", "cannot tell"),
        ];
        for (server, wanted, words) in cases {
            let (kind, said) = match judge(own, server) {
                Skew::None => ("", String::new()),
                Skew::Warned(said) => ("warned", said),
                Skew::Refused(said) => ("refused", said),
            };
            assert!(kind == wanted && said.contains(words), "{server}: {kind} {said}");
        }
        assert!(matches!(judge("v1.40.0", "v2.0.0"), Skew::Refused(_)));
    }
}
