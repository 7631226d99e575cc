//! The API over real TLS connections to a server with a real store of one member.

mod access;
mod discovery;
mod fixture;
mod lists;
mod logs;
mod members;
mod objects;
mod services;
mod watches;
