//! What the agent and the process say to each other, over a socket in the file system: messages of
//! protobuf, each after its length in four bytes. A field that is added later is no obstacle to
//! either, as one of the two may be older.

use std::{fs, io, path::Path};

use bytes::Bytes;
use fairlead_proto::node::{DnsKey, DnsName, DnsNamespace, Parameters};
use prost::Message;
use tokio_util::codec::LengthDelimitedCodec;

use crate::Changes;

/// The names of 100,000 Services are fewer bytes.
const FRAME_MAX: usize = 256 << 20;

/// The process' first word.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Hello {
    /// The file it runs, by device and inode: after an upgrade the agent runs another.
    #[prost(string, tag = "1")]
    pub(crate) program: String,
}

/// What the agent asks for. Each is answered by a [`Response`].
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Command {
    #[prost(message, optional, tag = "1")]
    pub(crate) update: Option<Update>,
    /// What is to be looked at, as JSON.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) view: Option<Bytes>,
    /// The end.
    #[prost(bool, tag = "3")]
    pub(crate) stop: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
    /// Why it was not done; empty if it was.
    #[prost(string, tag = "1")]
    pub(crate) error: String,
    /// What there is to look at, as JSON.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) view: Bytes,
}

/// [`Changes`] on their way; whole ones also as they are kept in a file.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Update {
    #[prost(bool, tag = "1")]
    pub(crate) is_whole: bool,
    #[prost(message, optional, tag = "2")]
    pub(crate) parameters: Option<Parameters>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) namespaces: Vec<DnsNamespace>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) removed_namespaces: Vec<DnsNamespace>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) names: Vec<DnsName>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) removed_names: Vec<DnsKey>,
}

pub(crate) fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .max_frame_length(FRAME_MAX)
        .new_codec()
}

impl From<Changes> for Update {
    fn from(changes: Changes) -> Self {
        let mut update = Self {
            is_whole: changes.is_whole,
            parameters: changes.parameters,
            ..Self::default()
        };
        for ((vpc, name), is_there) in changes.namespaces {
            let namespace = DnsNamespace { vpc, name };
            if is_there {
                update.namespaces.push(namespace);
            } else {
                update.removed_namespaces.push(namespace);
            }
        }
        for ((vpc, namespace, name), service) in changes.names {
            match service {
                Some(service) => update.names.push(service),
                None => update.removed_names.push(DnsKey {
                    vpc,
                    namespace,
                    name,
                }),
            }
        }
        update
    }
}

impl From<Update> for Changes {
    fn from(update: Update) -> Self {
        let mut changes = Self {
            is_whole: update.is_whole,
            parameters: update.parameters,
            ..Self::default()
        };
        changes.put_namespaces(update.removed_namespaces, false);
        changes.put_namespaces(update.namespaces, true);
        changes.remove_names(update.removed_names);
        changes.put_names(update.names);
        changes
    }
}

/// Reads what [`keep`] wrote. `None` if there is nothing.
///
/// # Errors
/// It cannot be read, or is something else.
pub(crate) fn kept(path: &Path) -> io::Result<Option<Changes>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let update = Update::decode(&bytes[..]).map_err(io::Error::other)?;
    Ok(Some(update.into()))
}

/// Writes all names into a file: whoever reads it finds the former ones or these.
///
/// # Errors
/// It cannot be written.
pub(crate) fn keep(path: &Path, changes: Changes) -> io::Result<()> {
    let bytes = Update::from(changes).encode_to_vec();
    let beside = path.with_extension("new");
    let file = fs::File::create(&beside)?;
    io::Write::write_all(&mut &file, &bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}
