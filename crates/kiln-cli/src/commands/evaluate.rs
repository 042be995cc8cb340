//! `kiln evaluate`: measures how good a model's images are.

use std::path::PathBuf;

use anyhow::{bail, ensure};
use burn::tensor::Device;
use clap::Args;
use kiln::pictures::Images;
use kiln::{Autoencoder, Pipeline, SampleOptions};
use kiln_data::{Datasets, ImageDataset};
use kiln_diffusion::sampler::Sampler;
use kiln_diffusion::{LevelOptions, Spacing};
use kiln_eval::{
    DigitClassifier, FeatureKind, FeatureLayer, Features, Figure, Inception, Judge, Reference,
    mean_psnr, mean_squared_error, nearest, ssim,
};
use kiln_models::power_average::PowerAverage;
use kiln_train::{RunRecord, seen_in, seen_in_dataset};

use super::data_arguments::{DATA, DataArguments, RealImages};
use super::drawing::{
    ComputingArguments, ConditionArguments, IMAGES, MEASURES, MODEL, ModelArguments, SAMPLING,
    calls_before, learnt_sampler,
};
use super::numbers::{number, whole};
use super::perceptual_arguments::PerceptualArguments;
use super::sample::{SpacingName, StepCounts, Timesteps, parse_steps, parse_timesteps};
use super::sampler_arguments::{by_name, warn_of_settings};
use crate::evaluation::{Report, Row, Sweep, blurred, comparison, perceptual_distance, pixels_of};
use crate::pretrained;
use crate::terminal::{self, DataProgress};

/// The number of held-out images whose nearest training image is searched.
const HELD_OUT: usize = 1000;

/// Measure how good a model's images are.
///
/// Draws images by every combination of --steps, --samplers, --eta, --spacing and compares each set with real images that the
/// model was not trained on: by the features of a digit classifier, or of InceptionV3 (FID, KID). The first rows are landmarks:
/// training images, and the same blurred. The table is printed, and written with results.csv, results.json and a plot (with
/// --first-stage, a picture of originals, reconstructions and their differences).
#[derive(Args)]
#[command(after_help = "Examples:
  kiln evaluate --steps 10/20/50 --samplers ddim,ddpm --count 1000
  kiln evaluate --model runs/mnist/model --config configs/mnist.toml --steps 50 --eta 0,1 --count 10000
  kiln evaluate --model runs/mnist-classes/model --config configs/mnist-classes.toml --class all --guidance 2
  kiln evaluate --model runs/flowers/model --config configs/flowers.toml --features 2048 --feature-weights inception.pth
  kiln evaluate --first-stage --model runs/mnist/model --config configs/mnist.toml
  kiln evaluate --first-stage --model runs/flowers/model --perceptual lpips-alexnet")]
pub struct Evaluate {
    /// Print one JSON object on stdout instead of the table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    data: DataArguments,

    /// Measure the VQ-VAE instead: held-out images compared with their reconstructions
    #[arg(long, help_heading = MODEL, conflicts_with_all = ["steps", "samplers", "eta", "spacing", "timesteps", "class", "guide", "guidance", "guidance_interval", "nearest", "precision", "average"])]
    first_stage: bool,

    /// Denoising steps: a number, or several separated by / or , [default: the model's own, or 50]
    #[arg(long, help_heading = SAMPLING, value_name = "N[/N...]", value_parser = parse_steps)]
    steps: Option<StepCounts>,

