//! fairlead-agent.

fn main() {}
