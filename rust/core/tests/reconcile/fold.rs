//! What each signal leaves in the tables.
