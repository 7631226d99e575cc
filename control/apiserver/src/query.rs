use fairlead_api::status::Status;

/// A request's query parameters, decoded, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        Self(
            form_urlencoded::parse(query.unwrap_or_default().as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// The first value of a parameter; an empty one counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Whether a parameter is present at all, even empty (as `?watch`).
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// A boolean: absent is `None`; present without a value is true.
    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Status> {
        match self.get(name) {
            None => Ok(self.has(name).then_some(true)),
            Some("true" | "True" | "1" | "t" | "T" | "TRUE") => Ok(Some(true)),
            Some("false" | "False" | "0" | "f" | "F" | "FALSE") => Ok(Some(false)),
            Some(other) => Err(Status::bad_request(format!(
                "invalid value {other:?} of parameter {name}: must be true or false"
            ))),
        }
    }

    /// A number that must not be negative.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Status> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    Status::bad_request(format!(
                        "invalid value {text:?} of parameter {name}: must be a non-negative number"
                    ))
                })
            })
            .transpose()
    }

    /// All parameters, as they came.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_and_plus_are_decoded() {
        let query = Query::parse(Some("labelSelector=app%3Dweb%2Ctier+in+%28a%29&watch"));
        assert_eq!(query.get("labelSelector"), Some("app=web,tier in (a)"));
        assert_eq!(query.flag("watch").unwrap(), Some(true));
        assert_eq!(query.flag("absent").unwrap(), None);
    }

    #[test]
    fn number_that_is_none_is_a_bad_request() {
        let status = Query::parse(Some("limit=-1")).number("limit").unwrap_err();
        assert_eq!(status.code, 400);
    }
}