    /// Samplers, separated by commas [default: ddim, or a distilled model's own]
    #[arg(
        long, help_heading = SAMPLING,
        value_delimiter = ',',
        value_name = "NAME[,NAME...]",
        value_parser = by_name()
    )]
    samplers: Vec<Sampler>,

    /// Randomness of ddim and dpm-solver, separated by commas: 0 is deterministic, 1 is as random as ddpm [default: 0]
    #[arg(
        long, help_heading = SAMPLING,
        value_delimiter = ',',
        value_name = "ETA[,ETA...]",
        value_parser = number(0.0..=1.0, 0.5)
    )]
    eta: Vec<f64>,

    /// Which of the training timesteps are visited, separated by commas [default: the model's own]
    #[arg(
        long, help_heading = SAMPLING,
        value_enum,
        value_delimiter = ',',
        value_name = "SPACING[,SPACING...]"
    )]
    spacing: Vec<SpacingName>,

    /// The training timesteps to visit, from the noisiest down, separated by commas; several lists separated by /
    #[arg(
        long, help_heading = SAMPLING,
        value_delimiter = '/',
        value_name = "T,T,...[/T,T,...]",
        value_parser = parse_timesteps,
        conflicts_with_all = ["steps", "spacing"]
    )]
    timesteps: Vec<Timesteps>,

    #[command(flatten)]
    conditions: ConditionArguments,

    /// Lengths of averages of the weights, shares of the steps separated by commas, for a run that keeps some
    /// (stage_2.power_averages): see `kiln model average`
    #[arg(
        long, help_heading = MODEL,
        value_delimiter = ',',
        value_name = "SHARE[,SHARE...]",
        value_parser = number(0.0..=PowerAverage::PLAIN_MEAN, 0.1),
        requires = "model",
        conflicts_with = "guide"
    )]
    average: Vec<f64>,

    /// Images drawn by each way to sample, and taken of each landmark
    #[arg(long, help_heading = IMAGES, default_value_t = 1000, value_parser = parse_count)]
    count: u32,

    /// Held-out images to compare with [default: all]
    #[arg(long, help_heading = DATA, value_name = "N", value_parser = parse_count)]
    real: Option<u32>,

    /// Seed of the noise and of the subsets
    #[arg(long, help_heading = IMAGES, default_value_t = 0, value_parser = whole::<u64>(0..=u64::MAX, 0))]
    seed: u64,

    /// Also say which share of the images is nearer to a training image than 99% of held-out images are
    #[arg(long, help_heading = MEASURES)]
    nearest: bool,

    /// What to compare by: digits, the digit classifier's features, or InceptionV3's: 2048, its last ones, with which FID and
    /// KID are published; 768 after Mixed_6e; 6c after Mixed_6c, Keras' mixed5 [default: digits for gray images of 28x28,
    /// else 2048]
    #[arg(long, help_heading = MEASURES)]
    features: Option<FeatureKind>,

    /// Weights of InceptionV3, pytorch-fid's or others under the same names [default: pytorch-fid's, downloaded]
    #[arg(long, help_heading = MEASURES, value_name = "FILE")]
    feature_weights: Option<PathBuf>,

    /// Side that images are resized to for InceptionV3: 299 as in pytorch-fid, 75 as in the Keras examples [default: 299]
    #[arg(long, help_heading = MEASURES, value_name = "PIXELS", value_parser = whole::<u32>(75..=1024, 299))]
    feature_size: Option<u32>,

    /// Weights of a digit classifier from `kiln train-classifier` [default: the one inside this program]
    #[arg(long, help_heading = MEASURES, value_name = "FILE")]
    classifier: Option<PathBuf>,

    #[command(flatten)]
    perceptual: PerceptualArguments,

    /// Folder for table, results, plot and picture; results that are there already stay, and new ones get a number
    #[arg(long, help_heading = MEASURES, default_value = "evaluation", value_name = "FOLDER")]
    out: PathBuf,

    #[command(flatten)]
    computing: ComputingArguments,
}

impl Evaluate {
    /// Measures, writes the results and prints the table.
    pub fn run(self) -> anyhow::Result<()> {
        let device = self.computing.device()?;
        ensure!(
            self.out.is_dir() || !self.out.exists(),
            "{} is not a folder: name another one with --out",
            self.out.display()
        );
        let report = if self.first_stage {
            self.measure_first_stage(&device)?
        } else {
            self.measure_samples(&device)?
        };
        let written = report.write(&self.out);
        // The table is shown even if it cannot be stored.
        let paths = written.iter().flatten();
        let paths: Vec<String> = paths.map(|path| path.display().to_string()).collect();
        terminal::print_outcome(&report.to_json(), self.json, |_| {
            let table = report.to_markdown(terminal::width());
            format!("{table}\n{}", paths.join("  "))
        })?;
        written.map(|_| ())
    }

