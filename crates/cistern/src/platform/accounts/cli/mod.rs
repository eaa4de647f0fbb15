//! `cistern token`, `cistern user`, `cistern team`: for whoever can read the data folder. They open the database
//! themselves, beside a running server or without one, and act as the installation.

mod prompt;
mod team;
mod token;
mod user;

use chrono::TimeDelta;

use crate::app::App;
use crate::cli::{Context, Failure, LocalFlags, Outcome};
use crate::platform::clock::Time;
use crate::platform::error::Error;
use crate::platform::paging::Page;

pub use team::{Command as TeamCommand, run as team_run};
pub use token::{Command as TokenCommand, run as token_run};
pub use user::{Command as UserCommand, run as user_run};

/// Opens the installation that the flags name; refuses where there is none.
async fn open(local: &LocalFlags, context: &Context) -> Outcome<App> {
    Ok(App::open_existing(local.config(context)?).await?)
}

/// The `number`th page of a list that is shown whole.
fn page(number: u64) -> Page {
    Page { number, size: 200 }
}

/// `90s`, `30m`, `12h`, `30d`.
fn lifetime(text: &str) -> Result<TimeDelta, String> {
    let wrong = || format!("`{text}` is not a length of time; write for example 12h or 30d");
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?;
    let number: i64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = number
        .checked_mul(seconds)
        .filter(|s| (1..=3_200_000_000).contains(s));
    seconds.map(TimeDelta::seconds).ok_or_else(wrong)
}

/// A moment for people: to the minute, in UTC.
fn shown(time: Time) -> String {
    time.format("%Y-%m-%d %H:%M").to_string()
}

fn shown_or(time: Option<Time>, otherwise: &str) -> String {
    time.map_or_else(|| otherwise.to_owned(), shown)
}

/// Whether a user can sign in.
fn state(disabled_at: Option<Time>) -> &'static str {
    match disabled_at {
        Some(_) => "disabled",
        None => "active",
    }
}

/// Wrong words are wrong usage, not a failure.
fn usage(error: &Error) -> Failure {
    Failure::Usage(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read() {
        assert_eq!(lifetime("90s"), Ok(TimeDelta::seconds(90)));
        assert_eq!(lifetime("30d"), Ok(TimeDelta::days(30)));
        for wrong in [
            "",
            "d",
            "30",
            "-1d",
            "0h",
            "3w",
            "1.5h",
            "99999999999999999999d",
            "9223372036854775807d",
            "3é",
        ] {
            assert!(lifetime(wrong).is_err(), "{wrong}");
        }
    }
}
