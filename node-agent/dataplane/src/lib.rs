//! fairlead-dataplane.
