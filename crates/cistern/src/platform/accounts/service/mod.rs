//! What can be done with accounts: tokens, users, teams, members, sign-ins.

mod authenticate;
mod members;
mod sign_in;
mod teams;
#[cfg(test)]
mod tests;
mod tokens;
mod users;

use sha2::{Digest, Sha256};

use super::model::Scopes;
use super::role::Role;
use super::rows;
use crate::app::App;
use crate::platform::error::{Error, Result};
use crate::platform::events::Who;
use crate::platform::journal;
use crate::platform::random;

pub use authenticate::{authenticate, session_caller};
pub use members::{MemberView, member_add, member_list, member_remove, member_set_role, team_owner};
pub use sign_in::{
    SESSION_LIFE, Session, link_check, link_create, link_use, password_change, password_set, session_end,
    sign_in_forget, sign_in_password,
};
pub use teams::{
    account_get, team_create, team_find, team_list, team_lock_in_tx, team_name, team_of, team_rename,
};
pub use tokens::{
    TokenSpec, TokenView, scopes_parse, token_create, token_create_by, token_get, token_info, token_list,
    token_list_all, token_revoke, token_revoke_local, token_revoke_self,
};
#[cfg(test)]
pub use users::user_create;
pub use users::{
    UserChange, UserNew, operator_first, user_by_email, user_change, user_create_as, user_emails, user_get,
    user_list, user_set_disabled,
};

/// What the very first start made; shown once.
pub struct FirstStart {
    /// An API token that may do everything.
    pub token: String,
    /// The secret of a one-time sign-in link.
    pub sign_in: String,
    /// The first owner's name for signing in.
    pub email: &'static str,
}

/// The first owner's e-mail address until they change it.
const FIRST_EMAIL: &str = "owner@localhost";
/// The first team.
const FIRST_TEAM: &str = "My Team";

/// Where there is no user yet: makes the first team and its owner, who is also the operator, in one transaction.
pub async fn first_start(app: &App) -> Result<Option<FirstStart>> {
    let now = app.clock.now();
    // When tokens were used is not in the journal: after a recovery none was, as far as the database knows.
    let is_recovered = journal::is_recovered(&app.db).await?;
    let tx = app.db.write().await?;
    if rows::user_any(&*tx).await? {
        // A first start that was cut off before its greeting has told its token to nobody.
        if !is_recovered && !rows::token_any_used(&*tx).await? {
            tracing::warn!(
                "no API token was used so far; if the first one is lost, `cistern token create` makes another, with this \
                 server's settings"
            );
        }
        return Ok(None);
    }
    let who = Who::default();
    let team = rows::team_insert(&*tx, now, &random::uuid().to_string(), FIRST_TEAM).await?;
    let user = rows::user_insert(&*tx, now, &random::uuid().to_string(), FIRST_EMAIL, "Owner", true).await?;
    rows::member_insert(&*tx, now, team.id, user.id, Role::Owner).await?;
    let spec = TokenSpec {
        team_id: team.id,
        user_id: user.id,
        name: "first start",
        scopes: Scopes::all(),
        expires_at: None,
    };
    let token = tokens::token_create_in_tx(app, &tx, &who, &spec).await?;
    let link = sign_in::link_create_in_tx(app, &tx, &who, user.id, team.id).await?;
    tx.commit().await?;
    Ok(Some(FirstStart {
        token: token.text,
        sign_in: link.secret,
        email: FIRST_EMAIL,
    }))
}

/// The hash under which a secret of high entropy is kept: plain SHA-256 is enough for 256 random bits.
pub fn secret_hash(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

fn check_name(what: &str, name: &str) -> Result<()> {
    if name.trim().is_empty() || name.chars().count() > 255 || name.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "{what} has 1 to 255 printable characters"
        )));
    }
    Ok(())
}

fn check_email(email: &str) -> Result<String> {
    let valid = email.len() <= 254
        && email
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
        && !email.chars().any(|c| c.is_control() || c.is_whitespace());
    if valid {
        Ok(email.to_lowercase())
    } else {
        Err(Error::invalid(format!(
            "`{email}` is not an e-mail address; write one such as ann@example.com"
        )))
    }
}
