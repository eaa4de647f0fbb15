//! Images for people.

use serde_json::Value;

use crate::cli::output;
use crate::cli::table::{plain, table};
use crate::platform::clock::Time;

/// A list, one line an image.
pub fn image_table(images: &[Value], now: Time) -> String {
    if images.is_empty() {
        return "No images. `cistern image import FILE --name NAME` brings one in; `cistern image list --deleted` shows those that were deleted, or \
                whose import failed."
            .into();
    }
    let rows = images.iter().map(|image| {
        [
            text(&image["id"]),
            text(&image["name"]),
            match image["health"].as_str() {
                Some("damaged") => format!("{}, damaged", text(&image["status"])),
                _ => text(&image["status"]),
            },
            size(&image["virtual_bytes"]),
            size(&image["logical_bytes"]),
            text(&image["format"]),
            age(&image["created_at"], now),
        ]
    });
    table(
        ["ID>", "NAME", "STATUS", "DISK>", "DATA>", "FORMAT", "AGE>"],
        rows,
    )
}

/// Deleted images, and those whose import failed: until when one can be restored, or why there is none.
pub fn deleted_table(images: &[Value], now: Time) -> String {
    if images.is_empty() {
        return "Nothing was deleted, and no import failed, in the last 30 days.".into();
    }
    let rows = images.iter().map(|image| {
        let note = match (
            image["restorable_until"].as_str(),
            image["error_message"].as_str(),
        ) {
            (Some(until), _) => format!("`cistern image restore {}` until {until}", image["id"]),
            (None, Some(reason)) if !reason.is_empty() => reason.to_owned(),
            _ => "its disk is gone: a day is over, or the disk was nearly full, or it was purged".to_owned(),
        };
        [
            text(&image["id"]),
            text(&image["name"]),
            age(&image["created_at"], now),
            note,
        ]
    });
    table(["ID>", "NAME", "AGE>", "RESTORE, OR WHY NOT"], rows)
}

/// Deleted images of one name that can be restored.
pub fn candidates_table(images: &[&Value]) -> String {
    let rows = images.iter().map(|image| {
        [
            text(&image["id"]),
            text(&image["deleted_at"]),
            text(&image["restorable_until"]),
            size(&image["virtual_bytes"]),
            size(&image["logical_bytes"]),
        ]
    });
    table(["ID>", "DELETED", "RESTORABLE UNTIL", "DISK>", "DATA>"], rows)
}

/// One image, a line a fact.
pub fn one(image: &Value, now: Time) -> String {
    let mut facts = vec![
        ("ID", text(&image["id"])),
        ("Name", text(&image["name"])),
        ("Status", status(image)),
    ];
    let mut add = |name, value: String| {
        if !value.is_empty() && value != "-" {
            facts.push((name, value));
        }
    };
    add("Error", text(&image["error_message"]));
    add("Disk", size(&image["virtual_bytes"]));
    add("Data", size(&image["logical_bytes"]));
    add("New in store", size(&image["new_bytes"]));
    if image["health"] == "damaged" {
        add("Health", damaged(image));
    }
    add("Format", text(&image["variant"]));
    add("Distribution", text(&image["distribution"]));
    add("Description", text(&image["description"]));
    add("Source", text(&image["source"]));
    if image["protected"] == true {
        add("Protected", "yes".into());
    }
    add("Regions", list(&image["regions"]));
    add("Tags", list(&image["tags"]));
    add("Created", format!("{} ago", age(&image["created_at"], now)));
    add("Restorable until", text(&image["restorable_until"]));
    for (format, digest) in image["checksums"].as_object().into_iter().flatten() {
        add("SHA-256", format!("{} ({format})", text(digest)));
    }
    for warning in image["warnings"].as_array().into_iter().flatten() {
        add("Warning", text(warning));
    }
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = facts
        .into_iter()
        .map(|(name, value)| format!("{name:width$}  {value}"))
        .collect();
    lines.join("\n")
}

/// That it is damaged, where, and what helps.
fn damaged(image: &Value) -> String {
    if is_lost(image) {
        return "damaged, all of it: importing it again heals it, and so does `cistern store heal` from a copy of the store".into();
    }
    let known = match damaged_ranges(image) {
        ranges if ranges.is_empty() => String::new(),
        ranges => format!(" at bytes {}", ranges.join(", ")),
    };
    format!(
        "damaged{known}: `cistern store verify --read-data` names every range, importing it again heals it, `cistern image \
         export --range` saves the rest"
    )
}

/// Whether all of it is known to be damaged: there is no rest that could be saved.
pub fn is_lost(image: &Value) -> bool {
    let Some(size) = image["virtual_bytes"].as_u64().filter(|size| *size > 0) else {
        return false;
    };
    let ranges = image["damage"].as_array().into_iter().flatten();
    let mut ranges: Vec<(u64, u64)> = ranges
        .filter_map(|range| Some((range["from"].as_u64()?, range["to"].as_u64()?)))
        .collect();
    ranges.sort_unstable();
    let mut whole_to = 0;
    for (from, to) in ranges {
        if from > whole_to {
            return false;
        }
        whole_to = whole_to.max(to);
    }
    whole_to >= size
}

/// The damaged ranges that are known of one image, as people and `--range` write them: first and last byte.
pub fn damaged_ranges(image: &Value) -> Vec<String> {
    let ranges = image["damage"].as_array().into_iter().flatten();
    ranges
        .filter_map(|range| {
            let (from, to) = (range["from"].as_u64()?, range["to"].as_u64()?);
            Some(format!("{from}-{}", to.saturating_sub(1)))
        })
        .collect()
}

