//! Which pod template a ReplicaSet was made from.

use k8s_openapi::api::core::v1::PodTemplateSpec;

/// The label that tells the ReplicaSets of a Deployment apart.
pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// A short name for a template, the same on every member: FNV-1a of its JSON and the number of
/// collisions so far, in upstream's alphabet of characters that spell nothing.
pub(super) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let json = serde_json::to_vec(template).expect("an API type always serialises");
    let suffix = collisions.map(|count| count.to_le_bytes());
    let bytes = json.iter().chain(suffix.iter().flatten());
    let sum = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    sum.to_string()
        .bytes()
        .map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()]))
        .collect()
}

/// Whether two templates are the same but for the hash label.
pub(super) fn is_same(one: &PodTemplateSpec, other: &PodTemplateSpec) -> bool {
    without_hash(one) == without_hash(other)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(metadata) = &mut template.metadata {
        if let Some(labels) = &mut metadata.labels {
            labels.remove(HASH_LABEL);
        }
        if metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.is_empty())
        {
            metadata.labels = None;
        }
    }
    template
}
