//! What clients get.

use serde::Serialize;
use utoipa::ToSchema;

use crate::platform::accounts::rows::team;
use crate::platform::api::list::Paging;
use crate::platform::clock::wire;
use crate::platform::projects::model::urn;
use crate::platform::projects::rows::{project, resource};
use crate::platform::projects::service::{Assigned, Status};
use crate::platform::resources::Kind;

/// A project.
#[derive(Serialize, ToSchema)]
pub struct ProjectView {
    id: String,
    /// The team's.
    owner_uuid: String,
    /// The team's.
    owner_id: i64,
    name: String,
    description: String,
    purpose: String,
    /// Left out where none is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<String>,
    is_default: bool,
    created_at: String,
    updated_at: String,
}

/// `{"project": …}`.
#[derive(Serialize, ToSchema)]
pub struct ProjectAnswer {
    pub project: ProjectView,
}

/// A page of projects.
#[derive(Serialize, ToSchema)]
pub struct ProjectList {
    pub projects: Vec<ProjectView>,
    #[serde(flatten)]
    pub paging: Paging,
}

/// A thing in a project.
#[derive(Serialize, ToSchema)]
pub struct ResourceView {
    /// Such as `do:image:7`.
    urn: String,
    /// Left out for what is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    assigned_at: Option<String>,
    links: ResourceLinks,
    /// `ok`, `assigned`, `already_assigned` or `not_found`.
    status: &'static str,
}

/// Where a thing is found.
#[derive(Serialize, ToSchema)]
pub struct ResourceLinks {
    #[serde(rename = "self")]
    this: String,
}

/// `{"resources": …}`, as assignments are answered.
#[derive(Serialize, ToSchema)]
pub struct ResourceAnswer {
    pub resources: Vec<ResourceView>,
}

/// A page of things.
#[derive(Serialize, ToSchema)]
pub struct ResourceList {
    pub resources: Vec<ResourceView>,
    #[serde(flatten)]
    pub paging: Paging,
}

/// A project of `team`.
pub fn project_view(row: project::Model, team: &team::Model) -> ProjectView {
    ProjectView {
        id: row.uuid,
        owner_uuid: team.uuid.clone(),
        owner_id: team.id,
        name: row.name,
        description: row.description,
        purpose: row.purpose,
        environment: row.environment,
        is_default: row.default_of.is_some(),
        created_at: wire(row.created_at),
        updated_at: wire(row.updated_at),
    }
}

/// A thing that is in a project.
pub fn resource_view(row: &resource::Model, base_url: &str) -> ResourceView {
    let this = Kind::find(&row.resource_type).map(|kind| kind.url(base_url, &row.resource_id));
    ResourceView {
        urn: urn(&row.resource_type, &row.resource_id),
        assigned_at: Some(wire(row.assigned_at)),
        links: ResourceLinks {
            this: this.unwrap_or_default(),
        },
        status: "ok",
    }
}

/// A thing that was to be assigned.
pub fn assigned_view(assigned: &Assigned, base_url: &str) -> ResourceView {
    let resource = &assigned.resource;
    ResourceView {
        urn: urn(resource.kind.name, &resource.id),
        assigned_at: assigned.at.map(wire),
        links: ResourceLinks {
            this: resource.kind.url(base_url, &resource.id),
        },
        status: match assigned.status {
            Status::Assigned => "assigned",
            Status::AlreadyAssigned => "already_assigned",
            Status::NotFound => "not_found",
        },
    }
}
