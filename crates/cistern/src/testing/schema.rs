//! DigitalOcean's published API schema as a judge of our answers.
//!
//! The document is not ours and not part of the repository: it is found by the environment variable
//! `CISTERN_DO_SCHEMA`, or beside the repository in `shared/api/`. Where it is not, [`Schema::load`] says so once and
//! the tests go on without it.
//!
//! This file needs only `serde_json` and `jsonschema`, so that the black-box tests use it too, by `#[path]`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// The variable that names the document.
const VARIABLE: &str = "CISTERN_DO_SCHEMA";
/// Where the document is otherwise, from the crate's folder.
const BESIDE: &str = "../../../shared/api/digitalocean-images.openapi.json";

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The answer is as the schema says.
    Fits,
    /// The schema has no such operation: it is our own addition.
    NotTheirs,
}

/// The document, its schemas rewritten as JSON Schema.
pub struct Schema {
    /// The operations, by path template and method.
    pub paths: Map<String, Value>,
    components: Value,
}

impl Schema {
    /// The document, or `None` with a printed reason.
    pub fn load() -> Option<Self> {
        let path = std::env::var_os(VARIABLE).map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join(BESIDE),
            PathBuf::from,
        );
        match std::fs::read(&path) {
            Ok(bytes) => Some(Self::parse(&bytes)),
            Err(e) => {
                eprintln!(
                    "skipped: answers are not checked against DigitalOcean's schema, because {} cannot be read ({e}); \
                     name the document in {VARIABLE}",
                    path.display()
                );
                None
            }
        }
    }

    /// Reads an OpenAPI 3.0 document.
    ///
    /// # Panics
    /// Where it is none: then the tests are set up wrongly.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut document: Value = serde_json::from_slice(bytes).expect("the schema is JSON");
        let mut components = document["components"].take();
        let Value::Object(mut paths) = document["paths"].take() else {
            panic!("the schema has no paths")
        };
        to_json_schema(&mut components);
        paths.values_mut().for_each(to_json_schema);
        Self { paths, components }
    }

    /// Checks an answer: `path` is the request's, with or without a query; `body` is empty where there is none.
    /// The error is a text for people, with every deviation and the body.
    pub fn check(&self, method: &str, path: &str, status: u16, body: &[u8]) -> Result<Verdict, String> {
        let path = path.split('?').next().unwrap_or_default();
        let Some(operation) = self.operation(method, path) else {
            return Ok(Verdict::NotTheirs);
        };
        let Some(content) = self.content(operation, status) else {
            return if body.is_empty() {
                Ok(Verdict::Fits)
            } else {
                Err(format!(
                    "{method} {path}: {status} has no body in the schema, ours has one"
                ))
            };
        };
        let value: Value =
            serde_json::from_slice(body).map_err(|e| format!("{method} {path}: not JSON: {e}"))?;
        let mut faults = self.faults(&content, &value)?;
        times_check(&value, "", &mut faults);
        if faults.is_empty() {
            return Ok(Verdict::Fits);
        }
        let faults = faults.join("\n  ");
        Err(format!(
            "{method} {path} {status} does not fit the schema:\n  {faults}\nin {value:#}"
        ))
    }

    /// The operation of the most literal template that matches.
    fn operation(&self, method: &str, path: &str) -> Option<&Value> {
        let method = method.to_lowercase();
        self.paths
            .iter()
            .filter(|(template, item)| template_matches(template, path) && item.get(&method).is_some())
            .min_by_key(|(template, _)| template.matches('{').count())
            .map(|(_, item)| &item[&method])
    }

    /// The schema of a JSON answer with this status; `None` where the answer has no body.
    fn content(&self, operation: &Value, status: u16) -> Option<Value> {
        let responses = &operation["responses"];
        let exact = responses.get(status.to_string());
        let response = self.resolve(exact.or_else(|| responses.get("default"))?);
        response["content"]
            .get("application/json")?
            .get("schema")
            .cloned()
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"]
            .as_str()
            .and_then(|r| r.strip_prefix("#/components"))
        {
            Some(pointer) => self
                .components
                .pointer(pointer)
                .expect("a reference leads somewhere"),
            None => value,
        }
    }

    fn faults(&self, schema: &Value, value: &Value) -> Result<Vec<String>, String> {
        let root = json!({ "allOf": [schema], "components": self.components });
        let validator = jsonschema::draft7::options()
            .should_validate_formats(true)
            .build(&root)
            .map_err(|e| format!("the schema itself is not valid: {e}"))?;
        let faults = validator.iter_errors(value);
        Ok(faults
            .map(|e| format!("{} at {}", e, e.instance_path()))
            .collect())
    }
}

/// Whether `path` is an instance of `template`, such as `/v2/tags/{tag_id}`.
fn template_matches(template: &str, path: &str) -> bool {
    let (mut left, mut right) = (template.split('/'), path.split('/'));
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (Some(l), Some(r)) if l == r || (l.starts_with('{') && !r.is_empty()) => {}
            _ => return false,
        }
    }
}

