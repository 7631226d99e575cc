//! cluster-tests.
