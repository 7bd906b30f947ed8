//! Rules on documents, and on every file.

use super::{Finding, Tree};

/// Larger files belong into no history that everyone copies.
const LARGEST_FILE_BYTES: usize = 256 << 10;

/// The folder of the machines that this was written on. In two parts, so that this file passes.
const MACHINE_PATH: &str = concat!("/wo", "rk/");

pub(super) fn links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts(".md") {
        let mut fenced = false;
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            }
            if fenced {
                continue;
            }
            for target in link_targets(line).filter(|target| is_relative(target)) {
                if !leads_somewhere(tree, path, target) {
                    let text = format!("the link to {target} leads nowhere");
                    findings.push(Finding::new(path, number + 1, text));
                }
            }
        }
    }
    findings
}

/// The targets of the inline links `[text](target)` of a line.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split(')').next()?;
        target.split_whitespace().next()
    })
}

fn is_relative(target: &str) -> bool {
    !target.contains("://") && !target.starts_with("mailto:") && !target.starts_with('#')
}

fn leads_somewhere(tree: &Tree, document: &str, target: &str) -> bool {
    let target = target.split('#').next().unwrap_or_default();
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                if parts.pop().is_none() {
                    return false;
                }
            }
            part => parts.push(part),
        }
    }
    tree.has(&parts.join("/"))
}

pub(super) fn sizes(tree: &Tree) -> Vec<Finding> {
    let large = tree
        .files
        .iter()
        .filter(|(_, bytes)| bytes.len() > LARGEST_FILE_BYTES);
    large
        .map(|(path, bytes)| {
            let text = format!("{} bytes, {LARGEST_FILE_BYTES} at most", bytes.len());
            Finding::new(path, 1, text)
        })
        .collect()
}

pub(super) fn machine_paths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts("") {
        for (number, line) in text.lines().enumerate() {
            if line.contains(MACHINE_PATH) {
                let text = format!("{MACHINE_PATH} is a folder of one machine");
                findings.push(Finding::new(path, number + 1, text));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::found;

    #[test]
    fn links_lead_to_files_and_folders() {
        let text = "[a](docs/a.md#part) [f](docs/) [web](https://example.org) [b](docs/b.md)\n\
                    ```\n[not](a link)\n```\n[up](../x)\n";
        let files = [
            ("README.md", text),
            ("docs/a.md", "[back](../README.md) [self](#part)"),
        ];
        assert_eq!(
            found(links, &files),
            [
                "README.md:1: the link to docs/b.md leads nowhere",
                "README.md:5: the link to ../x leads nowhere",
            ]
        );
    }

    #[test]
    fn files_are_small() {
        let (just, large) = ("x".repeat(262_144), "x".repeat(262_145));
        let files = [("just", just.as_str()), ("large", large.as_str())];
        assert_eq!(
            found(sizes, &files),
            ["large:1: 262145 bytes, 262144 at most"]
        );
    }

    #[test]
    fn no_machine_is_named() {
        let text = format!("fine\nsee {}main\n", MACHINE_PATH);
        let lines = found(machine_paths, &[("docs/a.md", &text)]);
        assert_eq!(
            lines,
            [format!(
                "docs/a.md:2: {} is a folder of one machine",
                MACHINE_PATH
            )]
        );
    }
}
