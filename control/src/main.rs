//! fairlead-control.

fn main() {}
