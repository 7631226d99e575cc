//! fairlead-pods.
