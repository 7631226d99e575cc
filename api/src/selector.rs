//! Label and field selectors, from query parameters and from objects.

mod field;
mod label;

pub use field::FieldSelector;
pub use label::LabelSelector;

use crate::status::Status;

/// A selector that does not read as one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub(crate) String);

impl From<ParseError> for Status {
    fn from(error: ParseError) -> Self {
        Status::bad_request(error.0)
    }
}
