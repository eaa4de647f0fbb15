//! The container registry. So far only its door: `docker login` can check a token ([`oci`]).

pub mod oci;
