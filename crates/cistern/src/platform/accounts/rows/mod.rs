//! The tables `team`, `user_account`, `team_member`, `api_token` and `sign_in`.

mod entities;
mod people;
mod sign_ins;
mod tokens;

pub use entities::{member, sign_in, team, token, user};
pub use people::*;
pub use sign_ins::*;
pub use tokens::*;
