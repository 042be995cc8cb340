//! What is wrong with a file.

/// Why a file is not read.
#[derive(Debug)]
pub(super) enum Problem {
    /// It is not a file of PyTorch.
    Damaged(String),
    /// PyTorch may have written it, but in a form that is not supported. A phrase after the file's name.
    Unsupported(String),
    /// It imports this.
    Code(String),
    /// It asks for so many bytes.
    TooLarge(u64),
}

impl Problem {
    /// A damage, with a description.
    pub(super) fn damaged(problem: &str) -> Self {
        Self::Damaged(problem.to_owned())
    }
}

impl From<std::io::Error> for Problem {
    fn from(problem: std::io::Error) -> Self {
        Self::Damaged(problem.to_string())
    }
}
