//! fairlead-pki.
