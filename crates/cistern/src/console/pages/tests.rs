//! The console through its router, as a browser sees it.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, header};
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::app::App;
use crate::platform::accounts::service::{FirstStart, password_set};
use crate::platform::events::Who;
use crate::testing::api::origin;

/// A browser: it keeps one cookie.
struct Browser {
    app: App,
    router: Router,
    cookie: Option<String>,
    _dir: tempfile::TempDir,
}

struct Page {
    status: u16,
    location: Option<String>,
    set_cookie: Option<String>,
    headers: axum::http::HeaderMap,
    html: String,
}

impl Browser {
    async fn new() -> (Self, FirstStart) {
        let (app, dir) = crate::app::tests::app().await;
        let first = app.first_start().await.expect("starts").expect("the first time");
        let router = super::routes().with_state(app.clone());
        let browser = Self {
            app,
            router,
            cookie: None,
            _dir: dir,
        };
        (browser, first)
    }

    async fn get(&mut self, path: &str) -> Page {
        self.send("GET", path, "", &[]).await
    }

    async fn post(&mut self, path: &str, form: &str) -> Page {
        self.send("POST", path, form, &[("sec-fetch-site", "same-origin")])
            .await
    }

    async fn send(&mut self, method: &str, path: &str, form: &str, headers: &[(&str, &str)]) -> Page {
        let mut request = Request::builder().method(method).uri(path).extension(origin());
        if method == "POST" {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, format!("other=1; cistern={cookie}"));
        }
        let request = request.body(Body::from(form.to_owned())).expect("a request");
        let page = read(self.router.clone().oneshot(request).await.expect("answers")).await;
        if let Some(set) = &page.set_cookie {
            let value = set
                .split(';')
                .next()
                .and_then(|p| p.split_once('='))
                .expect("a cookie")
                .1;
            self.cookie = (!value.is_empty()).then(|| value.to_owned());
        }
        page
    }

    async fn enter(&mut self, first: &FirstStart) {
        let page = self.post(&format!("/sign-in/{}", first.sign_in), "").await;
        assert_eq!((page.status, page.location.as_deref()), (303, Some("/")));
    }
}

async fn read(response: Response<Body>) -> Page {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (location, set_cookie) = (text(header::LOCATION), text(header::SET_COOKIE));
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    let html = String::from_utf8(bytes.to_vec()).expect("text");
    Page {
        status,
        location,
        set_cookie,
        headers,
        html,
    }
}

/// The token in a page's forms.
fn form_token(page: &Page) -> String {
    let (_, rest) = page
        .html
        .split_once("name=\"token\" value=\"")
        .expect("a form with a token");
    rest.split_once('"').expect("a value").0.to_owned()
}

#[tokio::test]
async fn a_link_is_not_used_up_by_looking_and_works_once() {
    let (mut browser, first) = Browser::new().await;
    let path = format!("/sign-in/{}", first.sign_in);
    for _ in 0..2 {
        let page = browser.get(&path).await;
        assert!(
            page.status == 200 && page.html.contains("<button>Sign in</button>") && page.set_cookie.is_none()
        );
    }
    browser.enter(&first).await;
    let home = browser.get("/").await;
    assert!(
        home.html.contains("owner@localhost") && home.html.contains("My Team"),
        "{}",
        home.html
    );
    assert!(
        home.html.contains("http://cistern.test/v2/images"),
        "the commands name our address"
    );
    browser.cookie = None;
    assert_eq!(browser.get(&path).await.status, 410);
    let again = browser.post(&path, "").await;
    assert!(again.status == 410 && again.set_cookie.is_none());
}

#[tokio::test]
async fn a_planted_cookie_is_never_adopted_and_an_old_session_ends() {
    let (mut browser, first) = Browser::new().await;
    let planted = "a".repeat(64);
    browser.cookie = Some(planted.clone());
    browser.enter(&first).await;
    let one = browser.cookie.clone().expect("a cookie");
    assert_ne!(one, planted);

    password_set(&browser.app, &Who::default(), 1, "correct horse")
        .await
        .expect("is set");
    assert!(
        browser.get("/").await.html.contains("<h1>Sign in</h1>"),
        "a new password ends it"
    );
    let form = "email=owner%40localhost&password=correct+horse";
    assert_eq!(browser.post("/", form).await.status, 303);
    let two = browser.cookie.clone().expect("a cookie");
    assert_eq!(browser.post("/", form).await.status, 303);
    let three = browser.cookie.clone().expect("a cookie");
    assert!(one != two && two != three);
    browser.cookie = Some(two);
    assert!(
        browser.get("/").await.html.contains("<h1>Sign in</h1>"),
        "signing in anew ends the old session"
    );
    browser.cookie = Some(three);
    assert!(browser.get("/").await.html.contains("owner@localhost"));
}

