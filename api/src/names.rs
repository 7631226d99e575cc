//! What names, labels and label values may look like, and what upstream says when they do not.
//!
//! Source: `k8s.io/apimachinery/pkg/util/validation`. Each function answers with the rule that was
//! broken, ready to follow `Invalid value: …: `.

const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_PART_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const QUALIFIED_RULE: &str = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
const LABEL_VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_RULE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME_RULE: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";
const PORT_NAME_SPELLING_RULE: &str =
    "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)";

/// A label of RFC 1123: what namespaces and containers are named.
pub fn dns_1123_label(name: &str) -> Option<String> {
    if name.len() > 63 {
        return Some(too_long(63));
    }
    (!is_label(name, |b| b.is_ascii_lowercase() || b.is_ascii_digit()))
        .then(|| LABEL_RULE.to_owned())
}

/// A subdomain of RFC 1123: what most objects are named.
pub fn dns_1123_subdomain(name: &str) -> Option<String> {
    if name.len() > 253 {
        return Some(too_long(253));
    }
    let fits = name
        .split('.')
        .all(|part| is_label(part, |b| b.is_ascii_lowercase() || b.is_ascii_digit()));
    (!fits).then(|| SUBDOMAIN_RULE.to_owned())
}

/// A label of RFC 1035: what Services are named.
pub fn dns_1035_label(name: &str) -> Option<String> {
    if name.len() > 63 {
        return Some(too_long(63));
    }
    (!is_label(name, |b| b.is_ascii_lowercase())).then(|| DNS_1035_RULE.to_owned())
}

/// A label or annotation key: an optional subdomain and a slash, then a name.
pub fn qualified_name(key: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let name = match key.split_once('/') {
        None => key,
        Some((_, rest)) if rest.contains('/') => return vec![QUALIFIED_RULE.to_owned()],
        Some((prefix, name)) => {
            if prefix.is_empty() {
                broken.push("prefix part must be non-empty".to_owned());
            } else if let Some(rule) = dns_1123_subdomain(prefix) {
                broken.push(format!("prefix part {rule}"));
            }
            name
        }
    };
    if name.is_empty() {
        broken.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        broken.push(format!("name part {}", too_long(63)));
    }
    if !is_qualified_part(name) {
        broken.push(QUALIFIED_PART_RULE.to_owned());
    }
    broken
}

/// A label's value.
pub fn label_value(value: &str) -> Option<String> {
    if value.len() > 63 {
        return Some(too_long(63));
    }
    (!value.is_empty() && !is_qualified_part(value)).then(|| LABEL_VALUE_RULE.to_owned())
}

/// A key of a ConfigMap or a Secret.
pub fn config_key(key: &str) -> Option<String> {
    if key.len() > 253 {
        return Some(too_long(253));
    }
    let spelled = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if key.is_empty() || !key.bytes().all(spelled) {
        return Some(CONFIG_KEY_RULE.to_owned());
    }
    match key {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if key.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// The name of an environment variable.
pub fn environment_variable(name: &str) -> Option<String> {
    let printable = |b: u8| (b' '..=b'~').contains(&b) && b != b'=';
    (name.is_empty() || !name.bytes().all(printable)).then(|| ENV_NAME_RULE.to_owned())
}

/// The name of a port (an IANA service name, RFC 6335 section 5.1).
pub fn port_name(name: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if name.len() > 15 {
        broken.push(too_long_characters(15));
    }
    if !name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        || name.is_empty()
    {
        broken.push(PORT_NAME_SPELLING_RULE.to_owned());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        broken.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        broken.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        broken.push("must not begin or end with a hyphen".to_owned());
    }
    broken
}

fn too_long(bytes_max: usize) -> String {
    format!("must be no more than {bytes_max} bytes")
}

fn too_long_characters(characters_max: usize) -> String {
    format!("must be no more than {characters_max} characters")
}

/// Letters, digits and inner hyphens, the first one accepted by `first`.
fn is_label(text: &str, first: impl Fn(u8) -> bool) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&head), Some(&last)) => {
            first(head) && alphanumeric(last) && bytes.iter().all(|&b| alphanumeric(b) || b == b'-')
        }
        _ => false,
    }
}

fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_by_their_own_rule() {
        let fits = |rule: fn(&str) -> Option<String>, name: &str| rule(name).is_none();
        assert!(fits(dns_1123_label, "web-1"));
        assert!(fits(dns_1123_label, "1web"));
        assert!(!fits(dns_1123_label, "web.example"));
        assert!(!fits(dns_1123_label, "Web"));
        assert!(!fits(dns_1123_label, "-web"));
        assert!(!fits(dns_1123_label, ""));
        assert!(fits(dns_1123_subdomain, "web.example"));
        assert!(!fits(dns_1123_subdomain, "web..example"));
        assert!(!fits(dns_1123_subdomain, &"a".repeat(254)));
        assert!(fits(dns_1035_label, "web-1"));
        assert!(!fits(dns_1035_label, "1web"));
        assert!(fits(label_value, ""));
        assert!(fits(label_value, "v1.2_Final"));
        assert!(!fits(label_value, "a b"));
        assert!(fits(config_key, ".bashrc"));
        assert!(!fits(config_key, "..data"));
        assert!(!fits(config_key, "a/b"));
        assert!(!fits(environment_variable, "A=B"));
    }

    #[test]
    fn label_keys_may_have_one_prefix() {
        let fits = |key: &str| qualified_name(key).is_empty();
        assert!(fits("app"));
        assert!(fits("app.kubernetes.io/name"));
        assert!(!fits("/name"));
        assert!(!fits("a/b/c"));
        assert!(!fits("app.kubernetes.io/"));
        assert!(!fits("-app"));
    }

    #[test]
    fn port_names_follow_rfc_6335() {
        let fits = |name: &str| port_name(name).is_empty();
        assert!(fits("http"));
        assert!(fits("h2-tls"));
        assert!(!fits("8080"));
        assert!(!fits("a--b"));
        assert!(!fits("-a"));
        assert!(!fits("a-very-long-port-name"));
    }
}
