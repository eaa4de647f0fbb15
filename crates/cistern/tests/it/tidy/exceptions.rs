//! The arrows that go the wrong way and stay, each with its reason.

/// In one file exactly these paths. One that is no longer needed fails the test.
pub struct Exception {
    /// Below `crates/cistern/src/`.
    pub file: &'static str,
    pub paths: &'static [&'static str],
    pub why: &'static str,
}

pub const EXCEPTIONS: [Exception; 10] = [
    Exception {
        file: "images/rows.rs",
        paths: &[
            "crate::platform::blocks::rows::Counts",
            "crate::platform::tags::rows::tagged_page",
        ],
        why: "both are made to be part of other rooms' queries",
    },
    Exception {
        file: "platform/actions/rows.rs",
        paths: &["crate::platform::blocks::rows::Counts"],
        why: "it is made to be part of other rooms' queries",
    },
    Exception {
        file: "platform/actions/rows.rs",
        paths: &[
            "crate::platform::jobs::rows",
            "crate::platform::jobs::rows::Entity::find",
            "crate::platform::jobs::rows::Column::ActionId",
            "crate::platform::jobs::rows::Column::Progress",
        ],
        why: "an action's progress is its job's: one query for a page of them",
    },
    Exception {
        file: "platform/projects/api/views.rs",
        paths: &[
            "crate::platform::accounts::rows::team",
            "crate::platform::accounts::rows::team::Model",
        ],
        why: "a project's answer shows its team, whose type is the row's",
    },
    Exception {
        file: "platform/regions/mod.rs",
        paths: &[
            "crate::platform::regions::api::RegionView",
            "crate::platform::regions::api::region_view",
        ],
        why: "other rooms' answers hold a whole region",
    },
    Exception {
        file: "platform/accounts/service/tokens.rs",
        paths: &["crate::routes::scopes_asked"],
        why: "which scopes there are is what the list of routes asks for",
    },
    Exception {
        file: "platform/jobs/model.rs",
        paths: &[
            "crate::app::App",
            "crate::platform::db::Tx",
            "tokio::sync::Notify",
            "tokio::time::timeout",
        ],
        why: "a kind of job is functions that are given the App and a transaction, and `Queue` wakes the workers",
    },
    Exception {
        file: "platform/jobs/cli.rs",
        paths: &[
            "crate::platform::jobs::api::JobBody",
            "crate::platform::jobs::api::JobBody::from",
        ],
        why: "the command's JSON is the API's document",
    },
    Exception {
        file: "platform/events/cli.rs",
        paths: &[
            "crate::platform::events::api::EventBody",
            "crate::platform::events::api::EventBody::from",
            "crate::platform::events::api::outcome_check",
        ],
        why: "the command's JSON is the API's document, and its filter the API's",
    },
    Exception {
        file: "images/local/server.rs",
        paths: &["crate::images::api", "crate::images::api::answer"],
        why: "the socket answers with the API's document",
    },
];
