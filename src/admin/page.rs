//! `GET /`: the dashboard, one page without figures; everything on it comes from `/api/v1`, which wants the token where there is one.
//!
//! The files are in `src/admin/page/`, written by hand, and embedded: no build step, no framework, and no request to anywhere else. What the
//! page may do is said by [`POLICY`]: its own scripts, its own style, requests to this gateway; no other source, no inline script, no frame
//! around it, and (trusted types) nothing that makes markup of text. What strangers say (topics, client ids, payloads, an upstream's words)
//! reaches the page as text nodes only; a test looks for the functions that would do otherwise.

use axum::{
    Router,
    http::{
        HeaderName, HeaderValue,
        header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_FRAME_OPTIONS},
    },
    response::{IntoResponse, Response},
    routing::get,
};

use super::routes::State;

/// What the page may do.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// What keeps other sites from holding on to the page, and what a browser understands beside the policy.
const SEAL: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (REFERRER_POLICY, "no-referrer"),
    (X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The page and what it is made of: path, content type, content.
const FILES: &[(&str, &str, &str)] = &[
    ("/", HTML, include_str!("page/index.html")),
    ("/page/style.css", CSS, include_str!("page/style.css")),
    ("/page/icon.svg", SVG, include_str!("page/icon.svg")),
    ("/page/app.js", JS, include_str!("page/app.js")),
    ("/page/feed.js", JS, include_str!("page/feed.js")),
    ("/page/words.js", JS, include_str!("page/words.js")),
    ("/page/dom.js", JS, include_str!("page/dom.js")),
    ("/page/overview.js", JS, include_str!("page/overview.js")),
    ("/page/streams.js", JS, include_str!("page/streams.js")),
    ("/page/chart.js", JS, include_str!("page/chart.js")),
    ("/page/dead.js", JS, include_str!("page/dead.js")),
    ("/page/clients.js", JS, include_str!("page/clients.js")),
];

/// The routes; open, for there is no figure in them.
pub(super) fn router() -> Router<State> {
    let add = |router: Router<State>, &(path, kind, content): &(&'static str, &'static str, &'static str)| {
        router.route(path, get(move || async move { file(kind, content) }))
    };
    FILES.iter().fold(Router::new(), add)
}

fn file(kind: &'static str, content: &'static str) -> Response {
    let mut response = content.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in SEAL {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What makes markup or code of text, or keeps a secret longer than the tab lives.
    const FORBIDDEN: [&str; 14] = [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "setHTML",
        "createContextualFragment",
        "eval(",
        "new Function",
        "srcdoc",
        "javascript:",
        "document.cookie",
        "style=\"",
        " onclick=",
    ];

    #[test]
    fn nothing_makes_markup_of_text() {
        for (path, _, content) in FILES {
            for forbidden in FORBIDDEN {
                assert!(!content.contains(forbidden), "{path} has {forbidden}");
            }
        }
    }

    #[test]
    fn nothing_comes_from_elsewhere() {
        for (path, _, content) in FILES {
            // The name of a markup language looks like an address and is none.
            let content = content.replace("http://www.w3.org/2000/svg", "");
            assert!(!content.contains("http://") && !content.contains("https://"), "{path}");
            assert!(!content.contains("src=\"//") && !content.contains("url("), "{path}");
        }
    }

    #[test]
    fn the_page_is_small_and_whole() {
        let bytes: usize = FILES.iter().map(|(_, _, content)| content.len()).sum();
        assert!(bytes <= 64 * 1024, "{bytes} bytes");
        let page = FILES[0].2;
        assert!(page.contains("lang=\"en\"") && page.contains("viewport"));
        for (path, _, content) in FILES.iter().filter(|(_, kind, _)| *kind == JS) {
            for part in content.lines().filter(|line| line.starts_with("import ")) {
                let name = part.rsplit('"').nth(1).unwrap().trim_start_matches("./");
                assert!(FILES.iter().any(|(path, _, _)| *path == format!("/page/{name}")), "{path} imports {name}");
            }
        }
    }
}
