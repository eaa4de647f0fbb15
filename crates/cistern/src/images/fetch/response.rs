//! What a server's answer means for the file at hand.

use chrono::{DateTime, TimeDelta};
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderMap, LAST_MODIFIED,
};
use reqwest::{Response, StatusCode};

use super::state::State;
use super::{Cut, FetchError};

/// An answer that can be used.
#[derive(Debug)]
pub(super) enum Answer {
    /// There is nothing more: the file is whole.
    Complete,
    /// The whole file comes.
    Begin(Body),
    /// The rest of the file comes.
    Continue(Body),
}

/// What is known of the file that comes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Body {
    /// Bytes in all.
    pub(super) total: Option<u64>,
    /// See [`State::validator`].
    pub(super) validator: Option<String>,
}

/// Reads the head of an answer to a request made for `state`.
pub(super) fn read(response: &Response, state: &State, max_bytes: u64) -> Result<Answer, Cut> {
    let headers = response.headers();
    if response.status().is_success() {
        encoding_check(headers)?;
    }
    let answer = match response.status() {
        StatusCode::OK => {
            let total = number(headers, CONTENT_LENGTH.as_str());
            let body = Body {
                total,
                validator: validator(headers),
            };
            // The whole file instead of the rest: it changed, or the server cannot do parts.
            if state.is_resumable() && body.validator != state.validator {
                return Err(Cut::Changed);
            }
            Answer::Begin(body)
        }
        StatusCode::PARTIAL_CONTENT => part(headers, state)?,
        StatusCode::RANGE_NOT_SATISFIABLE => {
            let (_, total) = content_range(headers).unwrap_or_default();
            if total != Some(state.length) {
                return Err(Cut::Changed);
            }
            Answer::Complete
        }
        other => return Err(status(response, other)),
    };
    if let Answer::Begin(body) | Answer::Continue(body) = &answer
        && body.total.is_some_and(|total| total > max_bytes)
    {
        return Err(too_large(max_bytes).into());
    }
    Ok(answer)
}

fn part(headers: &HeaderMap, state: &State) -> Result<Answer, Cut> {
    let Some((Some(start), total)) = content_range(headers) else {
        return Err(Cut::Error(FetchError::Refused(
            "The server answers with a part of the file without saying which.".into(),
        )));
    };
    let body = Body {
        total: total.or(state.total),
        validator: validator(headers),
    };
    let is_same = body.validator.is_none() || body.validator == state.validator;
    let is_total_same = total.is_none() || state.total.is_none() || total == state.total;
    if start != state.length || !is_same || !is_total_same {
        return Err(Cut::Changed);
    }
    Ok(Answer::Continue(body))
}

fn status(response: &Response, code: StatusCode) -> Cut {
    let host = response.url().host_str().unwrap_or("The server").to_owned();
    let refused = |advice: &str| Cut::Error(FetchError::Refused(format!("{host} answered {code}. {advice}")));
    match code.as_u16() {
        401 | 403 => refused("Give an address that needs no sign-in, for example a signed link."),
        404 | 410 => refused("Check the address."),
        408 | 425 | 429 | 500..=599 => Cut::Passing(format!("{host} answered {code}.")),
        _ => refused("It should answer 200 with the image."),
    }
}

/// The refusal of a file that is too large.
pub(super) fn too_large(max_bytes: u64) -> FetchError {
    FetchError::Refused(format!(
        "The file is larger than {max_bytes} bytes, the largest download that is allowed. Compress the image, or make \
         it smaller."
    ))
}

/// We ask for the file as it is. A server that compresses it all the same has sent another file: one that an import
/// opens (gzip, as servers also label a `.gz` file), or one that it cannot.
fn encoding_check(headers: &HeaderMap) -> Result<(), Cut> {
    let Some(encoding) = headers.get(CONTENT_ENCODING) else {
        return Ok(());
    };
    let encoding = encoding.to_str().unwrap_or("?").trim().to_ascii_lowercase();
    if matches!(encoding.as_str(), "" | "identity" | "gzip" | "x-gzip") {
        return Ok(());
    }
    let encoding: String = encoding.chars().take(20).collect();
    Err(Cut::Error(FetchError::Refused(format!(
        "The server compresses the file on its way (`Content-Encoding: {encoding}`), although it was asked for it as it \
         is. Turn that off for images, or give another address."
    ))))
}

/// What names exactly these bytes: a strong `ETag`, or a date of change that is old enough.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let strong = text(ETAG).filter(|tag| tag.starts_with('"'));
    let dated = || text(LAST_MODIFIED).filter(|at| is_old(at, text(DATE)));
    strong.or_else(dated).map(str::to_owned)
}

/// Dates have whole seconds, so a file that was changed just before it was sent may change again under the same date.
/// RFC 9110 §8.8.2.2: the answer's own date must be so much later that clocks are no matter.
fn is_old(modified: &str, answered: Option<&str>) -> bool {
    let read = |text| DateTime::parse_from_rfc2822(text).ok();
    let (Some(modified), Some(answered)) = (read(modified), answered.and_then(read)) else {
        return false;
    };
    answered - modified >= TimeDelta::seconds(60)
}

/// `bytes 10-19/100` as (10, 100); either may be missing.
fn content_range(headers: &HeaderMap) -> Option<(Option<u64>, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes")?.trim_start().split_once('/')?;
    let start = range
        .split_once('-')
        .and_then(|(start, _)| start.trim().parse().ok());
    Some((start, total.trim().parse().ok()))
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
