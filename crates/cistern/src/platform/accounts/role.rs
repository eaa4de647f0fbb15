//! Roles: what a user may do in a team.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::platform::error::{Error, Result};

/// What a user may do in a team.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees everything of the team.
    Viewer,
    /// Works with everything, but not with the team itself.
    Member,
    /// Also manages members, their roles and everyone's tokens.
    Owner,
}

impl Role {
    /// Its name in the database, the API and the CLI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Owner => "owner",
        }
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "viewer" => Ok(Self::Viewer),
            "member" => Ok(Self::Member),
            "owner" => Ok(Self::Owner),
            other => Err(Error::invalid(format!(
                "`{other}` is not a role; roles are owner, member and viewer"
            ))),
        }
    }
}
