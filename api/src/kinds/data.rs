//! What ConfigMaps and Secrets share: data by key, limited in size, possibly immutable.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::names;
use crate::status::FieldError;

/// Source: `MaxSecretSize`, which ConfigMaps share.
const BYTES_MAX: usize = 1 << 20;

/// Checks the keys and the size of these members; on update, that an immutable object stays.
pub(super) fn validate(new: &Value, old: Option<&Value>, members: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for (position, member) in members.iter().enumerate() {
        for (key, value) in new[member].as_object().into_iter().flatten() {
            let field = format!("{member}[{key}]");
            if let Some(rule) = names::config_key(key) {
                errors.push(FieldError::invalid(field.as_str(), key.as_str(), &rule));
            }
            let earlier = members[..position]
                .iter()
                .find(|other| new[**other].get(key).is_some());
            if let Some(other) = earlier {
                let rule = format!("duplicate of key present in {other}");
                errors.push(FieldError::invalid(field, key.as_str(), &rule));
            }
            bytes += value.as_str().map_or(0, str::len);
        }
    }
    if bytes > BYTES_MAX {
        errors.push(FieldError::too_long("", BYTES_MAX));
    }
    if let Some(old) = old.filter(|old| old["immutable"] == true) {
        errors.extend(stays(new, old, members));
    }
    errors
}

fn stays(new: &Value, old: &Value, members: &[&str]) -> Vec<FieldError> {
    const WHY: &str = "field is immutable when `immutable` is set";
    let mut errors = Vec::new();
    if new["immutable"] != true {
        errors.push(FieldError::forbidden("immutable", WHY));
    }
    for member in members {
        if new.get(member) != old.get(member) {
            errors.push(FieldError::forbidden(*member, WHY));
        }
    }
    errors
}

/// The keys a Secret of a well-known type must have.
pub(super) fn required_keys(secret: &Value) -> Vec<FieldError> {
    let keys: &[&str] = match secret["type"].as_str().unwrap_or_default() {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    let data = |key: &str| secret["data"].get(key).and_then(Value::as_str);
    let mut errors = Vec::new();
    for key in keys {
        match data(key) {
            None => errors.push(FieldError::required(format!("data[{key}]"), "")),
            Some(encoded) if key.contains("docker") => {
                let decoded = STANDARD.decode(encoded).unwrap_or_default();
                if serde_json::from_slice::<Value>(&decoded).is_err() {
                    errors.push(FieldError::invalid(
                        format!("data[{key}]"),
                        "<secret contents redacted>",
                        "invalid character in JSON",
                    ));
                }
            }
            Some(_) => {}
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(new: Value, old: Option<Value>, expect: &[&str]) {
        let errors = validate(&new, old.as_ref(), &["data", "binaryData"]);
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(told, expect);
    }

    #[test]
    fn keys_are_file_names_and_unique() {
        check(json!({ "data": { "a.conf": "1" } }), None, &[]);
        check(
            json!({ "data": { "a": "1" }, "binaryData": { "a": "MQ==" } }),
            None,
            &[r#"binaryData[a]: Invalid value: "a": duplicate of key present in data"#],
        );
        check(
            json!({ "data": { "..": "1" } }),
            None,
            &[r#"data[..]: Invalid value: "..": must not be '..'"#],
        );
    }

    #[test]
    fn an_immutable_object_stays() {
        let old = json!({ "immutable": true, "data": { "a": "1" } });
        check(old.clone(), Some(old.clone()), &[]);
        check(
            json!({ "data": { "a": "2" } }),
            Some(old),
            &[
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ],
        );
    }

    #[test]
    fn too_much_data_is_refused() {
        let big = "x".repeat(BYTES_MAX + 1);
        check(
            json!({ "data": { "a": big } }),
            None,
            &[": Too long: may not be more than 1048576 bytes"],
        );
    }

    #[test]
    fn secrets_of_a_known_type_have_its_keys() {
        let secret = json!({ "type": "kubernetes.io/tls", "data": { "tls.crt": "" } });
        let told: Vec<String> = required_keys(&secret)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(told, ["data[tls.key]: Required value"]);
    }
}
