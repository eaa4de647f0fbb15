use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use super::settings::{SETTINGS, find};
use super::*;

fn env(vars: &[(&str, &str)]) -> Env {
    vars.iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

/// Loads with `data` pointing at `dir`, so that no file outside it is looked at first.
fn load_in(dir: &Path, vars: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, Vec<load::Problem>> {
    let mut all = BTreeMap::from([("data", dir.display().to_string())]);
    for (key, value) in flags {
        all.insert(find(key).expect("a known setting").key, (*value).to_owned());
    }
    load(&env(vars), Some(&dir.join("cistern.toml")), &all)
}

fn with_file(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("cistern.toml"), text).expect("writes");
    dir
}

fn problems(file: &str, vars: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    let dir = with_file(file);
    let problems = load_in(dir.path(), vars, flags).expect_err("refused");
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

fn keys_of(value: &serde_json::Value, prefix: &str, out: &mut BTreeSet<String>) {
    for (key, inner) in value.as_object().expect("an object") {
        let name = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        if inner.is_object() {
            keys_of(inner, &name, out);
        } else {
            assert!(out.insert(name));
        }
    }
}

#[test]
fn the_table_has_every_field_and_nothing_else() {
    let mut fields = BTreeSet::new();
    keys_of(
        &serde_json::to_value(Config::default()).expect("serialises"),
        "",
        &mut fields,
    );
    let table: BTreeSet<String> = SETTINGS.iter().map(|s| s.key.to_owned()).collect();
    assert_eq!(table.len(), SETTINGS.len(), "a key is there twice");
    assert_eq!(fields, table);
}

#[test]
fn no_two_settings_share_a_flag_or_a_variable() {
    let flags: Vec<String> = SETTINGS.iter().filter_map(settings::Setting::flag).collect();
    let vars: BTreeSet<String> = SETTINGS.iter().map(settings::Setting::env).collect();
    assert_eq!(flags.iter().collect::<BTreeSet<_>>().len(), flags.len());
    assert_eq!(vars.len(), SETTINGS.len());
    assert!(
        !flags
            .iter()
            .any(|flag| flag.contains("key") && flag.starts_with("objects"))
    );
}

#[test]
fn the_documentation_has_this_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let text = std::fs::read_to_string(path).expect("docs/configuration.md");
    assert!(
        text.contains(&markdown()),
        "put this table into docs/configuration.md:\n{}",
        markdown()
    );
}

#[test]
fn the_defaults_are_accepted() {
    let dir = with_file("");
    let loaded = load_in(dir.path(), &[], &[]).expect("loads");
    assert_eq!(loaded.config.listen_api.to_string(), "127.0.0.1:8080");
    assert_eq!(loaded.origins.keys().copied().collect::<Vec<_>>(), ["data"]);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let dir = with_file("shutdown_seconds = 1\n[fetch]\nredirects = 1\nmax_bytes = 1\n");
    let vars = [
        ("CISTERN_FETCH__REDIRECTS", "2"),
        ("CISTERN_FETCH__MAX_BYTES", "2"),
    ];
    let loaded = load_in(dir.path(), &vars, &[("fetch.max_bytes", "3")]).expect("loads");
    assert_eq!(loaded.config.shutdown_seconds, 1);
    assert_eq!(loaded.config.fetch.redirects, 2);
    assert_eq!(loaded.config.fetch.max_bytes, 3);
    assert_eq!(
        loaded.config.fetch.timeout_seconds,
        Config::default().fetch.timeout_seconds
    );
    assert_eq!(
        loaded.origins["fetch.max_bytes"],
        Origin::Flag("--fetch-max-bytes".into())
    );
    assert_eq!(
        loaded.origins["fetch.redirects"],
        Origin::Env("CISTERN_FETCH__REDIRECTS".into())
    );
}

#[test]
fn lists_are_arrays_in_the_file_and_have_commas_outside() {
    let dir = with_file("trusted_proxies = [\"10.0.0.0/8\", \"::1/128\"]\n");
    let loaded = load_in(
        dir.path(),
        &[("CISTERN_FETCH__ALLOW", "127.0.0.1/32, 10.1.0.0/16")],
        &[],
    )
    .expect("loads");
    assert_eq!(loaded.config.trusted_proxies.len(), 2);
    assert_eq!(loaded.config.fetch.allow.len(), 2);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    let text = problems("[fetch]\nmax_byte = 1\n", &[("CISTERN_LISTENAPI", "x")], &[]);
    assert!(text.contains("did you mean `fetch.max_bytes`?"), "{text}");
    assert!(text.contains("did you mean `CISTERN_LISTEN_API`?"), "{text}");
    assert!(problems("zzz = 1\n", &[], &[]).contains("cistern config list"));
    let text = problems("", &[("CISTERN_FOO", "x")], &[]);
    assert!(text.contains("cistern config list"), "{text}");
}

#[test]
fn a_service_of_kubernetes_that_has_our_name_is_no_setting() {
    let given = [
        ("CISTERN_SERVICE_HOST", "10.0.0.1"),
        ("CISTERN_SERVICE_PORT_API", "8080"),
        ("CISTERN_PORT", "tcp://10.0.0.1:8080"),
        ("CISTERN_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ];
    let dir = with_file("");
    load_in(dir.path(), &given, &[]).expect("loads");
    assert!(problems("", &[("CISTERN_PORT", "8080")], &[]).contains("CISTERN_PORT"));
}

#[test]
fn wrong_values_are_named_with_their_place() {
    let text = problems("listen_api = \"nowhere\"\n", &[], &[]);
    assert!(
        text.contains("`listen_api`") && text.contains("cistern.toml"),
        "{text}"
    );
    let text = problems("", &[("CISTERN_JOBS__WORKERS", "many")], &[]);
    assert_eq!(text, "`CISTERN_JOBS__WORKERS` must be a whole number, not `many`");
    assert!(problems("", &[], &[("fetch.allow", "10.0.0.0/99")]).contains("--fetch-allow"));
}

#[test]
fn a_listener_that_others_reach_needs_tls() {
    let open = [("listen_api", "0.0.0.0:8080")];
    assert!(problems("", &[], &open).contains("--tls-self-signed"));
    let dir = with_file("insecure_http = true\n");
    load_in(dir.path(), &[], &open).expect("allowed when asked for");
    let dir = with_file("[tls]\nself_signed = true\n");
    load_in(dir.path(), &[], &open).expect("allowed with TLS");
}

#[test]
fn one_port_needs_the_registrys_host_name() {
    let one = [
        ("listen_api", "127.0.0.1:9000"),
        ("listen_registry", "127.0.0.1:9000"),
    ];
    assert!(problems("", &[], &one).contains("host.registry"));
    let dir = with_file("host.registry = \"registry.example.com\"\n");
    assert!(load_in(dir.path(), &[], &one).expect("loads").config.one_port());
    let any = [("listen_api", "127.0.0.1:0"), ("listen_registry", "127.0.0.1:0")];
    assert!(!load_in(dir.path(), &[], &any).expect("loads").config.one_port());
}

#[test]
fn secrets_are_not_shown() {
    let dir = with_file("database = \"postgres://u:hunter2@h/db\"\nobjects_secret_key = \"hunter2\"\n");
    let vars = [("AWS_ACCESS_KEY_ID", "hunter2")];
    let loaded = load_in(dir.path(), &vars, &[]).expect("loads");
    let shown = format!(
        "{:?} {}",
        loaded.config,
        serde_json::to_string(&loaded.config).expect("serialises")
    );
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_eq!(
        loaded.config.objects_access_key.as_ref().map(Secret::expose),
        Some("hunter2")
    );
    let text = problems("objects_secret_key = 12345678\n", &[], &[]);
    assert!(!text.contains("12345678"), "{text}");
}

#[test]
fn our_key_variable_wins_over_aws() {
    let dir = with_file("");
    let vars = [("AWS_ACCESS_KEY_ID", "a"), ("CISTERN_OBJECTS_ACCESS_KEY", "b")];
    let loaded = load_in(dir.path(), &vars, &[]).expect("loads");
    assert_eq!(
        loaded.config.objects_access_key.as_ref().map(Secret::expose),
        Some("b")
    );
}

#[test]
fn places_are_read() {
    let mut config = Config::for_data("/d");
    assert!(matches!(config.database(), Database::Sqlite(p) if p == Path::new("/d/cistern.sqlite")));
    assert!(matches!(config.objects(), Objects::Folder(p) if p == Path::new("/d/store")));
    config.database = Some(Secret::new("sqlite:///x/y.sqlite"));
    assert!(matches!(config.database(), Database::Sqlite(p) if p == Path::new("/x/y.sqlite")));
    config.objects = Some("s3://bucket/a/b/?endpoint=http://127.0.0.1:9000&region=eu".into());
    assert!(matches!(config.objects(), Objects::S3(url) if url.starts_with("s3://bucket/a/b/")));
}

#[test]
fn wrong_places_are_refused() {
    assert!(problems("objects = \"gs://b\"\n", &[], &[]).contains("gs://"));
    assert!(problems("objects = \"s3://key:secret@b\"\n", &[], &[]).contains("objects_access_key"));
    assert!(problems("objects = \"s3://b?regoin=x\"\n", &[], &[]).contains("regoin"));
    assert!(problems("database = \"mysql://h/d\"\n", &[], &[]).contains("postgres://"));
}

/// The table of `docs/configuration.md`.
fn markdown() -> String {
    let mut out =
        String::from("| setting | variable | flag | default | what it is |\n|---|---|---|---|---|\n");
    for s in SETTINGS {
        let default = match s.default_text() {
            text if text.is_empty() => "none".to_owned(),
            text => format!("`{text}`"),
        };
        let flag = s
            .flag()
            .map_or_else(|| "none".to_owned(), |flag| format!("`--{flag}`"));
        let _ = writeln!(
            out,
            "| `{}` | `{}` | {flag} | {default} | {} |",
            s.key,
            s.env(),
            s.text
        );
    }
    out
}
