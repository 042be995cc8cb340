//! `--sampler` and the settings of samplers.

use anyhow::bail;
use clap::{
    Args,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use kiln::{Pipeline, SampleOptions};
use kiln_diffusion::sampler::{Churn, Sampler, Variance};

use super::numbers::{number, whole};
use crate::terminal;

/// Which sampler, and its settings: each belongs to some samplers and is refused with the others.
#[derive(Args, Clone, Debug)]
pub struct SamplerArguments {
    /// How to walk from noise to image [default: the model's own]
    #[arg(long, value_name = "NAME", value_parser = by_name())]
    sampler: Option<Sampler>,

    /// Randomness of ddim and dpm-solver: 0 is deterministic, 1 is as random as ddpm [default: 0]
    #[arg(long, value_parser = number(0.0..=1.0, 0.5))]
    eta: Option<f64>,

    /// How much noise ddpm adds, and ddim with --eta: small or large [default: the model's own]
    #[arg(long, value_name = "SIZE", value_parser = variances())]
    variance: Option<Variance>,

    /// How many estimates adams-bashforth combines, 1 to 5 [default: 2]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=5, 2))]
    order: Option<usize>,

    /// Where in a step second-order calls the network again, from 0.01 (its beginning) to 1 (its end) [default: 0.5]
    #[arg(long, value_parser = number(0.01..=1.0, 0.5))]
    alpha: Option<f64>,

    /// Noise that euler and heun add on the way, over all steps [default: 0]
    #[arg(long, value_name = "AMOUNT", value_parser = number(0.0..=f64::INFINITY, 5.0))]
    churn: Option<f64>,

    /// Segments of the walk by consistency, from 1 on [default: those that the model has learnt]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=100_000, 4))]
    segments: Option<usize>,
}

impl SamplerArguments {
    /// The requested sampler, or else the model's own, `of_model`, whose [settings](Sampler::for_model) it keeps.
    ///
    /// # Errors
    /// A setting that the sampler does not have, or one out of its range.
    pub fn sampler(&self, of_model: Sampler) -> anyhow::Result<Sampler> {
        let mut sampler = self.sampler.unwrap_or(of_model).for_model(of_model);
        if let Some(value) = self.eta {
            let Some(eta) = sampler.eta_mut() else {
                let owners = "`--sampler ddim` and `--sampler dpm-solver`";
                return refuse(sampler, "--eta", owners);
            };
            *eta = value;
        }
        if let Some(value) = self.variance {
            match &mut sampler {
                Sampler::Ddim { eta: 0.0, .. } => {
                    bail!(
                        "--variance has no effect on `--sampler ddim` without --eta; give --eta, such as --eta 1, or leave it out"
                    )
                }
                Sampler::Ddim { variance, .. } | Sampler::Ddpm { variance } => *variance = value,
                _ => {
                    return refuse(
                        sampler,
                        "--variance",
                        "`--sampler ddim` and `--sampler ddpm`",
                    );
                }
            }
        }
        if let Some(value) = self.order {
            match &mut sampler {
                Sampler::AdamsBashforth { order } => *order = value,
                _ => return refuse(sampler, "--order", "`--sampler adams-bashforth`"),
            }
        }
        if let Some(value) = self.alpha {
            match &mut sampler {
                Sampler::SecondOrder { alpha } => *alpha = value,
                _ => return refuse(sampler, "--alpha", "`--sampler second-order`"),
            }
        }
        if let Some(value) = self.segments {
            match &mut sampler {
                Sampler::Consistency { segments } => *segments = value,
                _ => return refuse(sampler, "--segments", "`--sampler consistency`"),
            }
        }
        if let Some(amount) = self.churn {
            match &mut sampler {
                Sampler::Euler { churn } | Sampler::Heun { churn } => {
                    *churn = Churn {
                        amount,
                        ..Churn::NONE
                    };
                }
                _ => return refuse(sampler, "--churn", "`--sampler euler` and `--sampler heun`"),
            }
        }
        sampler.validate()?;
        Ok(sampler)
    }

    /// Whether the model's own sampler is used.
    pub fn is_of_model(&self) -> bool {
        self.sampler.is_none()
    }
}

/// Warns on stderr of settings in any of `all_options` that make images worse: steps where they are of little use, and what a
/// distilled model did not learn.
///
/// # Errors
/// Those of [`Pipeline::trajectory`].
pub fn warn_of_settings(pipeline: &Pipeline, all_options: &[SampleOptions]) -> anyhow::Result<()> {
    let mut said = Vec::new();
    let mut say_once = |before: &str, warning: String| {
        if !said.contains(&warning) {
            terminal::note(&format!("warning: {before}{warning}"));
            said.push(warning);
        }
    };
    for options in all_options {
        for warning in of_distilled(pipeline, options) {
            say_once("", warning);
        }
        // Timesteps that were listed are meant so.
        if options.timesteps.is_some() {
            continue;
        }
        let trajectory = |spacing| {
            let mut options = options.clone();
            options.levels.spacing = spacing;
            pipeline.trajectory(&options)
        };
        let warning = kiln_diffusion::warning(options.levels.spacing, trajectory)?;
        if let Some(warning) = warning {
            let before = format!("--spacing {}: ", options.levels.spacing.name());
            say_once(&before, warning);
        }
    }
    Ok(())
}

/// Times as many steps as a distilled model learnt, or has as its own, from which on its images become worse: the digits of
/// four steps have a Frechet distance of 5.5 in 8, 7.9 in 16 and 54 in 50, over 1,024 images.
const MANY_TIMES: usize = 2;

/// What a distilled model did not learn.
fn of_distilled(pipeline: &Pipeline, options: &SampleOptions) -> Vec<String> {
    let mut warnings = Vec::new();
    let metadata = &pipeline.model().metadata;
    let own = metadata.sampling_steps.unwrap_or_default();
    let learnt = own.max(options.sampler.segments().unwrap_or_default());
    let draws_as_learnt = options.sampler.name() == pipeline.model().scheduler.sampler.name();
    if metadata.distilled_by().is_some()
        && draws_as_learnt
        && learnt > 0
        && options.steps > MANY_TIMES * learnt
    {
        warnings.push(format!(
            "--steps {}: this model was distilled to draw in about {learnt}, and its images become worse with many more",
            options.steps
        ));
    }
    let scale = options.guidance.scale();
    if let Some(learnt) = metadata.guidance_learnt()
        && scale != 1.0
    {
        warnings.push(format!(
            "--guidance {scale}: this model was distilled with a guidance of {}, which needs no more of it",
            learnt.scale()
        ));
    }
    warnings
}

fn refuse(sampler: Sampler, flag: &str, owners: &str) -> anyhow::Result<Sampler> {
    bail!(
        "{flag} belongs to {owners}; leave it out with `--sampler {}`",
        sampler.name()
    )
}

/// The names of all samplers, each with its line in the help.
pub fn by_name() -> impl TypedValueParser<Value = Sampler> {
    let names =
        Sampler::ALL.map(|sampler| PossibleValue::new(sampler.name()).help(sampler.summary()));
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Sampler>())
}

