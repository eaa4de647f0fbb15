//! The keys that open an encrypted store: where they are read, and how they are changed.

pub mod cli;
pub mod service;
#[cfg(test)]
mod tests;
