//! The OpenAPI document and the routes are the same: neither has anything that the other has not.

use std::{collections::BTreeSet, fs, path::Path};

use super::*;

const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

fn document() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/openapi.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Paths as they are written in `.route("...")`.
fn routes_of_the_source() -> BTreeSet<String> {
    let mut routes = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
                let quoted = code.split(".route(").skip(1).map(str::trim_start);
                for rest in quoted {
                    if let Some(path) = rest.strip_prefix('"') {
                        routes.insert(path.split('"').next().unwrap().to_owned());
                    } else {
                        // The page and its files come from a list; only the page itself is a request for people.
                        assert!(
                            path.ends_with("page.rs"),
                            "{}: a route is a literal, for this test to find",
                            path.display()
                        );
                        routes.insert("/".to_owned());
                    }
                }
            }
        }
    }
    routes
}

#[test]
fn every_route_is_in_the_document_and_none_else() {
    let document = document();
    let paths: BTreeSet<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(paths, routes_of_the_source());
}

#[tokio::test]
async fn every_path_takes_the_methods_of_the_document_and_none_else() {
    let room = room();
    let address = room.address;
    client(move || {
        for (path, operations) in document()["paths"].as_object().unwrap() {
            let known: BTreeSet<String> = operations.as_object().unwrap().keys().map(|m| m.to_uppercase()).collect();
            let concrete = path.replace("{name}", "telemetry").replace("{id}", "7");
            for method in METHODS.iter().filter(|method| !known.contains(**method)) {
                let answer = ask(address, method, &concrete, "");
                assert_eq!(
                    (answer.status, answer.error_code().as_str()),
                    (405, "method-not-allowed"),
                    "{method} {path}"
                );
                let allow = answer.head.lines().find_map(|line| line.strip_prefix("allow: ")).unwrap().to_uppercase();
                let allowed: BTreeSet<String> = allow.split(',').map(|m| m.trim().to_owned()).collect();
                let head = known.contains("GET").then(|| "HEAD".to_owned());
                assert_eq!(allowed, known.iter().cloned().chain(head).collect(), "{path}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_document_is_served_and_needs_the_token() {
    let room = room_with(Figures::default(), Some("s3cret"));
    let address = room.address;
    assert_eq!(get(address, "/api/v1/openapi.json").await.status, 401);
    let served =
        client(move || ask(address, "GET", "/api/v1/openapi.json", "Authorization: Bearer s3cret\r\n").json()).await;
    assert_eq!(served, document());
}

/// Fields that the document does not have must show in a check of answers against it.
#[test]
fn every_object_of_the_document_is_closed() {
    fn look(at: &str, value: &Value, open: &mut Vec<String>) {
        if value["type"] == "object" && value.get("additionalProperties").is_none() {
            open.push(at.to_owned());
        }
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| look(&format!("{at}/{name}"), value, open)),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(index, value)| look(&format!("{at}/{index}"), value, open));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut open = Vec::new();
    look("", &document()["components"], &mut open);
    assert!(open.is_empty(), "{open:?}");
}
