//! One verb a file; none knows a resource by name unless the verb is about it.

pub(crate) mod bind;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod delete_collection;
pub(crate) mod evict;
pub(crate) mod get;
pub(crate) mod health;
pub(crate) mod list;
pub(crate) mod log;
pub(crate) mod nodes;
pub(crate) mod patch;
pub(crate) mod review;
pub(crate) mod scale;
pub(crate) mod update;
pub(crate) mod watch;
