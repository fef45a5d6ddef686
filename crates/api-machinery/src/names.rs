//! What names may look like: DNS labels and subdomains, qualified names, label values and their kin.
//!
//! Every check returns messages without a path, empty when the name is fine, worded as upstream words them.

/// `IsDNS1123Label`.
pub fn is_dns1123_label(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > DNS1123_LABEL_MAX {
        messages.push(max_len(DNS1123_LABEL_MAX));
    }
    if !dns1123_label(value) {
        if dns1123_subdomain(value) {
            messages.push("must not contain dots".to_owned());
        } else {
            messages.push(regex_error(DNS1123_LABEL_MESSAGE, DNS1123_LABEL, &["my-name", "123-abc"]));
        }
    }
    messages
}

/// `IsDNS1123Subdomain`.
pub fn is_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        messages.push(max_len(DNS1123_SUBDOMAIN_MAX));
    }
    if !dns1123_subdomain(value) {
        messages.push(regex_error(DNS1123_SUBDOMAIN_MESSAGE, DNS1123_SUBDOMAIN, &["example.com"]));
    }
    messages
}

/// `IsDNS1035Label`.
pub fn is_dns1035_label(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > DNS1035_LABEL_MAX {
        messages.push(max_len(DNS1035_LABEL_MAX));
    }
    let starts = value.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    if !starts || !dns1123_label(value) {
        messages.push(regex_error(DNS1035_LABEL_MESSAGE, DNS1035_LABEL, &["my-name", "abc-123"]));
    }
    messages
}

/// `IsWildcardDNS1123Subdomain`.
pub fn is_wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        messages.push(max_len(DNS1123_SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(dns1123_subdomain) {
        messages.push(regex_error(WILDCARD_MESSAGE, WILDCARD, &["*.example.com"]));
    }
    messages
}

/// `IsQualifiedName`: `name`, or `prefix/name` with a DNS prefix.
pub fn is_qualified_name(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    let (prefix, name) = match value.split('/').collect::<Vec<_>>()[..] {
        [name] => (None, name),
        [prefix, name] => (Some(prefix), name),
        _ => {
            let shape =
                regex_error(QUALIFIED_NAME_MESSAGE, QUALIFIED_NAME, &["MyName", "my.name", "123-abc"]);
            return vec![format!(
                "a valid label key {shape} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    match prefix {
        Some("") => messages.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            messages
                .extend(is_dns1123_subdomain(prefix).into_iter().map(|text| format!("prefix part {text}")));
        }
        None => {}
    }
    if name.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if name.len() > QUALIFIED_NAME_MAX {
        messages.push(format!("name part {}", max_len(QUALIFIED_NAME_MAX)));
    }
    if !qualified_name(name) {
        let shape = regex_error(QUALIFIED_NAME_MESSAGE, QUALIFIED_NAME, &["MyName", "my.name", "123-abc"]);
        messages.push(format!("name part {shape}"));
    }
    messages
}

/// `IsValidLabelValue`.
pub fn is_valid_label_value(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > LABEL_VALUE_MAX {
        messages.push(max_len(LABEL_VALUE_MAX));
    }
    if !value.is_empty() && !qualified_name(value) {
        messages.push(regex_error(LABEL_VALUE_MESSAGE, LABEL_VALUE, &["MyValue", "my_value", "12345"]));
    }
    messages
}

/// `IsEnvVarName`: since 1.34 any printable ASCII but `=`.
pub fn is_env_var_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|byte| matches!(byte, 0x20..=0x7e) && byte != b'=') {
        Vec::new()
    } else {
        vec![RELAXED_ENV_MESSAGE.to_owned()]
    }
}

/// `IsCIdentifier`.
pub fn is_c_identifier(value: &str) -> Vec<String> {
    let mut bytes = value.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if first && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        Vec::new()
    } else {
        vec![regex_error(C_IDENTIFIER_MESSAGE, C_IDENTIFIER, &["my_name", "MY_NAME", "MyName"])]
    }
}

