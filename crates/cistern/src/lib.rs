//! Cistern.