    fn measure_samples(&self, device: &Device) -> anyhow::Result<Report> {
        let pipelines = self.pipelines(device)?;
        let [(_, pipeline), ..] = pipelines.as_slice() else {
            bail!("there is no model to evaluate");
        };
        // Refuse impossible settings before any image is read.
        let settings = self.settings(pipeline)?;
        warn_of_settings(pipeline, &settings)?;
        let shape = pipeline.image_shape();
        let (channels, side) = (shape.channels, shape.height);
        let datasets = self.datasets(channels, side)?;
        let judge = self.judge([channels, side, shape.width], device)?;
        for set in [&datasets.train, &datasets.validation] {
            let (side, border) = (set.shape().height, set.border());
            ensure!(
                set.shape().channels == channels && side - 2 * border == shape.height,
                "the images of {} are {side}x{side} with {} channel(s), and the model's are {}x{} with {channels}; use the config that the model was trained with",
                set.name(),
                set.shape().channels,
                shape.height,
                shape.width
            );
        }
        let reference = self.reference(&judge, &datasets.validation, device)?;
        let mut rows = self.landmarks(&judge, &reference, &datasets.train, device)?;

        let training = match self.nearest {
            true => Some(nearness(&datasets)?),
            false => None,
        };
        // Network calls take most of the time: the bar counts them, so that its remaining time is right.
        let calls: usize = settings
            .iter()
            .map(|options| options.images() * options.calls())
            .sum();
        let calls = calls * pipelines.len();
        let bar = terminal::progress_bar("sampling".into(), calls, "network calls");
        for (average, pipeline) in &pipelines {
            let sweep = Sweep {
                pipeline,
                judge: &judge,
                reference: &reference,
                training: (training.as_ref())
                    .map(|(training, held_out)| (training, held_out.as_slice())),
                device,
            };
            for options in &settings {
                let row = sweep.measure(options, &mut |moment| {
                    bar.inc(calls_before(&moment, options));
                    Ok(())
                })?;
                rows.push(row.with_average(*average));
            }
        }
        bar.finish_and_clear();
        let judged = Some((&judge, &reference));
        let held_out = &datasets.validation;
        Ok(self.report(pipeline.name(), held_out, held_out.len(), judged, rows))
    }

    /// The model or, with `--average`, the run's model with each average of its weights.
    fn pipelines(&self, device: &Device) -> anyhow::Result<Vec<(Option<f64>, Pipeline)>> {
        let (Some(run), [_, ..]) = (&self.model.model, self.average.as_slice()) else {
            return Ok(vec![(
                None,
                self.model.open(&self.conditions, &self.computing)?,
            )]);
        };
        let averaged = |&length| {
            let model = RunRecord::averaged(run, length, None, device)?;
            let pipeline = Pipeline::from_model(run.display().to_string(), model, device)?;
            anyhow::Ok((Some(length), pipeline))
        };
        self.average.iter().map(averaged).collect()
    }

