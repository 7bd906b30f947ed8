//! What stands at which address, decided before anything is sent.
//!
//! `/` lists runs, `/runs.json` the same as data, `/runs/<test>/<time>/` is a run's page, and every
//! file below a store is readable below `/runs/`.
//!
//! Invariants: nothing outside the store is opened; a directory's address ends in a slash, so that
//! relative links work. It sends nothing.

use super::super::files::{self, Found, OpenFile, RunEntry};
use super::super::page;
use super::http::{self, Request};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

/// What is answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// A text.
    Text {
        /// The status.
        status: u16,
        /// Its type.
        content_type: &'static str,
        /// All of it.
        body: String,
    },
    /// A file of the store.
    File(OpenFile, &'static str),
    /// Another address.
    Moved(String),
}

const HTML: &str = "text/html; charset=utf-8";

/// Answers a request from `store`. Reads files: not for an async thread.
pub(super) fn answer(store: &Path, request: &Request) -> Answer {
    let segments: Vec<&str> = request.segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        [] => index(store),
        ["runs.json"] => match files::list(store) {
            Ok(runs) => text(200, "application/json", runs_json(&runs).to_string()),
            Err(error) => problem(500, &error.to_string()),
        },
        ["runs"] => Answer::Moved("/".to_owned()),
        ["runs", below @ ..] => file(store, below, request),
        _ => problem(404, "nothing is there"),
    }
}

/// A page that says what is wrong.
pub(super) fn problem(status: u16, what: &str) -> Answer {
    let mut html = page::head("Hedgerow runs", &[page::BASE_CSS], "");
    let what = page::escape(what);
    write!(html, "<main class=notice><h1>{status}</h1><p>{what}</p>").expect(CANNOT_FAIL);
    html.push_str("<p><a href=\"/\">all runs</a></p></main></body></html>\n");
    text(status, HTML, html)
}

const CANNOT_FAIL: &str = "writing to a string cannot fail";

fn text(status: u16, content_type: &'static str, body: String) -> Answer {
    Answer::Text {
        status,
        content_type,
        body,
    }
}

fn index(store: &Path) -> Answer {
    let runs = match files::list(store) {
        Ok(runs) => runs,
        Err(error) => return problem(500, &error.to_string()),
    };
    let style = include_str!("../assets/index.css");
    let mut html = page::head("Hedgerow runs", &[page::BASE_CSS, style], "'self'");
    html.push_str("<div id=app></div>\n");
    let meta = json!({"runs": runs_json(&runs), "store": store.display().to_string()});
    page::script(
        &mut html,
        "id=meta type=\"application/json\"",
        &page::json(&meta),
    );
    page::script(&mut html, "", page::BASE_JS);
    page::script(&mut html, "", include_str!("../assets/index.js"));
    html.push_str("</body></html>\n");
    text(200, HTML, html)
}

/// The runs as data; a run without results has none of its fields.
fn runs_json(runs: &[RunEntry]) -> Value {
    let one = |run: &RunEntry| {
        let path = format!(
            "/runs/{}/{}/",
            http::encode(&run.test),
            http::encode(&run.time)
        );
        json!({
            "test": run.test,
            "time": run.time,
            "path": path,
            "results": run.results,
            "has_history": run.has_history,
        })
    };
    Value::Array(runs.iter().map(one).collect())
}

fn file(store: &Path, below: &[&str], request: &Request) -> Answer {
    let mut segments: Vec<String> = below.iter().map(|&part| part.to_owned()).collect();
    let mut failed = None;
    if let [test, time] = below
        && request.directory
    {
        match files::refresh_page(store, test, time) {
            Ok(()) => segments.push(files::PAGE_NAME.to_owned()),
            Err(error) => failed = Some(error.to_string()),
        }
    }
    match files::find(store, &segments) {
        None => problem(404, "nothing is there"),
        Some(Found::File(open)) => {
            let name = segments.last().map_or("", String::as_str);
            Answer::File(open, http::content_type(name))
        }
        Some(Found::Directory(_)) if !request.directory => {
            let path: String = below
                .iter()
                .map(|part| format!("/{}", http::encode(part)))
                .collect();
            Answer::Moved(format!("/runs{path}/"))
        }
        Some(Found::Directory(names)) => listing(below, &names, failed.as_deref()),
    }
}

fn listing(below: &[&str], names: &[String], failed: Option<&str>) -> Answer {
    let title = page::escape(&below.join("/"));
    let mut html = page::head(&below.join("/"), &[page::BASE_CSS], "");
    write!(html, "<main class=notice><h1>{title}</h1>").expect(CANNOT_FAIL);
    if let Some(failed) = failed {
        let failed = page::escape(failed);
        write!(html, "<p>No page could be made of this run: {failed}</p>").expect(CANNOT_FAIL);
    }
    html.push_str("<ul>");
    for name in names {
        let bare = name.strip_suffix('/');
        let slash = if bare.is_some() { "/" } else { "" };
        let address = http::encode(bare.unwrap_or(name));
        let name = page::escape(name);
        write!(html, "<li><a href=\"./{address}{slash}\">{name}</a></li>").expect(CANNOT_FAIL);
    }
    html.push_str("</ul><p><a href=\"/\">all runs</a></p></main></body></html>\n");
    text(200, HTML, html)
}
