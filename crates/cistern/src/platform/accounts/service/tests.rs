//! Signing in: by link, by password, and what ends a session.

use chrono::TimeDelta;

use super::*;
use crate::app::tests::app;
use crate::platform::error::Error;
use crate::platform::events::service::{EventFilter, event_list_local};

const PASSWORD: &str = "canary-correct horse";

fn from(address: &str) -> Who {
    Who {
        address: Some(address.into()),
        ..Who::default()
    }
}

async fn is_signed_in(app: &App, session: &Session) -> bool {
    session_caller(app, &session.secret, Who::default())
        .await
        .expect("answers")
        .is_some()
}

async fn sign_in(app: &App, email: &str, password: &str) -> Result<Option<Session>> {
    sign_in_password(app, &from("10.0.0.1"), email, password).await
}

#[tokio::test]
async fn a_link_works_once_and_for_a_day() {
    let (app, _dir) = app().await;
    let first = app.first_start().await.expect("starts").expect("the first time");
    let who = from("10.0.0.1");
    assert!(
        link_check(&app, &first.sign_in).await.expect("answers"),
        "looking does not use it up"
    );
    let session = link_use(&app, &who, &first.sign_in)
        .await
        .expect("answers")
        .expect("signs in");
    assert!(is_signed_in(&app, &session).await);
    assert!(
        link_use(&app, &who, &first.sign_in)
            .await
            .expect("answers")
            .is_none(),
        "used up"
    );
    assert!(!link_check(&app, &first.sign_in).await.expect("answers"));
    assert!(
        link_use(&app, &who, &session.secret)
            .await
            .expect("answers")
            .is_none(),
        "a session is no link"
    );

    let link = link_create(&app, &who, 1, None).await.expect("a new link");
    assert!(
        session_caller(&app, &link.secret, who.clone())
            .await
            .expect("answers")
            .is_none(),
        "a link is no session"
    );
    app.clock.advance(TimeDelta::hours(24));
    assert!(
        link_use(&app, &who, &link.secret)
            .await
            .expect("answers")
            .is_none(),
        "over"
    );
    app.clock.advance(TimeDelta::days(6));
    assert!(!is_signed_in(&app, &session).await, "a week is over");
}

#[tokio::test]
async fn of_two_at_once_one_gets_in_by_a_link() {
    let (app, _dir) = app().await;
    let first = app.first_start().await.expect("starts").expect("the first time");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (app, secret) = (app.clone(), first.sign_in.clone());
        tasks.spawn(async move {
            link_use(&app, &from("10.0.0.1"), &secret)
                .await
                .expect("answers")
                .is_some()
        });
    }
    let got_in = tasks.join_all().await.into_iter().filter(|is| *is).count();
    assert_eq!(got_in, 1);
}

#[tokio::test]
async fn a_password_signs_in_and_a_new_one_ends_what_was() {
    let (app, _dir) = app().await;
    app.first_start().await.expect("starts");
    assert!(
        sign_in(&app, "owner@localhost", "")
            .await
            .expect("answers")
            .is_none(),
        "no password is no way in"
    );
    password_set(&app, &Who::default(), 1, PASSWORD)
        .await
        .expect("is set");
    assert!(
        sign_in(&app, "owner@localhost", "wrong password")
            .await
            .expect("answers")
            .is_none()
    );
    assert!(
        sign_in(&app, "nobody@localhost", PASSWORD)
            .await
            .expect("answers")
            .is_none()
    );
    let one = sign_in(&app, "Owner@localhost", PASSWORD)
        .await
        .expect("answers")
        .expect("signs in");
    let two = sign_in(&app, "owner@localhost", PASSWORD)
        .await
        .expect("answers")
        .expect("signs in");
    assert_ne!(one.secret, two.secret);

    let caller = session_caller(&app, &one.secret, from("10.0.0.1"))
        .await
        .expect("answers")
        .expect("signed in");
    let wrong = password_change(&app, &caller, "wrong password", "another sentence").await;
    assert!(matches!(wrong, Err(Error::Invalid(_))));
    let link = link_create(&app, &Who::default(), 1, None).await.expect("a link");
    let new = password_change(&app, &caller, PASSWORD, "another sentence")
        .await
        .expect("changes");
    assert!(is_signed_in(&app, &new).await);
    for over in [&one, &two] {
        assert!(!is_signed_in(&app, over).await);
    }
    assert!(
        !link_check(&app, &link.secret).await.expect("answers"),
        "links end too"
    );
    let caller = session_caller(&app, &new.secret, from("10.0.0.1"))
        .await
        .expect("answers")
        .expect("signed in");
    session_end(&app, &caller, &new.secret).await.expect("signs out");
    assert!(!is_signed_in(&app, &new).await);
}

