//! The git revision of the present folder.

use std::process::{Command, Stdio};

/// The commit that is checked out here, with `-dirty` if files have changed since; `None` outside of a repository, or
/// without git.
pub fn git_revision() -> Option<String> {
    let mut git = Command::new("git");
    git.args([
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]);
    let output = git.stdin(Stdio::null()).output().ok()?;
    let revision = String::from_utf8(output.stdout).ok()?;
    let is_there = output.status.success() && !revision.trim().is_empty();
    is_there.then(|| revision.trim().to_owned())
}