    fn measure_first_stage(&self, device: &Device) -> anyhow::Result<Report> {
        let autoencoder = match &self.model.model {
            Some(place) => Autoencoder::load(&self.model.hub.first_stage(place)?, device)?,
            None => Autoencoder::from_source(&pretrained::default_model()?, device)?,
        };
        let (channels, side) = (autoencoder.channels(), autoencoder.image_size());
        let ModelArguments { model, hub } = &self.model;
        let real = (self.data).open(model.as_deref(), hub, [channels, side])?;
        let held_out = &real.datasets.validation;
        let shape = held_out.shape();
        autoencoder.check_image(shape.channels, shape.height, shape.width)?;
        let side = shape.height - 2 * held_out.border();
        let perceptual = self.perceptual.open([channels, side, side], device)?;
        let judged = self.judged(&real, [channels, side, side], device)?;

        let originals = Images::of_dataset(held_out, self.count as usize)?;
        let count = originals.len();
        let bar = terminal::progress_bar("reconstructing".into(), count, "images");
        let given_back =
            autoencoder.reconstruct(&originals, self.computing.batch as usize, |done| {
                bar.set_position(done as u64)
            })?;
        bar.finish_and_clear();
        let has_codes = !given_back.code_counts.is_empty();
        let (codes_in_use, perplexity) = (given_back.codes_in_use(), given_back.perplexity());
        let border = held_out.border();
        let (originals, images) = (originals.cropped(border), given_back.images.cropped(border));

        let (height, width) = (originals.height(), originals.width());
        let pairs = || originals.iter().zip(images.iter());
        let mean = |sum: f64| sum / count as f64;
        let similarities: Result<Vec<f64>, _> =
            pairs().map(|(x, y)| ssim(x, y, height, width)).collect();
        let psnr = mean_psnr(originals.iter(), images.iter());
        let mut figures = vec![Figure::new("PSNR", psnr)];
        match similarities {
            Ok(similarities) => {
                figures.push(Figure::new("SSIM", mean(similarities.iter().sum())));
            }
            // The images are too small for it.
            Err(error) => terminal::note(&error.to_string()),
        }
        if let Some(network) = &perceptual {
            let batch = self.computing.batch as usize;
            let distance = perceptual_distance(network, &originals, &images, batch, device)?;
            figures.push(distance);
        }
        let errors = pairs().map(|(x, y)| mean_squared_error(x, y));
        figures.push(Figure::new("MSE", mean(errors.sum())));
        if has_codes {
            figures.push(Figure::new("codes in use", codes_in_use as f64));
            figures.push(Figure::new("perplexity", perplexity));
        }
        if let Some((judge, reference)) = &judged {
            let seen = seen_in(judge, &images, device, |_| Ok(()))?;
            // Image i of a batch is compared with its own reconstruction, but the estimate by batches assumes
            // independent images.
            let distances = reference.compare(&seen, self.seed)?.into_iter();
            figures.extend(distances.filter(|figure| !figure.name.ends_with("by batches")));
        }
        let row = Row {
            name: "reconstructions".to_owned(),
            sampling: None,
            images: count,
            seconds: None,
            figures,
        };
        let judged = judged.as_ref().map(|(judge, reference)| (judge, reference));
        let mut report = self.report(autoencoder.name(), held_out, count, judged, vec![row]);
        if let Some(network) = &perceptual {
            report.judge += &format!("; {}", network.description());
            if autoencoder.seen_by() == Some(&*network.identity()) {
                report.judge += ", which the training has seen, so its distance flatters";
            }
        }
        report.pictures = vec![("reconstructions.png", comparison(&originals, &images))];
        Ok(report)
    }