#[tokio::test]
async fn guessing_is_stopped_and_leaves_events_without_what_was_typed() {
    let (app, _dir) = app().await;
    app.first_start().await.expect("starts");
    password_set(&app, &Who::default(), 1, PASSWORD)
        .await
        .expect("is set");
    for n in 0..10 {
        let address = from(&format!("10.0.1.{n}"));
        let guess = sign_in_password(&app, &address, "owner@localhost", "canary-guess").await;
        assert!(guess.expect("answers").is_none());
    }
    let right = sign_in(&app, "owner@localhost", PASSWORD).await;
    assert!(
        matches!(right, Err(Error::TooMany { .. })),
        "also the right one has to wait"
    );
    app.clock.advance(TimeDelta::minutes(15));
    assert!(
        sign_in(&app, "owner@localhost", PASSWORD)
            .await
            .expect("answers")
            .is_some()
    );

    sign_in(&app, "canary-typed-into-the-wrong-field", "x")
        .await
        .expect("answers");
    // An answer does not wait for its event for long: behind this turn all of them are written.
    drop(app.db.write().await.expect("writes"));
    let events = event_list_local(&app, &EventFilter::default(), 200)
        .await
        .expect("lists");
    let refused = events
        .iter()
        .filter(|e| e.row.what == "sign_in.create" && e.row.outcome == "refused")
        .count();
    assert_eq!(refused, 12);
    let text = format!("{:?}", events.iter().map(|e| &e.row).collect::<Vec<_>>());
    assert!(!text.contains("canary"), "{text}");
    let known = events
        .iter()
        .filter(|e| e.row.outcome == "refused" && e.row.team_id == Some(1))
        .count();
    assert_eq!(known, 10, "the team sees who tried its member's account");
}

#[tokio::test]
async fn losing_the_role_the_membership_or_the_account_ends_the_session_at_once() {
    let (app, _dir) = app().await;
    app.first_start().await.expect("starts");
    let who = Who::default();
    let user = user_create(&app, &who, "ann@example.com", 1, Role::Owner, false)
        .await
        .expect("a user");
    let enter = async || {
        let link = link_create(&app, &who, user.id, None).await.expect("a link");
        link_use(&app, &who, &link.secret)
            .await
            .expect("answers")
            .expect("signs in")
    };
    let session = enter().await;
    let may = async |session: &Session| {
        let caller = session_caller(&app, &session.secret, who.clone())
            .await
            .expect("answers");
        caller.map(|c| c.may("member:update"))
    };
    assert_eq!(may(&session).await, Some(true));
    member_set_role(&app, &who, 1, user.id, Role::Viewer)
        .await
        .expect("demoted");
    assert_eq!(may(&session).await, Some(false));
    user_set_disabled(&app, &who, user.id, true)
        .await
        .expect("disabled");
    assert_eq!(may(&session).await, None);
    assert!(
        link_create(&app, &who, user.id, None).await.is_err(),
        "no link for the disabled"
    );
    user_set_disabled(&app, &who, user.id, false)
        .await
        .expect("enabled");
    assert_eq!(may(&session).await, None, "it does not come back");
    let session = enter().await;
    member_remove(&app, &who, 1, user.id).await.expect("removed");
    assert_eq!(may(&session).await, None);
}
