//! `kiln reconstruct`: encodes and decodes images with a VQ-VAE.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use kiln::Autoencoder;
use kiln::pictures::{Album, Images, make_folder, paired_grid};
use kiln_data::{DatasetKind, Datasets};
use kiln_eval::mean_psnr;
use kiln_kernels::Precision;
use kiln_train::counted;
use serde::Serialize;

use super::{
    data_arguments::{DataArguments, RealImages},
    drawing::{COMPUTING, IMAGES, MODEL, PICTURES},
    hub_arguments::HubArguments,
    numbers::{MANY, whole},
    one_device,
};
use crate::pretrained;
use crate::terminal;

/// The largest number of images in the picture; the others are only measured.
const SHOWN: usize = 64;
/// Images per row of the picture.
const COLUMNS: usize = 8;

/// Show how well a VQ-VAE, or another autoencoder, reconstructs images.
///
/// Writes one picture with rows of originals over rows of their reconstructions, and measures PSNR (on pixels in
/// [0, 1]) and the use of the codebook.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln reconstruct
  kiln reconstruct --model runs/mnist/model --config configs/mnist.toml --count 10000
  kiln reconstruct --model runs/flowers/model --data photos/ --out reconstructions/")]
pub struct Reconstruct {
    /// Print one JSON object on stdout instead of words
    #[arg(long)]
    json: bool,

    /// Folder of a model, of a run, of a checkpoint or of an autoencoder alone, or one on the Hub; without it, the digits model inside this program
    #[arg(long, help_heading = MODEL, value_name = "PATH|ORG/REPO[@REVISION]")]
    model: Option<PathBuf>,

    #[command(flatten)]
    hub: HubArguments,

    #[command(flatten)]
    data: DataArguments,

    /// Number of images, the first ones
    #[arg(long, help_heading = IMAGES, default_value_t = 64, value_parser = whole::<u32>(1..=MANY, 64))]
    count: u32,

    /// Folder for the picture
    #[arg(long, help_heading = PICTURES, default_value = "reconstructions", value_name = "FOLDER")]
    out: PathBuf,

    /// Images that are computed together: changes memory and speed, not the images
    #[arg(long, help_heading = COMPUTING, default_value_t = 64, value_parser = whole::<u32>(1..=MANY, 64))]
    batch: u32,

    /// Where to compute: cpu, cuda:0, rocm:0, metal or wgpu
    #[arg(long, help_heading = COMPUTING, default_value = "cpu", value_name = "DEVICE")]
    devices: String,
}

/// The measurements, for `--json`.
#[derive(Serialize)]
struct Outcome {
    model: String,
    data: String,
    count: usize,
    picture: PathBuf,
    /// Mean of the images' PSNRs in decibels, on pixels in [0, 1].
    psnr: f64,
    #[serde(flatten)]
    codebook: Option<CodebookUse>,
    seconds: f64,
}

/// The use of the codebook, if there is one.
#[derive(Serialize)]
struct CodebookUse {
    perplexity: f64,
    codes_in_use: usize,
    codes: usize,
}

/// The images to reconstruct.
struct Originals {
    name: String,
    images: Images,
    /// Pixels of padding on each side, which are not shown or measured.
    border: usize,
}

impl Reconstruct {
    /// Reconstructs, writes the picture and prints the measurements.
    pub fn run(self) -> anyhow::Result<()> {
        let device = one_device(&self.devices, Precision::F32)?;
        let autoencoder = match &self.model {
            Some(place) => Autoencoder::load(&self.hub.first_stage(place)?, &device)?,
            None => Autoencoder::from_source(&pretrained::default_model()?, &device)?,
        };
        let originals = self.originals(&autoencoder)?;
        let _made = make_folder(&self.out)?;
        let started = Instant::now();
        let bar = terminal::progress_bar("reconstructing".into(), originals.images.len(), "images");
        let reconstruction =
            autoencoder.reconstruct(&originals.images, self.batch as usize, |done| {
                bar.set_position(done as u64)
            })?;
        bar.finish_and_clear();

        let codes = reconstruction.code_counts.len();
        let codebook = (codes > 0).then(|| CodebookUse {
            perplexity: reconstruction.perplexity(),
            codes_in_use: reconstruction.codes_in_use(),
            codes,
        });
        let images = reconstruction.images.cropped(originals.border);
        let originals = Originals {
            images: originals.images.cropped(originals.border),
            ..originals
        };
        let psnr = mean_psnr(originals.images.iter(), images.iter());

        let name = "reconstructions.png";
        let columns = COLUMNS.min(images.len());
        let (upper, lower) = (originals.images.first(SHOWN), images.first(SHOWN));
        let mut album = Album::default();
        album.add_png(name, &paired_grid(&upper, &lower, columns))?;
        let saved = album.save(&self.out)?;
        let outcome = Outcome {
            model: autoencoder.name().to_owned(),
            data: originals.name,
            count: images.len(),
            picture: saved.path(name),
            psnr,
            codebook,
            seconds: started.elapsed().as_secs_f64(),
        };
        terminal::print_outcome(&outcome, self.json, Outcome::in_words)
    }

    /// Opens the data and takes its first images: for an experiment the validation images, for a folder all.
    fn originals(&self, autoencoder: &Autoencoder) -> anyhow::Result<Originals> {
        let shape = [autoencoder.channels(), autoencoder.image_size()];
        let RealImages {
            datasets: Datasets { train, validation },
            config,
            experiment,
        } = self.data.open(self.model.as_deref(), &self.hub, shape)?;
        autoencoder.check_image(config.channels, config.size, config.size)?;
        let mut images = Images::empty(config.channels, config.size, config.size);
        let whole_folder =
            (config.dataset == DatasetKind::Folder && experiment.is_none()).then_some(train);
        let (name, border) = (validation.name().to_owned(), validation.border());
        for dataset in whole_folder.into_iter().chain([validation]) {
            let wanted = (self.count as usize - images.len()).min(dataset.len());
            for index in 0..wanted {
                images.extend(&dataset.image(index, false)?);
            }
        }
        Ok(Originals {
            name,
            images,
            border,
        })
    }
}

impl Outcome {
    fn in_words(&self) -> String {
        let codebook = self.codebook.as_ref().map_or(String::new(), |used| {
            format!(
                ", {} of {} codes in use, perplexity {:.1}",
                used.codes_in_use, used.codes, used.perplexity
            )
        });
        format!(
            "{}  {} of {}, {}\nPSNR {:.2} dB{codebook}\n",
            self.picture.display(),
            counted(self.count, "image"),
            self.data,
            terminal::in_words(Duration::from_secs_f64(self.seconds)),
            self.psnr,
        )
    }
}
