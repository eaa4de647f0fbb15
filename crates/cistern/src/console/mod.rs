//! The console: a small control panel, rendered here, that works without JavaScript.
//!
//! Pages are in [`pages`]; what makes a browser's session safe (cookie, form token, origin check) is in `session`.

pub mod pages;
mod session;
