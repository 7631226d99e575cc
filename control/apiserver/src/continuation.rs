use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use fairlead_api::{Revision, status::Status};
use serde::{Deserialize, Serialize};

/// Where the next page of a list begins: the revision all its pages are read at, and the last key
/// that was given out. Opaque to clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Continuation {
    /// `None` in a token that replaces an expired one: the rest of the list as it is now.
    #[serde(rename = "rv")]
    pub(crate) revision: Option<Revision>,
    pub(crate) after: String,
}

impl Continuation {
    pub(crate) fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("two plain fields always serialise");
        BASE64_URL_SAFE_NO_PAD.encode(json)
    }

    /// Reads a token back. `prefix` keeps a token of one list from reading another.
    pub(crate) fn decode(token: &str, prefix: &str) -> Result<Self, Status> {
        BASE64_URL_SAFE_NO_PAD
            .decode(token)
            .ok()
            .and_then(|json| serde_json::from_slice::<Self>(&json).ok())
            .filter(|continuation| continuation.after.starts_with(prefix))
            .ok_or_else(|| Status::bad_request("continue key is not valid".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_of_another_list_is_refused() {
        let token = Continuation {
            revision: Some(Revision(7)),
            after: "/registry/core/pods/a/p".to_owned(),
        }
        .encode();
        let back = Continuation::decode(&token, "/registry/core/pods/").unwrap();
        assert_eq!(back.revision, Some(Revision(7)));
        assert!(Continuation::decode(&token, "/registry/core/secrets/").is_err());
        assert!(Continuation::decode("%%", "/registry/").is_err());
    }
}
