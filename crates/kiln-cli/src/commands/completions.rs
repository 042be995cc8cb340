//! `kiln completions`: what the shell needs to complete kiln's command lines.

use std::io::{self, Write};

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::{Shell, generate};

use crate::terminal::CANNOT_PRINT;

/// Print a script with which a shell completes kiln's commands and flags.
#[derive(Args)]
#[command(after_help = "Examples:
  mkdir -p ~/.local/share/bash-completion/completions
  kiln completions bash > ~/.local/share/bash-completion/completions/kiln
  kiln completions zsh > ~/.zfunc/_kiln      # with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc
  kiln completions fish > ~/.config/fish/completions/kiln.fish")]
pub struct Completions {
    /// The shell that will read it
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub fn run(self, mut program: Command) -> anyhow::Result<()> {
        let mut script = Vec::new();
        generate(self.shell, &mut program, "kiln", &mut script);
        io::stdout().lock().write_all(&script).context(CANNOT_PRINT)
    }
}
