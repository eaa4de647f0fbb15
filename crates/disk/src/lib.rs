//! Virtual-disk formats.
