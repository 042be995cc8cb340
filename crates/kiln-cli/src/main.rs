//! `kiln`: trains and samples diffusion models, in latent space and in pixel space.

mod bench;
mod commands;
mod doctor;
mod evaluation;
mod interrupts;
mod page;
mod pretrained;
mod preview;
mod printable;
mod table;
mod terminal;

use std::env;
use std::ffi::OsStr;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{ArgAction, Command, CommandFactory, FromArgMatches, Parser};

/// Train and sample diffusion models, in latent space and in pixel space.
///
/// A VQ-VAE learns to compress images into small latents (stage 1); an attention U-Net learns to denoise those latents
/// (stage 2); sampling turns noise into latents, which the VQ-VAE decodes back to pixels. In pixel space there is no
/// VQ-VAE: the U-Net learns to denoise the images themselves.
#[derive(Parser)]
#[command(name = "kiln", version, after_help = "Start with: kiln sample")]
struct Arguments {
    #[command(subcommand)]
    command: commands::Command,

    /// Print more messages (twice: all). RUST_LOG works, too.
    #[arg(short, long, global = true, display_order = 1000, action = ArgAction::Count)]
    verbose: u8,
}

fn main() -> ExitCode {
    terminal::turn_panics_into_sentences();
    let matches = with_negative_numbers(Arguments::command()).try_get_matches();
    let arguments = match matches.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(help_or_error) => return terminal::print_help(&help_or_error),
    };
    terminal::log_to_stderr(arguments.verbose);

    let run = || prepare().and_then(|()| arguments.command.run(Arguments::command()));
    match panic::catch_unwind(AssertUnwindSafe(run)) {
        // Its sentence was printed already. A bug also sets the exit status.
        Err(panic) if terminal::found_a_bug() => panic::resume_unwind(panic),
        Err(_) => ExitCode::FAILURE,
        Ok(outcome) => exit_code(outcome),
    }
}

/// Prepares what every command needs: checks the environment and starts the threads for computing.
fn prepare() -> anyhow::Result<()> {
    kiln_kernels::check_environment()?;
    check_number_of_threads()?;
    interrupts::turn_file_limits_into_errors();
    rayon::ThreadPoolBuilder::new()
        .build_global()
        .context(terminal::NO_MORE_THREADS)
}

/// Refuses a number of threads that Rayon would ignore.
fn check_number_of_threads() -> anyhow::Result<()> {
    const THREADS: &str = "RAYON_NUM_THREADS";
    match env::var_os(THREADS) {
        Some(value) if !value.is_empty() && is_no_number(&value) => {
            let value = value.to_string_lossy();
            bail!(
                "the environment variable {THREADS} is {value:?}: it must be a number of threads, or 0 for one on each core"
            )
        }
        _ => Ok(()),
    }
}

fn is_no_number(value: &OsStr) -> bool {
    value
        .to_str()
        .is_none_or(|text| text.parse::<usize>().is_err())
}

fn exit_code(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has gone: `kiln model info x | head -1`, or a closed terminal.
        Err(error) if terminal::has_no_reader(&error) => ExitCode::SUCCESS,
        Err(error) => {
            if !terminal::was_a_panic(&error) {
                terminal::print_error(&terminal::one_sentence(&error));
            }
            ExitCode::FAILURE
        }
    }
}

/// `--steps -5` is a number that `--steps` cannot have, and not an unknown argument `-5`.
fn with_negative_numbers(command: Command) -> Command {
    let command = command.mut_args(|argument| {
        let takes_values = argument.get_action().takes_values();
        argument.allow_negative_numbers(takes_values)
    });
    command.mut_subcommands(with_negative_numbers)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    /// For every flag, the error for an invalid number contains a valid one.
    #[test]
    fn every_number_on_the_command_line_is_refused_with_an_example() {
        let command = super::with_negative_numbers(super::Arguments::command());
        let mut refused = 0;
        for subcommand in command.get_subcommands() {
            for flag in subcommand
                .get_arguments()
                .filter_map(|flag| flag.get_long())
            {
                let line = |value| ["kiln", subcommand.get_name(), "--", value].map(str::to_owned);
                for value in ["-1", "1.5", "abc", "99999999999999999999", "", "nan", "inf"] {
                    let mut words = line(value);
                    words[2] += flag;
                    let Err(error) = command.clone().try_get_matches_from(words) else {
                        continue;
                    };
                    let said = error.to_string();
                    if error.kind() == clap::error::ErrorKind::ValueValidation {
                        refused += 1;
                        for jargon in [
                            "invalid digit",
                            "invalid float",
                            "cannot parse",
                            "is not in",
                        ] {
                            assert!(!said.contains(jargon), "{said}");
                        }
                    }
                }
            }
        }
        assert!(refused > 100, "{refused}");
    }

    #[test]
    fn every_command_is_in_the_readme() {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
        let Ok(readme) = std::fs::read_to_string(readme) else {
            return println!("skipped: a package has no README.md of the repository");
        };
        for subcommand in super::Arguments::command().get_subcommands() {
            let command = format!("kiln {}", subcommand.get_name());
            assert!(readme.contains(&command), "`{command}` is not in README.md");
        }
    }

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        let mut command = super::Arguments::command();
        command.build();
        command.clone().debug_assert();
        for subcommand in command
            .get_subcommands()
            .filter(|subcommand| subcommand.get_name() != "help")
        {
            let nested = subcommand
                .get_subcommands()
                .filter(|nested| nested.get_name() != "help");
            let leaves: Vec<_> = nested.collect();
            for leaf in if leaves.is_empty() {
                vec![subcommand]
            } else {
                leaves
            } {
                let help = leaf
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(
                    help.starts_with("Example"),
                    "{} has no example",
                    leaf.get_name()
                );
            }
        }
    }
}
