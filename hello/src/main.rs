//! hello.

fn main() {}
