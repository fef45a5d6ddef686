//! Answers of the query API, which are XML: looked at by element names, whatever the namespace.

use roxmltree::{Document, Node, ParsingOptions};

use crate::provider::ProviderError;

/// More elements than any bounded page has.
const NODES: u32 = 2_000_000;

/// Parses an answer.
pub fn parse(text: &str) -> Result<Document<'_>, ProviderError> {
    let options = ParsingOptions { nodes_limit: NODES, ..ParsingOptions::default() };
    Document::parse_with_options(text, options)
        .map_err(|error| ProviderError::Transient(format!("the cloud's answer is not XML: {error}")))
}

/// The first child element with this name.
pub fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|child| child.tag_name().name() == name)
}

/// The text of an element somewhere below, by the names on the way; empty if there is none.
pub fn text<'a>(node: Node<'a, '_>, path: &[&str]) -> &'a str {
    path.iter()
        .try_fold(node, |node, name| child(node, name))
        .and_then(|node| node.text())
        .unwrap_or("")
        .trim()
}

/// The elements of a list somewhere below: `item` in EC2's answers, `member` in ELB's.
pub fn items<'a, 'i>(node: Node<'a, 'i>, path: &[&str]) -> Vec<Node<'a, 'i>> {
    let list = path.iter().try_fold(node, |node, name| child(node, name));
    let is_item = |child: &Node<'a, 'i>| matches!(child.tag_name().name(), "item" | "member");
    list.map(|list| list.children().filter(is_item).collect()).unwrap_or_default()
}

/// The value of a tag of a resource.
pub fn tag<'a>(node: Node<'a, '_>, key: &str) -> Option<&'a str> {
    items(node, &["tagSet"])
        .into_iter()
        .find(|tag| text(*tag, &["key"]) == key)
        .map(|tag| text(tag, &["value"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_by_their_names() {
        let answer = "<R xmlns='urn:x'><set><item><a> 1 </a><tagSet><item><key>k</key><value>v</value></item></tagSet></item></set></R>";
        let document = parse(answer).expect("XML");
        let found = items(document.root_element(), &["set"]);
        assert_eq!(found.len(), 1);
        assert_eq!(text(found[0], &["a"]), "1");
        assert_eq!((tag(found[0], "k"), tag(found[0], "other")), (Some("v"), None));
        assert_eq!(text(found[0], &["b", "c"]), "");
    }

    #[test]
    fn entities_that_grow_and_what_is_no_xml_are_refused() {
        for answer in ["", "{}", "<a><b></a>", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"] {
            assert!(matches!(parse(answer), Err(ProviderError::Transient(_))), "{answer}");
        }
    }
}
