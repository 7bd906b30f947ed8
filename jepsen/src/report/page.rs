//! One HTML file that needs nothing else: style, script and data are inside.
//!
//! Invariants: no address of any other resource stands in it, and its policy forbids the browser to
//! fetch one; text from outside can end no element of it. It decides nothing about what is shown:
//! that is the scripts' affair, and the caller's.

use super::pack::Pack;
use serde_json::Value;
use std::fmt::Write as _;

/// Styles of every page.
pub(super) const BASE_CSS: &str = include_str!("assets/base.css");
/// What the pages share: unpacking, time axis, zoom, lists, tips.
pub(super) const BASE_JS: &str = concat!(
    include_str!("assets/base.js"),
    "\n",
    include_str!("assets/widgets.js")
);

/// The parts of a page.
#[derive(Debug)]
pub struct Page<'a> {
    /// The title of the window.
    pub title: &'a str,
    /// What a reader without scripts sees: plain text.
    pub plain: &'a str,
    /// Small facts, as JSON.
    pub meta: &'a Value,
    /// The large data.
    pub data: &'a Pack,
    /// Styles of this kind of page.
    pub style: &'a str,
    /// The script of this kind of page; it runs last.
    pub script: &'a str,
}

impl Page<'_> {
    /// The file's text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut html = head(self.title, &[BASE_CSS, self.style], "");
        let plain = escape(self.plain);
        write!(
            html,
            "<noscript><pre>{plain}</pre></noscript>\n<div id=app></div>\n"
        )
        .expect("writing to a string cannot fail");
        script(
            &mut html,
            "id=meta type=\"application/json\"",
            &json(self.meta),
        );
        script(
            &mut html,
            "id=data type=\"text/plain\"",
            &self.data.finish(),
        );
        script(&mut html, "", &format!("{BASE_JS}\n{}", self.script));
        html.push_str("</body></html>\n");
        html
    }
}

/// The beginning of a page, up to and with `<body>`; `connect` is what its script may fetch.
pub(super) fn head(title: &str, styles: &[&str], connect: &str) -> String {
    let mut html = String::from("<!doctype html>\n<html lang=en><head><meta charset=utf-8>\n");
    html.push_str("<meta name=viewport content=\"width=device-width,initial-scale=1\">\n");
    let connect = if connect.is_empty() {
        "'none'"
    } else {
        connect
    };
    write!(
        html,
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; \
         style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; \
         connect-src {connect}; base-uri 'none'; form-action 'none'\">\n<title>{}</title>\n\
         <link rel=icon href=\"data:,\">\n<style>\n",
        escape(title)
    )
    .expect("writing to a string cannot fail");
    for style in styles {
        html.push_str(style);
    }
    html.push_str("</style></head><body>\n");
    html
}

/// Appends a script element; the text must hold no end tag, as [`json`] and our assets do not.
pub(super) fn script(html: &mut String, attributes: &str, text: &str) {
    assert!(
        !text.contains("</script") && !text.contains("<!--"),
        "a script cannot hold its own end"
    );
    let space = if attributes.is_empty() { "" } else { " " };
    write!(html, "<script{space}{attributes}>\n{text}\n</script>\n")
        .expect("writing to a string cannot fail");
}

/// JSON that can stand inside a script element: no `<` is left in it.
pub(super) fn json(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c")
}

/// Text as HTML.
pub(super) fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hostile_text_stays_text() {
        let hostile = "</script><script>alert(1)</script><!--";
        let meta = json!({"text": hostile});
        let page = Page {
            title: hostile,
            plain: hostile,
            meta: &meta,
            data: &Pack::default(),
            style: "",
            script: "",
        };
        let html = page.render();
        assert!(!html.contains("alert(1)</script>"), "{html}");
        assert_eq!(html.matches("<script").count(), 3);
        assert_eq!(html.matches("</script>").count(), 3);
    }
}
