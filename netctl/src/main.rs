//! netctl.

fn main() {}