/// `IsConfigMapKey`: keys of ConfigMaps and Secrets.
pub fn is_config_map_key(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        messages.push(max_len(DNS1123_SUBDOMAIN_MAX));
    }
    let shape = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if value.is_empty() || !value.bytes().all(shape) {
        messages.push(regex_error(
            CONFIG_MAP_KEY_MESSAGE,
            CONFIG_MAP_KEY,
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    messages.extend(has_relative_path(value));
    messages
}

fn has_relative_path(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if value.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// `IsValidPortName`.
pub fn is_valid_port_name(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 15 {
        messages.push(max_len(15));
    }
    let shape = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if value.is_empty() || !value.bytes().all(shape) {
        messages.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|byte| byte.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        messages.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        messages.push("must not begin or end with a hyphen".to_owned());
    }
    messages
}

/// `IsValidPortNum`.
pub fn is_valid_port_num(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![inclusive_range(1, 65535)] }
}

/// `InclusiveRangeError`.
pub fn inclusive_range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// What every object name must hold to be one segment of a path, whatever its kind says.
pub fn is_path_segment(value: &str) -> Vec<String> {
    match value {
        "." => return vec!["may not be '.'".to_owned()],
        ".." => return vec!["may not be '..'".to_owned()],
        _ => {}
    }
    path_segment_prefix(value)
}

fn path_segment_prefix(value: &str) -> Vec<String> {
    ["/", "%"]
        .iter()
        .filter(|illegal| value.contains(**illegal))
        .map(|illegal| format!("may not contain '{illegal}'"))
        .collect()
}

/// Name rule of most kinds: a DNS subdomain.
pub fn dns_subdomain_name(name: &str, prefix: bool) -> Vec<String> {
    is_dns1123_subdomain(&unprefixed(name, prefix))
}

/// Name rule of kinds whose names become host names, such as namespaces: a DNS label.
pub fn dns_label_name(name: &str, prefix: bool) -> Vec<String> {
    is_dns1123_label(&unprefixed(name, prefix))
}

/// Name rule of services: a DNS label that starts with a letter.
pub fn dns1035_label_name(name: &str, prefix: bool) -> Vec<String> {
    is_dns1035_label(&unprefixed(name, prefix))
}

/// Name rule of kinds with free names, such as roles: anything that is one segment of a path.
pub fn path_segment_name(name: &str, prefix: bool) -> Vec<String> {
    if prefix { path_segment_prefix(name) } else { is_path_segment(name) }
}

/// A prefix that ends in a dash is fine when what follows will be: the dash counts as a letter.
fn unprefixed(name: &str, prefix: bool) -> String {
    match name.strip_suffix('-') {
        Some(stem) if prefix && name.len() > 1 => format!("{stem}a"),
        _ => name.to_owned(),
    }
}

const DNS1123_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_LABEL_MAX: usize = 63;
const DNS1123_LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const DNS1123_SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1123_SUBDOMAIN_MAX: usize = 253;
const DNS1123_SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const DNS1035_LABEL: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const DNS1035_LABEL_MAX: usize = 63;
const DNS1035_LABEL_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const WILDCARD: &str = r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const WILDCARD_MESSAGE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
const QUALIFIED_NAME: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_NAME_MAX: usize = 63;
const QUALIFIED_NAME_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const LABEL_VALUE_MAX: usize = 63;
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const RELAXED_ENV_MESSAGE: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
const C_IDENTIFIER: &str = "[A-Za-z_][A-Za-z0-9_]*";
const C_IDENTIFIER_MESSAGE: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
const CONFIG_MAP_KEY: &str = r"[-._a-zA-Z0-9]+";
const CONFIG_MAP_KEY_MESSAGE: &str =
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";

fn max_len(length: usize) -> String {
    format!("must be no more than {length} bytes")
}

/// `RegexError`.
fn regex_error(message: &str, pattern: &str, examples: &[&str]) -> String {
    let mut text = format!("{message} (");
    if !examples.is_empty() {
        // Two spaces before "or": upstream's, and clients compare messages.
        let quoted: Vec<String> = examples.iter().map(|example| format!("'{example}'")).collect();
        text.push_str(&format!("e.g. {}, ", quoted.join(",  or ")));
    }
    text.push_str(&format!("regex used for validation is '{pattern}')"));
    text
}

fn dns1123_label(value: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !value.is_empty() && value.bytes().all(inner) && !value.starts_with('-') && !value.ends_with('-')
}

fn dns1123_subdomain(value: &str) -> bool {
    value.split('.').all(dns1123_label)
}

fn qualified_name(value: &str) -> bool {
    let alphanumeric = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    alphanumeric(value.bytes().next()) && alphanumeric(value.bytes().last()) && value.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Check = fn(&str) -> Vec<String>;

    #[test]
    fn what_is_fine_and_what_is_not() {
        let long = "a".repeat(64);
        let very_long = "a".repeat(254);
        let cases: [(Check, &[&str], &[&str]); 10] = [
            (is_dns1123_label, &["a", "a-1", "1"], &["", "-a", "a-", "A", "a.b", "a_b", &long, "a\0b"]),
            (is_dns1123_subdomain, &["a", "a.b-c.1"], &["", ".", "a..b", "a.", "A", "..", "a/b", &very_long]),
            (is_dns1035_label, &["a", "a-1"], &["", "1a", "a.b", "a-", &long]),
            (is_wildcard_dns1123_subdomain, &["*.a.b"], &["*", "*.", "a.b", "*.*.b"]),
            (is_qualified_name, &["a", "A_b.c-1", "x.y/a"], &["", "/a", "a/", "a/b/c", "X/a", "a b", &long]),
            (is_valid_label_value, &["", "a", "A_b.c"], &["-a", "a ", "a/b", &long]),
            (is_env_var_name, &["A", "a b", "1.x"], &["", "A=B", "\u{e9}", "a\tb"]),
            (
                is_config_map_key,
                &["a", "A_b-.c", "..a.".trim_start_matches('.')],
                &["", ".", "..", "..a", "a/b"],
            ),
            (is_valid_port_name, &["http", "a-1"], &["", "123", "a--b", "-a", "A", "aaaaaaaaaaaaaaaa"]),
            (is_path_segment, &["", "a:b", "A b"], &[".", "..", "a/b", "a%b"]),
        ];
        for (number, (check, fine, wrong)) in cases.iter().enumerate() {
            for value in *fine {
                assert_eq!(check(value), Vec::<String>::new(), "case {number}: {value:?}");
            }
            for value in *wrong {
                assert!(!check(value).is_empty(), "case {number}: {value:?}");
            }
        }
    }

    #[test]
    fn wording() {
        assert_eq!(
            is_dns1123_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
              and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(is_dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(is_dns1123_subdomain(&"a".repeat(254)), ["must be no more than 253 bytes"]);
        assert_eq!(is_path_segment("a/%"), ["may not contain '/'", "may not contain '%'"]);
    }

    #[test]
    fn prefixes_may_end_in_a_dash() {
        assert!(dns_subdomain_name("a-", true).is_empty());
        assert!(!dns_subdomain_name("a-", false).is_empty());
        assert!(!dns_label_name("-", true).is_empty());
        assert!(path_segment_name("..", true).is_empty());
    }
}
