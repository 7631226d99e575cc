//! fairlead-publisher.