/// The status, and how far an import is.
fn status(image: &Value) -> String {
    let shown = text(&image["status"]);
    match image["import"].as_object() {
        Some(_) => format!("{shown}, {}", output::progress(&image["import"])),
        None => shown,
    }
}

/// What an import did, in a sentence or two.
pub fn imported(image: &Value, took: std::time::Duration) -> String {
    let id = text(&image["id"]);
    format!(
        "Image {id} ({}) is available: {} disk, {} data, {} new in the store, in {:.1} s.\nNext: cistern image export \
         {id} --format qcow2 -o FILE",
        text(&image["name"]),
        size(&image["virtual_bytes"]),
        size(&image["logical_bytes"]),
        size(&image["new_bytes"]),
        took.as_secs_f64(),
    )
}

/// A value as text that cannot move a terminal's cursor; `-` for nothing.
pub fn text(value: &Value) -> String {
    let text = match value {
        Value::Null => return "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    plain(&text)
}

fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".into(), output::bytes)
}

fn list(value: &Value) -> String {
    let items: Vec<String> = value.as_array().into_iter().flatten().map(text).collect();
    items.join(", ")
}

/// How long ago, in the largest unit.
fn age(value: &Value, now: Time) -> String {
    let Some(then) = value.as_str().and_then(|t| t.parse::<Time>().ok()) else {
        return "-".into();
    };
    let seconds = (now - then).num_seconds().max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Time {
        "2026-01-02T03:04:05Z".parse().expect("a time")
    }

    fn image() -> Value {
        json!({
            "id": 7, "name": "web\u{1b}[2J", "status": "available", "virtual_bytes": 2_147_483_648_u64,
            "logical_bytes": 1_572_864, "new_bytes": 0, "format": "qcow2", "variant": "qcow2 v3",
            "created_at": "2026-01-02T01:04:05Z", "error_message": "", "regions": ["nyc3"], "tags": [],
            "checksums": { "raw": "ab" },
        })
    }

    #[test]
    fn a_table_has_sizes_and_ages_for_people() {
        let shown = image_table(&[image()], now());
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].contains("NAME") && lines[0].contains("AGE"), "{shown}");
        for part in ["7", "available", "2.0 GiB", "1.5 MiB", "qcow2", "2 h"] {
            assert!(lines[1].contains(part), "{part}: {shown}");
        }
        assert!(!shown.contains('\u{1b}'), "a name cannot steer the terminal");
        assert!(image_table(&[], now()).contains("cistern image import"));
    }

    #[test]
    fn a_damaged_image_says_so_in_the_list_and_where_when_it_is_looked_at() {
        let mut hurt = image();
        hurt["health"] = "damaged".into();
        let shown = image_table(&[image(), hurt.clone()], now());
        let lines: Vec<&str> = shown.lines().collect();
        assert!(
            !lines[1].contains("damaged") && lines[2].contains("available, damaged"),
            "{shown}"
        );
        hurt["damage"] = json!([{ "from": 0, "to": 65_536 }, { "from": 131_072, "to": 196_608 }]);
        let shown = one(&hurt, now());
        assert!(
            shown.contains("damaged at bytes 0-65535, 131072-196607"),
            "{shown}"
        );
    }

    #[test]
    fn of_an_image_that_is_lost_no_rest_is_promised() {
        let mut hurt = image();
        hurt["health"] = "damaged".into();
        hurt["damage"] = json!([{ "from": 65_536, "to": 2_147_483_648_u64 }, { "from": 0, "to": 65_536 }]);
        let shown = one(&hurt, now());
        assert!(is_lost(&hurt) && shown.contains("damaged, all of it"), "{shown}");
        assert!(!shown.contains("--range"), "{shown}");
        for rest in [
            json!([]),
            json!([{ "from": 1, "to": 2_147_483_648_u64 }]),
            json!([{ "from": 0, "to": 5 }, { "from": 6, "to": 2_147_483_648_u64 }]),
        ] {
            hurt["damage"] = rest;
            assert!(!is_lost(&hurt) && one(&hurt, now()).contains("saves the rest"));
        }
    }

    #[test]
    fn a_deleted_image_shows_how_it_comes_back_and_a_failed_one_why() {
        let deleted = json!({ "id": 7, "name": "web", "restorable_until": "2026-01-03T01:04:05Z" });
        let failed = json!({ "id": 8, "name": "db", "error_message": "It is an ISO." });
        let shown = deleted_table(&[deleted, failed, json!({ "id": 9 })], now());
        for part in [
            "image restore 7` until 2026-01-03",
            "It is an ISO.",
            "is gone",
            "disk was nearly full",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn one_image_shows_what_is_known_and_nothing_empty() {
        let shown = one(&image(), now());
        assert!(shown.contains("SHA-256") && shown.contains("ab (raw)"), "{shown}");
        assert!(!shown.contains("Tags") && !shown.contains("Error"), "{shown}");
    }

    #[test]
    fn ages_are_in_the_largest_unit() {
        let of = |text: &str| age(&json!(text), now());
        assert_eq!(of("2026-01-02T03:04:00Z"), "5 s");
        assert_eq!(of("2026-01-02T03:00:00Z"), "4 min");
        assert_eq!(of("2025-12-30T03:00:00Z"), "3 d");
        assert_eq!(of("2027-01-01T00:00:00Z"), "0 s");
        assert_eq!(age(&Value::Null, now()), "-");
    }
}
