use fairlead_api::{
    Index,
    resource::Resource,
    selector::{FieldSelector, LabelSelector},
    status::Status,
};

use crate::query::Query;

/// Which objects of a collection a request is about: `labelSelector` and `fieldSelector`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    labels: Option<LabelSelector>,
    fields: Option<FieldSelector>,
}

impl Selection {
    pub(crate) fn parse(resource: &Resource, query: &Query) -> Result<Self, Status> {
        Ok(Self {
            labels: query
                .get("labelSelector")
                .map(LabelSelector::parse)
                .transpose()?,
            fields: query
                .get("fieldSelector")
                .map(|text| FieldSelector::parse(resource, text))
                .transpose()?,
        })
    }

    /// One object by its name.
    pub(crate) fn named(resource: &Resource, name: &str) -> Result<Self, Status> {
        Ok(Self {
            labels: None,
            fields: Some(FieldSelector::parse(
                resource,
                &format!("metadata.name={name}"),
            )?),
        })
    }

    /// Whether everything is selected.
    pub(crate) fn is_all(&self) -> bool {
        self.labels.is_none() && self.fields.is_none()
    }

    pub(crate) fn matches(&self, index: &Index) -> bool {
        self.labels
            .as_ref()
            .is_none_or(|selector| selector.matches(&index.labels))
            && self
                .fields
                .as_ref()
                .is_none_or(|selector| selector.matches(&index.fields))
    }
}
