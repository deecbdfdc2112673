//! Converts Markdown to HTML: CommonMark with tables, strikethrough, footnotes and task lists.
//! Does not sanitize: links are kept with any scheme.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd, html};

/// Handling of raw HTML in Markdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RawHtml {
    /// Escaped, so that it is shown as text.
    Escaped,
    /// Kept unchanged.
    Allowed,
}

/// Converts Markdown to an HTML fragment, without `<html>` and `<body>`.
pub(crate) fn to_html(markdown: &str, raw_html: RawHtml) -> String {
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_TASKLISTS;
    let parser = Parser::new_ext(markdown, options);
    let mut out = String::with_capacity(markdown.len() + markdown.len() / 2);
    match raw_html {
        RawHtml::Allowed => html::push_html(&mut out, parser),
        RawHtml::Escaped => html::push_html(&mut out, parser.map(as_text)),
    }
    out
}

fn as_text(event: Event<'_>) -> Event<'_> {
    match event {
        Event::Html(raw) | Event::InlineHtml(raw) => Event::Text(raw),
        Event::Start(Tag::HtmlBlock) => Event::Start(Tag::Paragraph),
        Event::End(TagEnd::HtmlBlock) => Event::End(TagEnd::Paragraph),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(markdown: &str, expected: &str) {
        assert_eq!(to_html(markdown, RawHtml::Escaped), expected, "of {markdown:?}");
    }

    #[test]
    fn commonmark_becomes_html() {
        check("", "");
        check("# Größe & *mehr*", "<h1>Größe &amp; <em>mehr</em></h1>\n");
        check("a\n\n- b\n- c", "<p>a</p>\n<ul>\n<li>b</li>\n<li>c</li>\n</ul>\n");
        check("`a<b`", "<p><code>a&lt;b</code></p>\n");
        check("[x](https://example.org)", "<p><a href=\"https://example.org\">x</a></p>\n");
    }

    #[test]
    fn extensions_are_enabled() {
        check("~~no~~", "<p><del>no</del></p>\n");
        check(
            "|a|b|\n|-|-|\n|1|2|",
            "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody>\n\
             <tr><td>1</td><td>2</td></tr>\n</tbody></table>\n",
        );
        check(
            "- [x] done",
            "<ul>\n<li><input disabled=\"\" type=\"checkbox\" checked=\"\"/>\ndone</li>\n</ul>\n",
        );
        let footnote = to_html("a[^1]\n\n[^1]: why", RawHtml::Escaped);
        assert!(footnote.contains("class=\"footnote-definition\""), "{footnote}");
    }

    #[test]
    fn raw_html_is_escaped_unless_allowed() {
        let inline = "a <b onclick=\"x()\">b</b>";
        check(inline, "<p>a &lt;b onclick=\"x()\"&gt;b&lt;/b&gt;</p>\n");
        check("<script>\nx()\n</script>", "<p>&lt;script&gt;\nx()\n&lt;/script&gt;</p>\n");
        assert_eq!(to_html(inline, RawHtml::Allowed), "<p>a <b onclick=\"x()\">b</b></p>\n");
        assert_eq!(to_html("<hr>\n", RawHtml::Allowed), "<hr>\n");
    }

    #[test]
    fn links_are_kept_with_any_scheme() {
        check("[x](javascript:y)", "<p><a href=\"javascript:y\">x</a></p>\n");
    }

    #[test]
    fn deep_nesting_terminates() {
        for opening in ["> ", "[", "*", "- ", "![", "<", "`", "|", "[^", "~~", "1. "] {
            let _ = to_html(&opening.repeat(5_000), RawHtml::Escaped);
        }
    }

    proptest! {
        #[test]
        fn any_text_converts(text in any::<String>()) {
            let _ = to_html(&text, RawHtml::Escaped);
            let _ = to_html(&text, RawHtml::Allowed);
        }

        #[test]
        fn random_markup_converts_without_raw_html(
            text in "([-#>*_~`|!:\\[\\]()^+&;=\"\\\\ \t\r\n1ax]|<script>|<!--|</|\\[\\^1\\]: |- \\[x\\] ){0,60}"
        ) {
            let html = to_html(&text, RawHtml::Escaped);
            prop_assert!(!html.contains("<script") && !html.contains("<!--"), "{html}");
        }
    }
}