fn variances() -> impl TypedValueParser<Value = Variance> {
    PossibleValuesParser::new(["small", "large"]).map(|name| match name.as_str() {
        "large" => Variance::Large,
        _ => Variance::Small,
    })
}

#[cfg(test)]
mod tests {
    use clap::{Arg, CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: SamplerArguments,
    }

    fn sampler(words: &str, of_model: Sampler) -> Result<Sampler, String> {
        let line = Line::try_parse_from(["kiln"].into_iter().chain(words.split_whitespace()))
            .map_err(|error| error.to_string())?;
        (line.arguments.sampler(of_model)).map_err(|error| error.to_string())
    }

    #[test]
    fn every_sampler_has_its_name() {
        // A setting without a flag could be had from a config alone.
        let command = Line::command();
        let flags: Vec<_> = command.get_arguments().filter_map(Arg::get_long).collect();
        for sampler in Sampler::ALL {
            let settings = serde_json::to_value(sampler).unwrap();
            for setting in settings.as_object().unwrap().keys() {
                let is_known = setting == "kind" || flags.contains(&setting.as_str());
                assert!(is_known, "{} has no flag for {setting}", sampler.name());
            }
        }
        for expected in Sampler::ALL {
            let words = format!("--sampler {}", expected.name());
            assert_eq!(sampler(&words, Sampler::default()), Ok(expected));
        }
        assert_eq!(sampler("", Sampler::Pndm), Ok(Sampler::Pndm));
    }

    #[test]
    fn settings_reach_their_sampler() {
        let large = Variance::Large;
        for (words, expected) in [
            (
                "--sampler dpm-solver --eta 1",
                Sampler::DpmSolver { eta: 1.0 },
            ),
            (
                "--sampler ddim --eta 0.5 --variance large",
                Sampler::Ddim {
                    eta: 0.5,
                    variance: large,
                },
            ),
            ("--sampler ddpm", Sampler::Ddpm { variance: large }),
            (
                "--sampler adams-bashforth --order 4",
                Sampler::AdamsBashforth { order: 4 },
            ),
            (
                "--sampler second-order --alpha 1",
                Sampler::SecondOrder { alpha: 1.0 },
            ),
        ] {
            let of_model = Sampler::Ddpm { variance: large };
            assert_eq!(sampler(words, of_model), Ok(expected), "{words}");
        }
        let learnt = Sampler::Consistency { segments: 4 };
        assert_eq!(sampler("--sampler consistency", learnt), Ok(learnt));
        let other = Sampler::Consistency { segments: 2 };
        assert_eq!(sampler("--segments 2", learnt), Ok(other));
        let churned = sampler("--sampler heun --churn 5", Sampler::default());
        assert!(matches!(churned, Ok(Sampler::Heun { churn }) if churn.amount == 5.0));
    }

    #[test]
    fn what_a_sampler_does_not_have_is_refused() {
        for (words, sentence) in [
            (
                "--sampler ddpm --eta 0.5",
                "--eta belongs to `--sampler ddim`",
            ),
            (
                "--order 3",
                "--order belongs to `--sampler adams-bashforth`",
            ),
            ("--alpha 0.5", "--alpha belongs to `--sampler second-order`"),
            (
                "--sampler unipc --churn 1",
                "--churn belongs to `--sampler euler`",
            ),
            (
                "--sampler pndm --variance large",
                "--variance belongs to `--sampler ddim`",
            ),
            ("--sampler ddim --variance large", "without --eta"),
            ("--sampler adams-bashforth --order 6", "from 1 to 5"),
            ("--sampler second-order --alpha 0", "from 0.01 to 1"),
            ("--sampler heun --churn nan", "of at least 0"),
            (
                "--segments 4",
                "--segments belongs to `--sampler consistency`",
            ),
            ("--sampler consistency --segments 0", "from 1 to 100000"),
            ("--eta 2", "from 0 to 1"),
            ("--sampler dpm", "dpm-solver"),
        ] {
            let message = sampler(words, Sampler::default()).unwrap_err();
            assert!(message.contains(sentence), "{words}: {message}");
        }
    }
}
