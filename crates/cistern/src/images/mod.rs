//! Custom Images: disk images that users bring, as DigitalOcean has them.

pub mod uploads;
