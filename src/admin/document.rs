//! The API's own description (OpenAPI 3.1), and what is held to it: the names in a query.
//!
//! `openapi.json` is written by hand and embedded. It is exact: every route, every parameter, every status code and every field of an
//! answer is in it and nothing else is; `tests/admin/document.rs` compares it with the routes, `tests/interop/75_http.py` with the
//! answers of a running gateway.
//!
//! [`check`] refuses a query with a name that the document does not have for that request, or has twice, or that is not UTF-8 in
//! percent-encoding: `?sinc=2h` must not replay everything, `?topic=%ff` not publish to another topic than was meant.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{
    Router,
    extract::Request,
    http::{Method, StatusCode, header::CONTENT_TYPE},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;

use super::routes::{Failure, State};

/// The document.
const DOCUMENT: &str = include_str!("openapi.json");

/// As much of the document as is needed here.
#[derive(Deserialize)]
struct Paths {
    paths: BTreeMap<String, BTreeMap<String, Operation>>,
}

#[derive(Deserialize)]
struct Operation {
    #[serde(default)]
    parameters: Vec<Parameter>,
}

#[derive(Deserialize)]
struct Parameter {
    name: String,
    r#in: Place,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Place {
    Query,
    Path,
    Header,
    Cookie,
}

static PATHS: LazyLock<Paths> = LazyLock::new(|| serde_json::from_str(DOCUMENT).expect("the document is whole"));

pub(super) fn router() -> Router<State> {
    Router::new().route("/api/v1/openapi.json", get(document))
}

async fn document() -> Response {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

/// What the query of a request may say; `None` where the document does not have the request.
fn known(method: &Method, path: &str) -> Option<Vec<&'static str>> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let operations =
        PATHS.paths.iter().find(|(template, _)| matches(template, path)).map(|(_, operations)| operations)?;
    let operation = operations.get(&method.as_str().to_ascii_lowercase())?;
    let in_query = operation.parameters.iter().filter(|parameter| parameter.r#in == Place::Query);
    Some(in_query.map(|parameter| &*parameter.name).collect())
}

/// Whether a path is one of a template such as `/api/v1/streams/{name}`. No two templates of the document have a path in common.
fn matches(template: &str, path: &str) -> bool {
    let mut parts = path.split('/');
    let fits = template.split('/').all(|part| {
        parts.next().is_some_and(|said| if part.starts_with('{') { !said.is_empty() } else { said == part })
    });
    fits && parts.next().is_none()
}

/// Refuses queries that say something that nobody listens to.
pub(super) async fn check(request: Request, next: Next) -> Response {
    let uri = request.uri();
    let wrong = known(request.method(), uri.path())
        .zip(uri.query())
        .and_then(|(known, query)| objection(&known, query))
        .map(|objection| format!("{objection} of {} {}", request.method(), uri.path()));
    match wrong {
        Some(message) => Failure::new(StatusCode::BAD_REQUEST, "bad-query", message).into_response(),
        None => next.run(request).await,
    }
}

/// What is wrong with a query, as the beginning of a sentence.
fn objection(known: &[&str], query: &str) -> Option<String> {
    let mut seen = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(name) = decode(name) else {
            return Some("a name that is not UTF-8 in percent-encoding is no parameter".to_owned());
        };
        if !known.contains(&&*name) {
            let known =
                if known.is_empty() { "there is none".to_owned() } else { format!("known: {}", known.join(", ")) };
            return Some(format!("`{name}` is no parameter ({known})"));
        }
        if decode(value).is_none() {
            return Some(format!("what is not UTF-8 in percent-encoding is no value of `{name}`"));
        }
        if seen.contains(&name) {
            return Some(format!("`{name}` is there twice, and is one parameter"));
        }
        seen.push(name);
    }
    None
}

/// Undoes percent-encoding; `None` where it is broken, or not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [char::from(rest.next()?), char::from(rest.next()?)].map(|digit| digit.to_digit(16));
                let [high, low] = digits;
                u8::try_from(high? * 16 + low?).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_only_what_is_known_and_says_it_once() {
        let known = ["since", "stop"];
        for good in ["", "&", "since=2h", "since=2h&stop=true", "since", "s%69nce=%C3%A9", "since=a+b", "stop=a=b"] {
            assert_eq!(objection(&known, good), None, "{good}");
        }
        for wrong in [
            "sinc=2h",
            "since=1&since=2",
            "since=%",
            "since=%f",
            "since=%zz",
            "since=%ff",
            "%ff=1",
            "=",
            "Since=1",
            "s%6=1",
        ] {
            assert!(objection(&known, wrong).is_some(), "{wrong}");
        }
        assert!(objection(&[], "a=1").is_some_and(|text| text.contains("there is none")));
    }

    #[test]
    fn requests_are_found_by_their_templates() {
        assert!(known(&Method::GET, "/api/v1/streams/a%2Fb").is_some_and(|known| known.is_empty()));
        assert!(known(&Method::HEAD, "/api/v1/status").is_some());
        assert_eq!(known(&Method::POST, "/api/v1/publish"), Some(vec!["topic", "qos", "retain"]));
        assert!(known(&Method::PUT, "/api/v1/publish").is_none());
        assert!(
            known(&Method::GET, "/api/v1/streams/").is_none() && known(&Method::GET, "/api/v1/streams/a/b").is_none()
        );
    }
}
