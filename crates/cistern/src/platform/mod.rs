//! What every product stands on: the database, accounts and tokens, jobs and actions, events, and the shared
//! parts of the HTTP interface. Products may use anything here; nothing here knows a product.

pub mod accounts;
pub mod actions;
pub mod api;
pub mod blocks;
pub mod clock;
pub mod command;
pub mod data_files;
pub mod data_lock;
pub mod db;
pub mod error;
pub mod events;
pub mod fresh;
pub mod jobs;
pub mod journal;
pub mod keys;
pub mod net;
pub mod paging;
pub mod projects;
pub mod random;
pub mod regions;
pub mod reserve;
pub mod resources;
pub mod secrets;
pub mod sizes;
pub mod ssh_keys;
pub mod storage;
pub mod tags;
pub mod upkeep;
