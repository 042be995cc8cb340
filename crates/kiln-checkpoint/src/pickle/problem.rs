//! What is wrong with a file.

/// Why a file is not read.
#[derive(Debug)]
pub(super) enum Problem {
    /// It is not what PyTorch writes.
    Damaged(String),
    /// PyTorch may have written it, but in a form that is not read here. In words that follow the file's name.
    Unsupported(String),
    /// It imports this.
    Code(String),
    /// It wants so many bytes.
    TooLarge(u64),
}

impl Problem {
    /// A damage, in words.
    pub(super) fn damaged(problem: &str) -> Self {
        Self::Damaged(problem.to_owned())
    }
}

impl From<std::io::Error> for Problem {
    fn from(problem: std::io::Error) -> Self {
        Self::Damaged(problem.to_string())
    }
}