#[tokio::test]
async fn forged_forms_are_refused() {
    let (mut browser, first) = Browser::new().await;
    let path = format!("/sign-in/{}", first.sign_in);
    for forged in [
        [("sec-fetch-site", "cross-site")],
        [("sec-fetch-site", "same-site")],
        [("origin", "https://evil.example")],
        [("origin", "null")],
    ] {
        for path in [path.as_str(), "/"] {
            let page = browser.send("POST", path, "email=a&password=b", &forged).await;
            assert!(
                page.status == 403 && page.set_cookie.is_none(),
                "{path} {forged:?}"
            );
        }
    }
    let own = [("origin", "http://cistern.test")];
    assert_eq!(browser.send("POST", &path, "", &own).await.status, 303);
    for form in ["", "token=", "token=0000"] {
        let page = browser.post("/sign-out", form).await;
        assert!(matches!(page.status, 403 | 422), "{form:?} {}", page.status);
    }
    let token = form_token(&browser.get("/").await);
    assert!(!token.contains(browser.cookie.as_deref().expect("a cookie")));
    assert_eq!(
        browser
            .send(
                "POST",
                "/sign-out",
                &format!("token={token}"),
                &[("origin", "null")]
            )
            .await
            .status,
        403
    );
    assert_eq!(
        browser.post("/sign-out", &format!("token={token}")).await.status,
        303
    );
    assert!(browser.cookie.is_none(), "the cookie is taken away");
}

#[tokio::test]
async fn a_password_is_set_after_a_link_and_changed_with_the_old_one() {
    let (mut browser, first) = Browser::new().await;
    assert_eq!(
        browser.get("/password").await.location.as_deref(),
        Some("/"),
        "first sign in"
    );
    browser.enter(&first).await;
    assert!(browser.get("/").await.html.contains("Set one"));
    let token = form_token(&browser.get("/password").await);
    let short = browser
        .post("/password", &format!("token={token}&new=short&again=short"))
        .await;
    assert!(
        short.status == 422 && short.html.contains("A password has 10 characters"),
        "{}",
        short.html
    );
    let differ = browser
        .post(
            "/password",
            &format!("token={token}&new=correct+horse&again=wrong+horse"),
        )
        .await;
    assert_eq!(differ.status, 422);
    let before = browser.cookie.clone();
    let set = browser
        .post(
            "/password",
            &format!("token={token}&new=correct+horse&again=correct+horse"),
        )
        .await;
    assert_eq!(set.status, 303);
    assert_ne!(browser.cookie, before, "the session's secret is drawn anew");

    let token = form_token(&browser.get("/password").await);
    let wrong = format!("token={token}&current=wrong+horse&new=battery+staple&again=battery+staple");
    assert_eq!(browser.post("/password", &wrong).await.status, 422);
    let right = wrong.replace("current=wrong", "current=correct");
    assert_eq!(browser.post("/password", &right).await.status, 303);
    browser.cookie = None;
    assert_eq!(
        browser
            .post("/", "email=owner%40localhost&password=correct+horse")
            .await
            .status,
        401
    );
    assert_eq!(
        browser
            .post("/", "email=owner%40localhost&password=battery+staple")
            .await
            .status,
        303
    );
}

#[tokio::test]
async fn wrong_and_unknown_look_the_same_and_are_limited() {
    let (mut browser, _) = Browser::new().await;
    password_set(&browser.app, &Who::default(), 1, "correct horse")
        .await
        .expect("is set");
    let wrong = browser.post("/", "email=owner%40localhost&password=wrong").await;
    let unknown = browser.post("/", "email=ownex%40localhost&password=wrong").await;
    assert_eq!((wrong.status, unknown.status), (401, 401));
    assert_eq!(
        wrong.html.replace("owner@localhost", ""),
        unknown.html.replace("ownex@localhost", "")
    );
    for _ in 0..9 {
        browser.post("/", "email=owner%40localhost&password=wrong").await;
    }
    let limited = browser
        .post("/", "email=owner%40localhost&password=correct+horse")
        .await;
    assert_eq!(limited.status, 429);
    let wait: u64 = limited.headers[header::RETRY_AFTER]
        .to_str()
        .expect("text")
        .parse()
        .expect("seconds");
    assert!((1..=900).contains(&wait), "{wait}");
}

#[tokio::test]
async fn pages_load_nothing_from_elsewhere_and_cannot_be_framed_or_kept() {
    let (mut browser, first) = Browser::new().await;
    let mut pages = vec![browser.get("/").await, browser.get("/sign-in/x").await];
    browser.enter(&first).await;
    pages.push(browser.get("/").await);
    pages.push(browser.get("/password").await);
    for page in &pages {
        let policy = page.headers[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .expect("text");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(page.headers[header::CACHE_CONTROL], "no-store");
        assert_eq!(page.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        for inline in [
            "<script",
            "style=\"",
            "<style",
            "src=\"http",
            "href=\"http",
            " on",
        ] {
            let found = page.html.split('<').any(|tag| {
                let tag = tag.split('>').next().unwrap_or_default();
                format!("<{tag}").contains(inline)
            });
            assert!(!found, "{inline} in {}", page.html);
        }
    }
    let style = pages[0]
        .html
        .split("href=\"")
        .find(|h| h.starts_with("/assets/style"))
        .expect("a style sheet");
    let style = style.split('"').next().expect("a path").to_owned();
    let style = browser.get(&style).await;
    assert_eq!(
        (
            style.status,
            style.headers[header::CONTENT_TYPE].to_str().expect("text")
        ),
        (200, "text/css; charset=utf-8")
    );
}

#[tokio::test]
async fn what_people_typed_is_escaped() {
    let (mut browser, _) = Browser::new().await;
    let page = browser
        .post("/", "email=%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E&password=x")
        .await;
    assert!(!page.html.contains("<script>"), "{}", page.html);
}
