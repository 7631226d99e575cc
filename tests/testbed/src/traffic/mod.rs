//! Traffic that is counted: HTTP requests, connections that are kept, numbered datagrams that are
//! answered, one whose answer is looked at, and a flood of datagrams.

mod ask;
mod datagrams;
mod http;
mod kept;
mod load;
mod report;
mod udp;

pub use ask::{Ask, Asked};
pub use datagrams::{Datagrams, DatagramsReport, FlowReport};
pub use http::{Connection, Response, get};
pub use kept::{End, Kept, KeptConnection, KeptReport};
pub use load::Load;
pub use report::{Answer, Report};
pub use udp::{Flood, FloodReport, Sink, SinkReport};
