//! Who is at the other end: the node that the client certificate names.

use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Extensions, Request, Status};
use x509_parser::prelude::{FromDer, X509Certificate};

const PREFIX: &str = "system:node:";

/// The node name in the peer's certificate.
///
/// # Errors
/// `UNAUTHENTICATED` without a certificate, `PERMISSION_DENIED` with one that is no node's. That
/// the certificate is genuine was checked when the connection was made.
pub(crate) fn node_name<T>(request: &Request<T>) -> Result<String, Status> {
    let name = common_name(request.extensions())
        .ok_or_else(|| Status::unauthenticated("a client certificate is required"))?;
    name.strip_prefix(PREFIX)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .ok_or_else(|| Status::permission_denied(format!("{name:?} is not a node")))
}

fn common_name(extensions: &Extensions) -> Option<String> {
    let info = extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?;
    let certificates = info.peer_certs()?;
    let (_, certificate) = X509Certificate::from_der(certificates.first()?.as_ref()).ok()?;
    certificate
        .subject()
        .iter_common_name()
        .next()?
        .as_str()
        .ok()
        .map(str::to_owned)
}
