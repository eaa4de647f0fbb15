//! Where a request comes from (placeholder until the edge room lands).

/// Where a request comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The request's id.
    pub request_id: String,
    /// The client.
    pub address: std::net::IpAddr,
}
