//! `kiln man`: the manual pages.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Command};
use clap_mangen::Man;
use kiln_train::{counted, write_atomically};

use crate::terminal::CANNOT_PRINT;

/// Write kiln's manual pages: one of the program, and one of each command.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln man > kiln.1                                  # the program's page alone
  kiln man --out ~/.local/share/man/man1 && man kiln-sample")]
pub struct ManualPages {
    /// The folder for the pages; those of an earlier kiln are replaced [default: print the program's page]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

impl ManualPages {
    pub fn run(self, program: Command) -> anyhow::Result<()> {
        let Some(out) = self.out else {
            let mut page = Vec::new();
            Man::new(program).render(&mut page)?;
            return io::stdout().lock().write_all(&page).context(CANNOT_PRINT);
        };
        let pages = pages_of(program)?;
        for (file, page) in &pages {
            write_atomically(&out.join(file), page)?;
        }
        let pages = counted(pages.len(), "manual page");
        writeln!(io::stdout(), "{pages} in {}", out.display()).context(CANNOT_PRINT)
    }
}

/// The pages of a program and of all its commands, by file, such as `kiln-sample.1`.
fn pages_of(program: Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let (mut pages, mut waiting) = (Vec::new(), vec![program]);
    while let Some(command) = waiting.pop() {
        waiting.extend(command.get_subcommands().cloned());
        let man = Man::new(command);
        let mut page = Vec::new();
        man.render(&mut page)?;
        pages.push((man.get_filename(), page));
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let info = Command::new("info").about("Look at a model");
        let program = Command::new("kiln").subcommand(Command::new("model").subcommand(info));
        let pages = pages_of(program).unwrap();
        let files: Vec<&str> = pages.iter().map(|(file, _)| file.as_str()).collect();
        assert_eq!(files, ["kiln.1", "kiln-model.1", "kiln-model-info.1"]);
        let text = String::from_utf8(pages[2].1.clone()).unwrap();
        assert!(text.contains("Look at a model"), "{text}");
    }
}
