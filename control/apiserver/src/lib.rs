//! fairlead-apiserver.
