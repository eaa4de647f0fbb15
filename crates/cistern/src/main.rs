//! The `cistern` executable.
fn main() {}
