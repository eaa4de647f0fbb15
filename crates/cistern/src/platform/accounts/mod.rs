//! Accounts: teams, users with their roles, API tokens and sign-ins.
//!
//! Everything a user owns belongs to a team. A user is a member of teams with one role in each; an operator may also
//! run the installation. A token acts for one user in one team, never with more rights than that user has now.

pub mod account_api;
pub mod api;
mod attempts;
pub mod cli;
pub mod model;
pub mod need;
mod password;
pub mod role;
pub mod rows;
pub mod scopes;
pub mod service;

pub use attempts::network;
pub use model::{Caller, Scopes};
pub use role::Role;

/// What guards signing in; one for the whole process.
#[derive(Debug, Default)]
pub struct SignIns {
    attempts: attempts::Attempts,
    hasher: password::Hasher,
}