/// Rewrites what OpenAPI 3.0 has differently: `nullable` becomes a type, and an enum gets its null.
fn to_json_schema(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(to_json_schema),
        Value::Object(map) => {
            for (key, inner) in map.iter_mut() {
                if key != "example" && key != "examples" {
                    to_json_schema(inner);
                }
            }
            if map.remove("nullable") == Some(Value::Bool(true)) {
                allow_null(map);
            }
        }
        _ => {}
    }
}

fn allow_null(map: &mut Map<String, Value>) {
    if ["$ref", "allOf", "oneOf", "anyOf"]
        .iter()
        .any(|key| map.contains_key(*key))
    {
        let inner = Value::Object(std::mem::take(map));
        map.insert("anyOf".into(), json!([inner, { "type": "null" }]));
        return;
    }
    if let Some(kind) = map.remove("type") {
        map.insert("type".into(), json!([kind, "null"]));
    }
    if let Some(Value::Array(values)) = map.get_mut("enum") {
        values.push(Value::Null);
    }
}

/// Times on the wire have whole seconds and `Z`, which `date-time` alone does not say. DigitalOcean has one exception.
fn times_check(value: &Value, at: &str, faults: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|v| times_check(v, at, faults)),
        Value::Object(map) => map.iter().for_each(|(key, v)| times_check(v, key, faults)),
        Value::String(text) if is_time(at) && !is_whole_seconds(text) => {
            faults.push(format!(
                "{text:?} at {at} is not a time with whole seconds and `Z`"
            ));
        }
        _ => {}
    }
}

fn is_time(key: &str) -> bool {
    key.ends_with("_at") && key != "storage_usage_bytes_updated_at"
}

fn is_whole_seconds(text: &str) -> bool {
    text.len() == "2026-01-01T00:00:00Z".len() && text.ends_with('Z')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        let document = json!({
            "paths": {
                "/v2/things/{id}": {
                    "get": { "responses": {
                        "200": { "$ref": "#/components/responses/thing" },
                        "204": { "description": "nothing" },
                        "default": { "content": { "application/json": { "schema": { "required": ["message"] } } } }
                    } }
                },
                "/v2/things/default": { "get": { "responses": { "200": { "description": "nothing" } } } }
            },
            "components": {
                "responses": { "thing": { "content": { "application/json": {
                    "schema": { "$ref": "#/components/schemas/thing" }
                } } } },
                "schemas": { "thing": { "type": "object", "required": ["id"], "properties": {
                    "id": { "type": "integer" },
                    "parent": { "type": "integer", "nullable": true },
                    "made_at": { "type": "string", "format": "date-time", "nullable": true },
                    "kind": { "type": "string", "enum": ["a"], "nullable": true },
                    "other": { "allOf": [{ "$ref": "#/components/schemas/thing" }], "nullable": true }
                } } }
            }
        });
        Schema::parse(document.to_string().as_bytes())
    }

    fn check(body: &Value) -> Result<Verdict, String> {
        schema().check("GET", "/v2/things/7?x=1", 200, body.to_string().as_bytes())
    }

    #[test]
    fn what_fits_fits() {
        let nulls = json!({ "id": 1, "parent": null, "made_at": null, "kind": null, "other": null });
        assert_eq!(check(&nulls), Ok(Verdict::Fits));
        let full = json!({ "id": 1, "parent": 2, "made_at": "2026-01-01T00:00:00Z", "kind": "a", "other": { "id": 3 } });
        assert_eq!(check(&full), Ok(Verdict::Fits));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (bad, names) in [
            (json!({ "id": "1" }), "id"),
            (json!({}), "id"),
            (json!({ "id": null }), "id"),
            (json!({ "id": 1, "kind": "b" }), "kind"),
            (json!({ "id": 1, "other": { "id": "x" } }), "other"),
            (json!({ "id": 1, "made_at": "" }), "made_at"),
            (json!({ "id": 1, "made_at": "2026-01-01T00:00:00.5Z" }), "made_at"),
        ] {
            let fault = check(&bad).expect_err("it is wrong");
            assert!(fault.contains(names), "{fault}");
        }
    }

    #[test]
    fn the_operation_and_the_status_decide() {
        let schema = schema();
        assert_eq!(
            schema.check("GET", "/v2/ours", 200, b"{}"),
            Ok(Verdict::NotTheirs)
        );
        assert_eq!(
            schema.check("PUT", "/v2/things/7", 200, b"{}"),
            Ok(Verdict::NotTheirs)
        );
        assert_eq!(schema.check("GET", "/v2/things/7", 204, b""), Ok(Verdict::Fits));
        assert!(schema.check("GET", "/v2/things/7", 204, b"{}").is_err());
        assert!(
            schema.check("GET", "/v2/things/default", 200, b"{}").is_err(),
            "the literal path wins"
        );
        assert!(
            schema.check("GET", "/v2/things/7", 404, b"{}").is_err(),
            "errors have a schema too"
        );
        assert_eq!(
            schema.check("GET", "/v2/things/7", 404, br#"{"message":"x"}"#),
            Ok(Verdict::Fits)
        );
    }
}
