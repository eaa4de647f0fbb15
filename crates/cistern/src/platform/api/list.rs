//! Paged lists: `{key: […], links, meta}`, with links that are absolute, as the client knows us.
//!
//! A handler takes [`Paged`], lists `paged.page`, and answers a struct of its rows and a flattened [`Paging`]:
//!
//! ```ignore
//! #[derive(Serialize, ToSchema)]
//! struct TagList { tags: Vec<TagView>, #[serde(flatten)] paging: Paging }
//!
//! Ok(Json(TagList { paging: paged.paging(listed.total), tags: views(listed.rows) }))
//! ```

use axum::extract::{FromRequestParts, OriginalUri};
use axum::http::request::Parts;
use serde::Serialize;
use url::Url;
use utoipa::ToSchema;

use super::extract::Query;
use super::origin::Origin;
use crate::platform::error::Result;
use crate::platform::error::{Context, Error};
use crate::platform::paging::{Links, Meta, Page, PageQuery, links};

/// The page that a request asks for. Document it with `params(PageQuery)`.
#[derive(Clone, Debug)]
pub struct Paged {
    /// The checked page.
    pub page: Page,
    /// The absolute URL of the list, with its query.
    url: Url,
}

/// `links` and `meta` of a list; flattened into the answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Paging {
    /// The neighbouring pages.
    links: Links,
    /// How many there are on all pages.
    meta: Meta,
}

impl Paged {
    /// `links` and `meta` for `total` rows on all pages.
    pub fn paging(&self, total: u64) -> Paging {
        Paging {
            links: links(&self.url, self.page, total),
            meta: Meta { total },
        }
    }

    /// This page of a table that is all in memory.
    pub fn slice<'a, T>(&self, all: &'a [T]) -> &'a [T] {
        let start = usize::try_from(self.page.offset())
            .unwrap_or(usize::MAX)
            .min(all.len());
        let size = usize::try_from(self.page.size).unwrap_or(usize::MAX);
        &all[start..start.saturating_add(size).min(all.len())]
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Paged {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Query(query) = Query::<PageQuery>::from_request_parts(parts, state).await?;
        let page = query.check()?;
        let origin = Origin::from_request_parts(parts, state).await?;
        let OriginalUri(uri) = OriginalUri::from_request_parts(parts, state)
            .await
            .context("a request without a URI")?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let url = origin.url(path)?;
        Ok(Self { page, url })
    }
}
