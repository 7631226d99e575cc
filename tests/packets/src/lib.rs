//! packet-tests.
