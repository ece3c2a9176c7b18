//! The landing page: what this is, whether its sources work, where the metrics are. Counts only: no
//! address, name or id of anybody.

use std::fmt::Write;

/// What the landing page says.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// Version and build.
    pub version: String,
    /// Views: paths and names.
    pub views: Vec<(String, &'static str)>,
    /// Every source of numbers.
    pub sources: Vec<SourceStatus>,
    /// Further lines: name and value.
    pub facts: Vec<(String, String)>,
}

/// One source of numbers.
#[derive(Clone, Debug)]
pub struct SourceStatus {
    /// `kernel`, `observer /tmp/…sock`, …
    pub name: String,
    /// It works.
    pub up: bool,
    /// What it does, or why not.
    pub detail: String,
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:48rem;margin:2rem auto;\
padding:0 1rem;color:#222;background:#fff}table{border-collapse:collapse;width:100%}\
td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;vertical-align:top;\
overflow-wrap:anywhere}.up,.down,th{white-space:nowrap}.up{color:#176117}.down{color:#a01818}a{color:#0b57a4}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}td,th{border-color:#444}\
.up{color:#7c7}.down{color:#f88}a{color:#8bf}}";

/// The page, whole: no other file is needed to show it.
pub(super) fn landing(overview: &Overview) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>mediasoup-exporter</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>mediasoup-exporter</h1>\n<p>Version {}</p>\n\
         <ul>\n{}<li><a href=\"/metrics\">Metrics</a></li>\n\
         <li><a href=\"/-/healthy\">Health</a>, <a href=\"/-/ready\">readiness</a></li>\n</ul>\n\
         <h2>Sources</h2>\n<table>\n<tr><th>Source</th><th>State</th><th></th></tr>\n",
        escape(&overview.version),
        views(&overview.views)
    );
    for source in &overview.sources {
        let (class, word) = if source.up { ("up", "up") } else { ("down", "down") };
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td class=\"{class}\">{word}</td><td>{}</td></tr>",
            escape(&source.name),
            escape(&source.detail)
        );
    }
    page.push_str("</table>\n<h2>Now</h2>\n<table>\n");
    for (name, value) in &overview.facts {
        let _ = writeln!(page, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(value));
    }
    page.push_str("</table>\n</body>\n</html>\n");
    page
}

fn views(views: &[(String, &str)]) -> String {
    let link = |(path, name): &(String, &str)| {
        format!("<a href=\"{}\">{}</a>", escape(path), escape(name))
    };
    let links: Vec<String> = views.iter().map(link).collect();
    if links.is_empty() { String::new() } else { format!("<li>{}</li>\n", links.join(", ")) }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_on_the_page_is_escaped() {
        let evil = "<script>\"&";
        let page = landing(&Overview {
            version: evil.into(),
            views: vec![("/x\"><script>".into(), "x")],
            sources: vec![SourceStatus { name: evil.into(), up: false, detail: evil.into() }],
            facts: vec![(evil.into(), evil.into())],
        });
        assert!(!page.contains("<script"));
        assert_eq!(page.matches("&lt;script&gt;&quot;&amp;").count(), 5);
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="));
    }
}
