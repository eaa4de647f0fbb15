//! `/v2/regions` and `/v2/sizes` on a real router.

use crate::testing::api::Tester;

#[tokio::test]
async fn regions_and_sizes_are_listed_in_pages() {
    let api = Tester::new().await;
    let all = api.get("/v2/regions?per_page=200").await.ok(200);
    assert_eq!(all["meta"]["total"], 16);
    assert_eq!(all["links"], serde_json::json!({}));
    for slug in ["nyc1", "nyc2", "nyc3", "sfo3", "lon1", "tor1"] {
        let region = all["regions"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|r| r["slug"] == slug);
        let sizes = region.expect("the region is there")["sizes"].to_string();
        assert!(sizes.contains("s-1vcpu-1gb"), "{sizes}");
    }
    let second = api.get("/v2/regions?per_page=5&page=2").await.ok(200);
    assert_eq!(second["regions"].as_array().map(Vec::len), Some(5));
    assert_eq!(
        second["links"]["pages"]["next"],
        "http://cistern.test/v2/regions?page=3&per_page=5"
    );
    let beyond = api.get("/v2/sizes?page=99").await.ok(200);
    assert_eq!(beyond["sizes"], serde_json::json!([]));

    let sizes = api.get("/v2/sizes?per_page=200").await.ok(200);
    let small = sizes["sizes"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|s| s["slug"] == "s-1vcpu-1gb");
    let small = small.expect("the smallest size is there");
    assert_eq!(
        (&small["disk"], &small["price_monthly"]),
        (&25.into(), &6.0.into())
    );
    assert_eq!(small["price_hourly"], 0.00893);
}

#[tokio::test]
async fn sizes_of_a_region_need_a_scope_of_their_own() {
    let api = Tester::new().await.narrowed("regions:read").await;
    let regions = api.get("/v2/regions").await.ok(200);
    assert_eq!(regions["regions"][0]["sizes"], serde_json::json!([]));
    api.get("/v2/sizes").await.refused(403, "forbidden");
}
