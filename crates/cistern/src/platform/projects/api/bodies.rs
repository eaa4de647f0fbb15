//! What clients send.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::platform::projects::model::Change;

/// A new project.
#[derive(Deserialize, ToSchema)]
pub struct ProjectCreate {
    /// Unique in the team, 175 characters at most.
    name: String,
    description: Option<String>,
    /// One of DigitalOcean's, or any text, which is kept as `Other: …`.
    purpose: String,
    /// `Development`, `Staging` or `Production`.
    environment: Option<String>,
    is_default: Option<bool>,
}

/// Everything of a project.
#[derive(Deserialize, ToSchema)]
pub struct ProjectPut {
    name: String,
    description: String,
    purpose: String,
    environment: Option<String>,
    is_default: bool,
}

/// Anything of a project; what is left out or null stays as it is.
#[derive(Deserialize, ToSchema)]
pub struct ProjectPatch {
    name: Option<String>,
    description: Option<String>,
    purpose: Option<String>,
    environment: Option<String>,
    is_default: Option<bool>,
}

/// What is to belong to a project.
#[derive(Deserialize, ToSchema)]
pub struct ProjectAssign {
    /// Names such as `do:image:7`.
    #[serde(default)]
    pub resources: Vec<String>,
}

impl From<ProjectCreate> for Change {
    fn from(body: ProjectCreate) -> Self {
        Self {
            name: Some(body.name),
            description: body.description,
            purpose: Some(body.purpose),
            environment: body.environment,
            is_default: body.is_default,
        }
    }
}

impl From<ProjectPut> for Change {
    fn from(body: ProjectPut) -> Self {
        Self {
            name: Some(body.name),
            description: Some(body.description),
            purpose: Some(body.purpose),
            environment: Some(body.environment.unwrap_or_default()),
            is_default: Some(body.is_default),
        }
    }
}

impl From<ProjectPatch> for Change {
    fn from(body: ProjectPatch) -> Self {
        Self {
            name: body.name,
            description: body.description,
            purpose: body.purpose,
            environment: body.environment,
            is_default: body.is_default,
        }
    }
}
