//! Values as YAML: blocks for structure, JSON for scalars, which YAML reads as they are.

use serde_json::Value;

/// The YAML of a value.
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, 0, false);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// Writes a value; `inline` when something is already on the line and an item's first key may follow it.
fn write(out: &mut String, value: &Value, indent: usize, inline: bool) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (index, (key, value)) in fields.iter().enumerate() {
                if index > 0 || !inline {
                    pad(out, indent);
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                nested(out, value, indent + 2);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                pad(out, indent);
                out.push_str("- ");
                if matches!(item, Value::Array(list) if !list.is_empty()) {
                    // A list in a list starts on a line of its own.
                    out.pop();
                    out.push('\n');
                    write(out, item, indent + 2, false);
                } else {
                    write(out, item, indent + 2, true);
                }
            }
        }
        scalar => {
            out.push_str(&scalar.to_string());
            out.push('\n');
        }
    }
}

fn nested(out: &mut String, value: &Value, indent: usize) {
    let block = match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    out.push(if block { '\n' } else { ' ' });
    write(out, value, indent, false);
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_machinery::decode;
    use serde_json::json;

    #[test]
    fn what_is_written_reads_back() {
        for value in [
            json!({"a": {"b": [1, "x: y", null, true, {"c": [], "d": {}}, [[2], {"e": 3}]]}, "f": "no", "g": "- z\n#"}),
            json!([]),
            json!({"empty": "", "n": 1.5}),
        ] {
            let text = to_string(&value);
            let read = decode::yaml(text.as_bytes(), None).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(read.value, value, "{text}");
        }
    }
}
