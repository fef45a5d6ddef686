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
