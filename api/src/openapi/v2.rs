//! The version 2 document, in the protobuf form that old clients insist on
//! (`application/com.github.proto-openapi.spec.v2@v1.0+protobuf`).
//!
//! Clients before 1.27 read it before they apply or create, to validate on their own. A kind that
//! is not in it is not validated, so one without definitions is enough: the server validates.

use prost::encoding::string;

/// `openapi.v2.Document { swagger: "2.0", info { title, version }, paths {} }`.
///
/// Source of the tags: `github.com/google/gnostic-models/openapiv2/OpenAPIv2.proto`.
pub fn document_v2_protobuf() -> Vec<u8> {
    let mut info = Vec::new();
    string::encode(1, &"Kubernetes".to_owned(), &mut info);
    string::encode(2, &"v1.37.0".to_owned(), &mut info);

    let mut document = Vec::new();
    string::encode(1, &"2.0".to_owned(), &mut document);
    prost::encoding::bytes::encode(2, &info, &mut document);
    // Paths may be empty but must be there.
    prost::encoding::bytes::encode(8, &Vec::new(), &mut document);
    document
}
