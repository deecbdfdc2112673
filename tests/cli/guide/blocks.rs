//! Code blocks of a chapter, with the comments before them that say how they are used.

/// A fenced block.
#[derive(Debug, PartialEq)]
pub(super) struct Block {
    /// The line of its fence.
    pub(super) line: usize,
    /// What follows the fence.
    pub(super) language: String,
    /// `<!-- file: PATH -->` before the block: it is the content of this file.
    pub(super) file: Option<String>,
    /// `<!-- stays -->` before the block: the command runs until the session ends.
    pub(super) stays: bool,
    pub(super) text: String,
}

/// Returns the blocks of a chapter in their order.
pub(super) fn blocks(chapter: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut comment = "";
    let mut lines = chapter.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            if !line.trim().is_empty() {
                comment = line.trim();
            }
            continue;
        };
        let comment = std::mem::take(&mut comment);
        let comment = comment.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
        let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
        blocks.push(Block {
            line: at + 1,
            language: language.to_owned(),
            file: comment.and_then(|comment| comment.strip_prefix("file: ")).map(str::to_owned),
            stays: comment == Some("stays"),
            text: inside.map(|line| format!("{line}\n")).collect(),
        });
    }
    blocks
}

#[test]
fn blocks_have_languages_files_and_lines() {
    let chapter = "a\n\n<!-- file: a/b.rs -->\n```rust\nfn a() {}\n```\n\n```text\n```\n<!-- stays -->\n\n```console\n$ a\n```\n";
    let found = blocks(chapter);
    let of = |at: usize| (found[at].line, found[at].language.as_str(), found[at].file.as_deref());
    assert_eq!(found.len(), 3);
    assert_eq!(of(0), (4, "rust", Some("a/b.rs")));
    assert_eq!(found[0].text, "fn a() {}\n");
    assert_eq!((of(1), found[1].stays), ((8, "text", None), false));
    assert_eq!((of(2), found[2].stays), ((12, "console", None), true));
}
