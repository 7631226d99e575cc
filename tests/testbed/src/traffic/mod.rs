//! Traffic that is counted: HTTP requests, and a stream of UDP datagrams.

mod http;
mod load;
mod report;
mod udp;

pub use http::{Connection, Response, get};
pub use load::Load;
pub use report::{Answer, Report};
pub use udp::{Flood, FloodReport, Sink, SinkReport};
