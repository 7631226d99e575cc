//! Image names in one form, so that `nginx` and `docker.io/library/nginx:latest` are the same.

/// The name a pod gives an image, made complete: registry, repository, tag or digest.
///
/// Returns `None` for what cannot be a name.
pub(crate) fn normalise(name: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@+".contains(&byte);
    if name.is_empty() || !name.bytes().all(allowed) {
        return None;
    }
    let (path, digest) = match name.split_once('@') {
        Some((path, digest)) => (path, Some(digest)),
        None => (name, None),
    };
    let (registry, rest) = match path.split_once('/') {
        // A first component is a registry if it could be a host; "library/x" could not.
        Some((first, rest))
            if first.contains('.') || first.contains(':') || first == "localhost" =>
        {
            (first, rest)
        }
        _ => ("docker.io", path),
    };
    let (repository, tag) = match rest.rsplit_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (rest, None),
    };
    let lower = |text: &str| !text.is_empty() && !text.bytes().any(|b| b.is_ascii_uppercase());
    if !lower(repository) || tag.is_some_and(str::is_empty) || repository.contains(':') {
        return None;
    }
    let library = if registry == "docker.io" && !repository.contains('/') {
        "library/"
    } else {
        ""
    };
    let suffix = match (digest, tag) {
        (Some(digest), _) => format!("@{digest}"),
        (None, tag) => format!(":{}", tag.unwrap_or("latest")),
    };
    Some(format!("{registry}/{library}{repository}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        let check = |name: &str, expected: &str| {
            assert_eq!(normalise(name).as_deref(), Some(expected), "{name}");
        };
        check("nginx", "docker.io/library/nginx:latest");
        check("fairlead/hello:0.1", "docker.io/fairlead/hello:0.1");
        check("localhost/a", "localhost/a:latest");
        check("registry:5000/a/b:c", "registry:5000/a/b:c");
        check("a.example/b@sha256:00", "a.example/b@sha256:00");
        check("a.example/b:tag@sha256:00", "a.example/b@sha256:00");
    }

    #[test]
    fn what_cannot_be_a_name_is_refused() {
        for name in ["", "a b", "Upper/Case", "a:", "a\n"] {
            assert_eq!(normalise(name), None, "{name:?}");
        }
    }
}
