//! Passwords: argon2id with the crate's defaults (m = 19 MiB, t = 2, p = 1, OWASP's first choice), on threads that
//! may block, and never more at once than [`HASHING_MAX`], because each takes 19 MiB and a tenth of a second.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::platform::error::{Context, Error, Result};
use crate::platform::random;

/// Hashes computed at once.
const HASHING_MAX: usize = 2;
/// How long a sign-in waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(10);
/// A long sentence is fine, a flood is not.
const LENGTH_MAX: usize = 1024;
/// NIST SP 800-63B-4 wants 15 where a password is all there is, 8 beside a second factor; ours guards a console on
/// a private address by default.
const LENGTH_MIN: usize = 10;

/// What an unknown user's attempt is checked against, so that it takes as long as a known one's.
static NOBODY: LazyLock<String> =
    LazyLock::new(|| hash_now(&hex::encode(random::bytes::<16>())).unwrap_or_default());

/// Takes turns at hashing; one for the whole process.
#[derive(Debug)]
pub struct Hasher {
    turns: Arc<Semaphore>,
}

impl Default for Hasher {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(HASHING_MAX)),
        }
    }
}

impl Hasher {
    /// The PHC string under which `password` is kept; refuses what is too short or too long.
    pub async fn hash(&self, password: &str) -> Result<String> {
        check(password)?;
        let password = password.to_owned();
        let turn = self.turn().await?;
        tokio::task::spawn_blocking(move || {
            let hash = hash_now(&password);
            drop(turn);
            hash
        })
        .await
        .context("hashing a password")?
    }

    /// Whether `password` is the one of `hash`. Takes as long for no hash as for one.
    pub async fn verify(&self, password: &str, hash: Option<&str>) -> Result<bool> {
        if password.len() > LENGTH_MAX {
            return Ok(false);
        }
        let (password, hash) = (password.to_owned(), hash.map(str::to_owned));
        let turn = self.turn().await?;
        tokio::task::spawn_blocking(move || {
            let stored = hash.as_deref().unwrap_or(&NOBODY);
            let is_right = PasswordHash::new(stored).is_ok_and(|parsed| {
                Argon2::default()
                    .verify_password(password.as_bytes(), &parsed)
                    .is_ok()
            });
            drop(turn);
            is_right && hash.is_some()
        })
        .await
        .context("checking a password")
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        match tokio::time::timeout(TURN_WAIT, Arc::clone(&self.turns).acquire_owned()).await {
            Ok(turn) => turn.context("waiting to hash a password"),
            Err(_) => Err(Error::TooMany { retry_after: 10 }),
        }
    }
}

/// Refuses a password that is too short or too long.
pub fn check(password: &str) -> Result<()> {
    if password.chars().count() < LENGTH_MIN || password.len() > LENGTH_MAX {
        return Err(Error::invalid(format!(
            "a password has {LENGTH_MIN} characters at least and {LENGTH_MAX} bytes at most; a short sentence is easy \
             to remember"
        )));
    }
    Ok(())
}

fn hash_now(password: &str) -> Result<String> {
    let salt = random::bytes::<16>();
    Argon2::default()
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(|e| Error::bug(format!("argon2 refused to hash: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_verifies_and_nobody_has_none() {
        let hasher = Hasher::default();
        let hash = hasher.hash("correct horse battery").await.expect("hashes");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(
            hasher
                .verify("correct horse battery", Some(&hash))
                .await
                .expect("verifies")
        );
        assert!(
            !hasher
                .verify("correct horse batter", Some(&hash))
                .await
                .expect("verifies")
        );
        assert!(
            !hasher
                .verify("correct horse battery", None)
                .await
                .expect("verifies")
        );
        assert!(
            !hasher
                .verify("correct horse battery", Some("not a hash"))
                .await
                .expect("verifies")
        );
    }

    #[tokio::test]
    async fn the_same_password_is_kept_under_another_hash_each_time() {
        let hasher = Hasher::default();
        let (a, b) = (
            hasher.hash("correct horse").await,
            hasher.hash("correct horse").await,
        );
        assert_ne!(a.expect("hashes"), b.expect("hashes"));
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(check("123456789").is_err() && check("1234567890").is_ok());
        assert!(check(&"x".repeat(LENGTH_MAX)).is_ok() && check(&"x".repeat(LENGTH_MAX + 1)).is_err());
    }
}
