//! What a client's `resourceVersion` asks of a read.

use fairlead_api::{
    Revision,
    status::{FieldError, Status},
};
use fairlead_store::{RevisionError, Snapshot};

use crate::{api::Api, query::Query};

/// How fresh, or how old, what is read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// All that was acknowledged before the request.
    Latest,
    /// Whatever this member has.
    Any,
    /// At least this.
    NotOlderThan(Revision),
    /// Exactly this.
    Exact(Revision),
}

impl Freshness {
    /// Of a get, which has no `resourceVersionMatch`.
    pub(crate) fn of_get(query: &Query) -> Result<Self, Status> {
        Ok(match parse(query)? {
            None => Self::Latest,
            Some(Revision(0)) => Self::Any,
            Some(revision) => Self::NotOlderThan(revision),
        })
    }

    /// Of a list, by the table in Kubernetes' API concepts. `limited` tells a page from a whole
    /// list: without a match, a page is of exactly the revision it names.
    pub(crate) fn of_list(query: &Query, limited: bool) -> Result<Self, Status> {
        let revision = parse(query)?;
        if query.has("sendInitialEvents") {
            return Err(invalid(vec![FieldError::forbidden(
                "sendInitialEvents",
                "sendInitialEvents is forbidden for list",
            )]));
        }
        match (query.get("resourceVersionMatch"), revision) {
            (Some("Exact"), Some(Revision(0))) => Err(invalid(vec![FieldError::forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            )])),
            (Some("Exact"), Some(revision)) => Ok(Self::Exact(revision)),
            (Some("NotOlderThan") | None, Some(Revision(0))) => Ok(Self::Any),
            (Some("NotOlderThan"), Some(revision)) => Ok(Self::NotOlderThan(revision)),
            (Some("Exact" | "NotOlderThan"), None) => Err(invalid(vec![FieldError::forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            )])),
            (Some(other), _) => Err(invalid(vec![FieldError::not_supported(
                "resourceVersionMatch",
                other,
                &["Exact", "NotOlderThan"],
            )])),
            (None, None) => Ok(Self::Latest),
            (None, Some(revision)) if limited => Ok(Self::Exact(revision)),
            (None, Some(revision)) => Ok(Self::NotOlderThan(revision)),
        }
    }
}

/// 422 about the options of a list or a watch.
pub(crate) fn invalid(errors: Vec<FieldError>) -> Status {
    Status::invalid_kind("meta.k8s.io", "ListOptions", "", errors)
}

/// `resourceVersion` as a number.
pub(crate) fn parse(query: &Query) -> Result<Option<Revision>, Status> {
    query
        .get("resourceVersion")
        .map(|text| {
            text.parse().map(Revision).map_err(|_| {
                invalid(vec![FieldError::invalid(
                    "resourceVersion",
                    text,
                    "must be a resourceVersion this server gave out",
                )])
            })
        })
        .transpose()
}

/// A snapshot as fresh, or as old, as is asked.
pub(crate) async fn read(api: &Api, freshness: Freshness) -> Result<Snapshot, Status> {
    match freshness {
        Freshness::Latest => api.latest().await,
        Freshness::Any => Ok(api.store.snapshot()),
        Freshness::NotOlderThan(revision) => {
            let snapshot = api.store.snapshot();
            if snapshot.revision() >= revision {
                return Ok(snapshot);
            }
            let snapshot = api.latest().await?;
            if snapshot.revision() >= revision {
                return Ok(snapshot);
            }
            Err(Status::too_large_resource_version(
                revision,
                snapshot.revision(),
            ))
        }
        Freshness::Exact(revision) => {
            if api.store.snapshot().revision() < revision {
                api.latest().await?;
            }
            api.store
                .snapshot_at(revision)
                .map_err(|error| match error {
                    RevisionError::Expired { .. } => {
                        Status::expired("The resourceVersion for the provided list is too old.")
                    }
                    RevisionError::Future { current } => {
                        Status::too_large_resource_version(revision, current)
                    }
                })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_options_follow_the_table_of_api_concepts() {
        use Freshness::*;
        let cases = [
            ("", false, Ok(Latest)),
            ("resourceVersion=0", false, Ok(Any)),
            ("resourceVersion=5", false, Ok(NotOlderThan(Revision(5)))),
            ("resourceVersion=5", true, Ok(Exact(Revision(5)))),
            (
                "resourceVersion=5&resourceVersionMatch=NotOlderThan",
                true,
                Ok(NotOlderThan(Revision(5))),
            ),
            (
                "resourceVersion=5&resourceVersionMatch=Exact",
                false,
                Ok(Exact(Revision(5))),
            ),
            (
                "resourceVersion=0&resourceVersionMatch=Exact",
                false,
                Err(422),
            ),
            ("resourceVersionMatch=Exact", false, Err(422)),
            ("resourceVersion=5&resourceVersionMatch=x", false, Err(422)),
            ("resourceVersion=x", false, Err(422)),
            ("sendInitialEvents=true", false, Err(422)),
        ];
        for (query, limited, expected) in cases {
            let found = Freshness::of_list(&Query::parse(Some(query)), limited);
            assert_eq!(found.map_err(|status| status.code), expected, "{query}");
        }
    }
}
