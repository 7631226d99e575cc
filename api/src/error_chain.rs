use std::error::Error;

/// `error` and what caused it, in one line: how an error leaves a process.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Some libraries print the source in their own text already.
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start the pod")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("read the image: no such file")]
    struct Middle(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("no such file")]
    struct Inner;

    #[test]
    fn every_cause_is_told_once() {
        let text = error_chain(&Outer(Middle(Inner)));
        assert_eq!(text, "cannot start the pod: read the image: no such file");
    }
}
