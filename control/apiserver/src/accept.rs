//! Which representation a client asked for with its `Accept` header.

use fairlead_api::status::Status;

/// How an object or a list is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Object,
    /// As `meta.k8s.io/v1` Table.
    Table,
    /// Its metadata alone, as `meta.k8s.io/v1` PartialObjectMetadata.
    Metadata,
}

/// One element of an `Accept` header.
struct MediaRange<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    /// In thousandths.
    quality: u32,
}

impl<'a> MediaRange<'a> {
    fn parse(element: &'a str) -> Self {
        let mut parts = element.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
        let quality = parameters
            .iter()
            .find(|(name, _)| *name == "q")
            .and_then(|(_, value)| value.parse::<f32>().ok())
            .map_or(1000, |quality| (quality.clamp(0.0, 1.0) * 1000.0) as u32);
        Self {
            media,
            parameters,
            quality,
        }
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| *value)
    }

    fn is_json(&self) -> bool {
        matches!(
            self.media.to_ascii_lowercase().as_str(),
            "*/*" | "application/*" | "application/json"
        )
    }
}

/// The elements of an `Accept` header, the best first.
fn ranges(header: Option<&str>) -> Vec<MediaRange<'_>> {
    let header = match header.map(str::trim) {
        None | Some("") => "*/*",
        Some(header) => header,
    };
    let mut ranges: Vec<_> = header
        .split(',')
        .map(str::trim)
        .filter(|element| !element.is_empty())
        .map(MediaRange::parse)
        .filter(|range| range.quality > 0)
        .collect();
    // Stable: equal quality keeps the order of the header.
    ranges.sort_by_key(|range| std::cmp::Reverse(range.quality));
    ranges
}

/// The form of an object or a list; 406 when none that is asked for can be made.
pub(crate) fn form(header: Option<&str>) -> Result<Form, Status> {
    ranges(header)
        .iter()
        .filter(|range| range.is_json())
        .find_map(
            |range| match (range.parameter("as"), range.parameter("v")) {
                (None, _) => Some(Form::Object),
                (Some("Table"), Some("v1")) => Some(Form::Table),
                (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("v1")) => {
                    Some(Form::Metadata)
                }
                _ => None,
            },
        )
        .ok_or_else(|| Status::not_acceptable(&["application/json"]))
}

/// Whether the client prefers the aggregated discovery document (`v=v2`).
pub(crate) fn aggregated_discovery(header: Option<&str>) -> Result<bool, Status> {
    ranges(header)
        .iter()
        .filter(|range| range.is_json())
        .find_map(
            |range| match (range.parameter("as"), range.parameter("v")) {
                (None, _) => Some(false),
                (Some("APIGroupDiscoveryList"), Some("v2")) => Some(true),
                _ => None,
            },
        )
        .ok_or_else(|| Status::not_acceptable(&["application/json"]))
}

/// The first of `offered` the client takes, by media type alone.
pub(crate) fn media<'a>(header: Option<&str>, offered: &[&'a str]) -> Result<&'a str, Status> {
    ranges(header)
        .iter()
        .find_map(|range| {
            offered.iter().copied().find(|media| {
                range.media == "*/*"
                    || range.media.eq_ignore_ascii_case(media)
                    || range.media.strip_suffix("/*").is_some_and(|family| {
                        media.split('/').next().is_some_and(|own| own == family)
                    })
            })
        })
        .ok_or_else(|| Status::not_acceptable(offered))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_chooses_the_form() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,\
                     application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let cases = [
            (None, Ok(Form::Object)),
            (Some("*/*"), Ok(Form::Object)),
            (Some(table), Ok(Form::Table)),
            (
                Some("application/vnd.kubernetes.protobuf,application/json"),
                Ok(Form::Object),
            ),
            (
                Some("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
                Ok(Form::Metadata),
            ),
            (
                Some("application/json;q=0.5, application/json;as=Table;v=v1;g=meta.k8s.io"),
                Ok(Form::Table),
            ),
            (Some("application/vnd.kubernetes.protobuf"), Err(406)),
            (Some("text/html"), Err(406)),
        ];
        for (header, expected) in cases {
            assert_eq!(
                form(header).map_err(|status| status.code),
                expected,
                "{header:?}"
            );
        }
    }

    #[test]
    fn aggregated_discovery_is_for_who_asks_for_v2() {
        let kubectl =
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert!(aggregated_discovery(Some(kubectl)).unwrap());
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert!(!aggregated_discovery(Some(beta)).unwrap());
        assert!(!aggregated_discovery(None).unwrap());
    }
}
