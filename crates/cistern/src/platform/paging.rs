//! Pages of a list: `page` from 1, `per_page` from 1 to 200, 20 unless told otherwise.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::{Error, Result};

/// The query of every paged list.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Which page, from 1.
    page: Option<u64>,
    /// How many a page, 1 to 200.
    per_page: Option<u64>,
}

/// A checked page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// From 1.
    pub number: u64,
    /// 1 to 200.
    pub size: u64,
}

impl PageQuery {
    /// Refuses what is out of bounds.
    pub fn check(self) -> Result<Page> {
        let page = Page {
            number: self.page.unwrap_or(1),
            size: self.per_page.unwrap_or(20),
        };
        if page.number == 0 {
            return Err(Error::invalid("`page` counts from 1"));
        }
        if page.number > u64::from(u32::MAX) {
            return Err(Error::invalid(format!("`page` goes up to {}", u32::MAX)));
        }
        if page.size == 0 || page.size > 200 {
            return Err(Error::invalid("`per_page` goes from 1 to 200"));
        }
        Ok(page)
    }
}

impl Page {
    /// Rows before this page.
    pub fn offset(self) -> u64 {
        (self.number - 1) * self.size
    }
}

/// One page of rows, with how many there are in all.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    /// The rows of this page.
    pub rows: Vec<T>,
    /// Rows on all pages.
    pub total: u64,
}

/// `meta` of a list.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Meta {
    /// Rows on all pages.
    pub total: u64,
}

/// `links` of a list; `pages` is left out where there is one page only.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Links {
    /// The neighbours of this page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages: Option<Pages>,
}

/// Absolute URLs of the neighbouring pages, only those that exist.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Pages {
    /// The first page, where this is not it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// The page before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev: Option<String>,
    /// The page after this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The last page, where this is not it. doctl reads how many pages there are from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}

/// The links of `page` out of `total` rows. `url` is the absolute URL of the list with its other parameters.
pub fn links(url: &url::Url, page: Page, total: u64) -> Links {
    let last = total.div_ceil(page.size).max(1);
    if last == 1 && page.number == 1 {
        return Links::default();
    }
    let at = |number: u64| Some(page_url(url, number, page.size));
    let pages = Pages {
        first: if page.number > 1 { at(1) } else { None },
        prev: if page.number > 1 {
            at((page.number - 1).min(last))
        } else {
            None
        },
        next: if page.number < last {
            at(page.number + 1)
        } else {
            None
        },
        last: if page.number < last { at(last) } else { None },
    };
    Links { pages: Some(pages) }
}

fn page_url(url: &url::Url, number: u64, size: u64) -> String {
    let others: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(k, _)| k != "page" && k != "per_page")
        .map(|(k, v)| (k.into(), v.into()))
        .collect();
    let mut out = url.clone();
    out.query_pairs_mut()
        .clear()
        .extend_pairs(others)
        .append_pair("page", &number.to_string())
        .append_pair("per_page", &size.to_string());
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(number: u64, size: u64, total: u64) -> Option<Pages> {
        let url = url::Url::parse("https://api.example/v2/images?private=true&page=9").expect("a valid URL");
        links(&url, Page { number, size }, total).pages
    }

    #[test]
    fn one_page_has_no_links() {
        assert!(pages(1, 20, 20).is_none());
    }

    #[test]
    fn the_first_of_several_names_next_and_last_and_keeps_the_filter() {
        let p = pages(1, 20, 41).expect("three pages");
        assert_eq!(
            p.next.as_deref(),
            Some("https://api.example/v2/images?private=true&page=2&per_page=20")
        );
        assert_eq!(
            p.last.as_deref(),
            Some("https://api.example/v2/images?private=true&page=3&per_page=20")
        );
        assert!(p.first.is_none() && p.prev.is_none());
    }

    #[test]
    fn the_last_names_first_and_prev_only() {
        let p = pages(3, 20, 41).expect("three pages");
        assert!(p.prev.expect("a page before").contains("page=2"));
        assert!(p.first.expect("a first page").contains("page=1"));
        assert!(p.next.is_none() && p.last.is_none());
    }

    #[test]
    fn bounds_are_checked() {
        let check = |page, per_page| PageQuery { page, per_page }.check().is_ok();
        assert!(check(None, None) && check(Some(1), Some(200)));
        assert!(!check(Some(0), None) && !check(None, Some(0)) && !check(None, Some(201)));
    }
}