    /// The judge of a first stage's pictures, and what it compares them with. What keeps it from judging is only an
    /// error if its features were asked for: the other figures need no judge.
    fn judged(
        &self,
        real: &RealImages,
        shape: [usize; 3],
        device: &Device,
    ) -> anyhow::Result<Option<(Judge, Reference)>> {
        let judged = || {
            self.check_enough(real)?;
            let judge = self.judge(shape, device)?;
            let reference = self.reference(&judge, &real.datasets.validation, device)?;
            anyhow::Ok((judge, reference))
        };
        match judged() {
            Ok(judged) => Ok(Some(judged)),
            Err(error) if self.features.is_none() => {
                let why = terminal::one_sentence(&error);
                terminal::note(&format!("no distances between sets of images: {why}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The report about a model. Without a judge, `count` images were compared only with themselves.
    fn report(
        &self,
        model: &str,
        held_out: &ImageDataset,
        count: usize,
        judged: Option<(&Judge, &Reference)>,
        rows: Vec<Row>,
    ) -> Report {
        let (count, judge) = match judged {
            Some((judge, reference)) => (reference.seen().features().count(), judge.description()),
            None => (count, "pixels only".to_owned()),
        };
        Report {
            model: model.to_owned(),
            against: format!("{count} held-out images of {}", held_out.name()),
            judge,
            seed: self.seed,
            rows,
            pictures: Vec::new(),
        }
    }

    /// Every combination of sampler, eta and ways to place the steps.
    fn settings(&self, pipeline: &Pipeline) -> anyhow::Result<Vec<SampleOptions>> {
        let defaults = pipeline.default_options();
        let own = learnt_sampler(pipeline).unwrap_or_default();
        let mut settings = Vec::new();
        for placed in self.placed_steps(&defaults) {
            for sampler in self.samplers_with_eta(own, defaults.sampler)? {
                sampler.validate()?;
                for placed in &placed {
                    let mut options = SampleOptions {
                        sampler,
                        seed: self.seed,
                        ..placed.clone()
                    };
                    self.computing.apply(&mut options);
                    self.conditions.apply(pipeline, &mut options)?;
                    options.count = (self.count as usize).div_ceil(options.classes.len().max(1));
                    pipeline.trajectory(&options)?;
                    settings.push(options);
                }
            }
        }
        Ok(settings)
    }

    /// `defaults` with the steps placed in every way asked for: by lists of timesteps, or for each spacing by numbers of steps.
    fn placed_steps(&self, defaults: &SampleOptions) -> Vec<Vec<SampleOptions>> {
        if !self.timesteps.is_empty() {
            let lists = self.timesteps.iter();
            let at = |Timesteps(list): &Timesteps| defaults.clone().at_timesteps(list.clone());
            return vec![lists.map(at).collect()];
        }
        let spacings: Vec<Spacing> = match self.spacing.as_slice() {
            [] => vec![defaults.levels.spacing],
            spacings => spacings.iter().map(|&spacing| spacing.into()).collect(),
        };
        let own = [defaults.steps];
        let counts = self.steps.as_ref().map_or(&own[..], |counts| &counts.0);
        let of_spacing = |spacing| {
            let levels = LevelOptions {
                spacing,
                ..defaults.levels
            };
            let in_steps = |&steps: &usize| SampleOptions {
                steps,
                levels,
                ..defaults.clone()
            };
            counts.iter().map(in_steps).collect()
        };
        spacings.into_iter().map(of_spacing).collect()
    }

    /// Samplers with an `eta` once for each of `--eta`, the others once. DDPM uses the variance of the model's sampler, which is
    /// `of_model`. If none is asked for, there is only `own`.
    fn samplers_with_eta(&self, own: Sampler, of_model: Sampler) -> anyhow::Result<Vec<Sampler>> {
        let samplers = match self.samplers.as_slice() {
            [] => &[own][..],
            samplers => samplers,
        };
        ensure!(
            self.eta.is_empty() || samplers.iter().any(|sampler| sampler.eta().is_some()),
            "--eta belongs to ddim and dpm-solver; leave it out, or add one of these to --samplers"
        );
        let etas = if self.eta.is_empty() {
            &[0.0]
        } else {
            self.eta.as_slice()
        };
        let with_eta = samplers.iter().flat_map(|&sampler| {
            let sampler = sampler.for_model(of_model);
            if sampler.eta().is_none() {
                return vec![sampler];
            }
            let with = |&eta| {
                let mut sampler = sampler;
                if let Some(own) = sampler.eta_mut() {
                    *own = eta;
                }
                sampler
            };
            etas.iter().map(with).collect()
        });
        Ok(with_eta.collect())
    }

    /// The images to compare with.
    fn datasets(&self, channels: usize, side: usize) -> anyhow::Result<Datasets> {
        let ModelArguments { model, hub } = &self.model;
        let real = (self.data).open(model.as_deref(), hub, [channels, side])?;
        self.check_enough(&real)?;
        Ok(real.datasets)
    }

    /// Refuses data sets that are too small for a comparison, and reports if there are fewer images than were asked
    /// for.
    fn check_enough(&self, real: &RealImages) -> anyhow::Result<()> {
        let Datasets { train, validation } = &real.datasets;
        let (fewest, all) = (Reference::FEWEST, train.len() + validation.len());
        for (split, role) in [(validation, "held out"), (train, "to train on")] {
            ensure!(
                split.len() >= fewest,
                "only {} of the {all} images of {} are {role}, but a comparison needs at least {fewest}: {}",
                split.len(),
                split.name(),
                real.way_to_more(fewest)
            );
        }
        if let Some(wanted) = self
            .real
            .filter(|&wanted| wanted as usize > validation.len())
        {
            terminal::note(&format!(
                "comparing with {} images, all that {} holds out, instead of {wanted}",
                validation.len(),
                validation.name()
            ));
        }
        Ok(())
    }

    fn judge(
        &self,
        [channels, height, width]: [usize; 3],
        device: &Device,
    ) -> anyhow::Result<Judge> {
        let digits = [1, DigitClassifier::SIDE, DigitClassifier::SIDE];
        let features = self
            .features
            .unwrap_or(match [channels, height, width] == digits {
                true => FeatureKind::Digits,
                false => FeatureKind::Inception(FeatureLayer::default()),
            });
        let of_others = match features {
            FeatureKind::Digits => [
                ("--feature-weights", self.feature_weights.is_some()),
                ("--feature-size", self.feature_size.is_some()),
            ],
            FeatureKind::Inception(_) => [("--classifier", self.classifier.is_some()), ("", false)],
        };
        if let Some((flag, _)) = of_others.into_iter().find(|(_, is_given)| *is_given) {
            let (used, others) = match features {
                FeatureKind::Digits => ("digits", "2048"),
                FeatureKind::Inception(_) => ("InceptionV3's", "digits"),
            };
            bail!(
                "{flag} has no effect with the features {used}; leave it out, or add --features {others}"
            );
        }
        let weights = match features {
            FeatureKind::Digits => &self.classifier,
            FeatureKind::Inception(_) => &self.feature_weights,
        };
        let judge = Judge::open(
            features,
            weights.as_deref(),
            self.feature_size
                .map_or(Inception::PYTORCH_FID_SIDE, |side| side as usize),
            device,
            &DataProgress::default(),
        )?;
        if matches!(&judge, Judge::Inception(inception) if !inception.is_published()) {
            terminal::note(
                "these are not pytorch-fid's weights at 299x299: the figures are not comparable with published ones",
            );
        }
        Ok(judge)
    }

    fn reference(
        &self,
        judge: &Judge,
        held_out: &ImageDataset,
        device: &Device,
    ) -> anyhow::Result<Reference> {
        let count = self.real.map_or(usize::MAX, |count| count as usize);
        let count = count.min(held_out.len());
        let seen = self.seen(judge, held_out, count, device)?;
        Ok(Reference::new(seen, judge.names_of_distances())?)
    }

    /// Images of the training split, unchanged and blurred, compared with the held-out ones.
    fn landmarks(
        &self,
        judge: &Judge,
        reference: &Reference,
        training: &ImageDataset,
        device: &Device,
    ) -> anyhow::Result<Vec<Row>> {
        let count = (self.count as usize).min(training.len());
        let real = self.seen(judge, training, count, device)?;
        let images = Images::of_dataset(training, count)?.cropped(training.border());
        let blurred = blurred(&images);
        let blurred = seen_in(judge, &blurred, device, |_| Ok(()))?;
        let row = |name: &str, seen| -> anyhow::Result<Row> {
            Ok(Row {
                name: name.to_owned(),
                sampling: None,
                images: count,
                seconds: None,
                figures: reference.compare(seen, self.seed)?,
            })
        };
        Ok(vec![
            row("real: training split", &real)?,
            row("the same, blurred 3x3", &blurred)?,
        ])
    }

    /// The judge's output for real images, from the cache if possible.
    fn seen(
        &self,
        judge: &Judge,
        dataset: &ImageDataset,
        count: usize,
        device: &Device,
    ) -> anyhow::Result<kiln_eval::Seen> {
        let bar = terminal::progress_bar("features of real images".into(), count, "images");
        let observe = |done| bar.set_position(done as u64);
        let seen = seen_in_dataset(judge, dataset, count, device, observe)?;
        bar.finish_and_clear();
        Ok(seen)
    }
}

/// A number of images that is enough for every figure.
fn parse_count(text: &str) -> Result<u32, String> {
    let fewest = Reference::FEWEST;
    let count = text
        .parse()
        .ok()
        .filter(|&count: &u32| count as usize >= fewest);
    count.ok_or_else(|| {
        format!("a comparison needs at least {fewest} images, such as {fewest} or 1000")
    })
}

/// The pixels of the training images, and the distances of held-out images to the nearest of them.
fn nearness(datasets: &Datasets) -> anyhow::Result<(Features, Vec<f64>)> {
    let pixels = |dataset: &ImageDataset, count| -> anyhow::Result<Features> {
        Ok(pixels_of(
            &Images::of_dataset(dataset, count)?.cropped(dataset.border()),
        )?)
    };
    let training = pixels(&datasets.train, usize::MAX)?;
    let held_out = pixels(&datasets.validation, HELD_OUT)?;
    let distances = nearest(&held_out, &training)?;
    Ok((
        training,
        distances
            .into_iter()
            .map(|(_, distance)| distance)
            .collect(),
    ))
}
