//! bench-dataplane.

fn main() {}
