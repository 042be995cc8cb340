//! What can be wrong with a schedule, a prediction or a request for samples.

/// A setting that diffusion cannot work with. Each message is one sentence that names the setting,
/// its value and what would be valid.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DiffusionError {
    /// The number of timesteps is outside the sensible range.
    #[error("`num_train_timesteps` is {value}: give a number from {minimum} to {maximum}.")]
    TrainTimesteps {
        /// The number that was given.
        value: usize,
        /// The smallest number that these settings allow.
        minimum: usize,
        /// The largest number.
        maximum: usize,
    },
    /// The beta range is empty or leaves (0, 1).
    #[error(
        "the betas would run from {start} to {end}: `beta_start` and `beta_end`{after_scaling} must satisfy 0 < beta_start <= beta_end < 1."
    )]
    BetaRange {
        /// The first beta, after scaling.
        start: f64,
        /// The last beta, after scaling.
        end: f64,
        /// A note that the betas were scaled, if they were.
        after_scaling: &'static str,
    },
    /// The two ends of a curve are out of range or in the wrong order.
    #[error("`{start_key}` is {start} and `{end_key}` is {end}: {valid}.")]
    Ends {
        /// The setting of the first timestep.
        start_key: &'static str,
        /// Its value, given or by default.
        start: f64,
        /// The setting of the last timestep.
        end_key: &'static str,
        /// Its value, given or by default.
        end: f64,
        /// What would be valid.
        valid: &'static str,
    },
    /// A number is out of range.
    #[error("`{key}` is {value}: {valid}.")]
    Number {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: f64,
        /// What would be valid.
        valid: &'static str,
    },
    /// Listed betas are to be read between the timesteps.
    #[error(
        "`continuous` needs a curve, but a `betas` schedule is a list: remove it, or choose another `kind`."
    )]
    ContinuousBetas,
    /// The list of betas does not have one entry per timestep.
    #[error(
        "`betas` has {length} entries: `num_train_timesteps` is {expected}, and there must be one per timestep."
    )]
    BetasLength {
        /// How many were given.
        length: usize,
        /// `num_train_timesteps`.
        expected: usize,
    },
    /// An entry of the list of betas is out of range.
    #[error("`betas[{index}]` is {value}: a beta lies between 0 and 1 (only the last may be 1).")]
    Beta {
        /// Which entry.
        index: usize,
        /// Its value.
        value: f64,
    },
    /// The betas destroy the signal too early.
    #[error(
        "the schedule leaves no signal at timestep {timestep} of {timesteps}: use smaller betas, or fewer timesteps."
    )]
    VanishingSignal {
        /// The first timestep without signal.
        timestep: usize,
        /// `num_train_timesteps`.
        timesteps: usize,
    },
    /// The network predicts noise although the last timestep is pure noise.
    #[error(
        "a network that predicts noise cannot be used with a zero-terminal-SNR schedule, because at the last timestep the noise says nothing about the signal: use `prediction = \"velocity\"`, \"signal\" or \"flow\"."
    )]
    NoiseAtZeroSnr,
    /// No steps, or more than there are timesteps.
    #[error(
        "cannot sample in {steps} steps: give a number from 1 to {maximum}, the model's number of training timesteps."
    )]
    Steps {
        /// The number that was asked for.
        steps: usize,
        /// `num_train_timesteps`.
        maximum: usize,
    },
    /// `steps_offset` pushes the first visited timestep beyond the last one.
    #[error(
        "`steps_offset` = {offset} moves the first of {steps} sampling steps to timestep {timestep}, but the last one is {last}: use a smaller offset or fewer steps."
    )]
    StepsOffset {
        /// `steps_offset`.
        offset: usize,
        /// The number of sampling steps.
        steps: usize,
        /// The timestep that would be visited first.
        timestep: usize,
        /// The last timestep of the schedule.
        last: usize,
    },
    /// A list of timesteps that cannot be visited one after the other.
    #[error(
        "cannot visit the timesteps {timesteps:?}: list at least one, each smaller than the one before it, from {last} down to 0."
    )]
    Timesteps {
        /// The list that was given.
        timesteps: Vec<f64>,
        /// The last timestep of the schedule.
        last: usize,
    },
    /// As many steps are needed as timesteps are listed.
    #[error(
        "{listed} timesteps are listed for {steps} steps: give as many steps, or leave one of both out."
    )]
    TimestepsCount {
        /// The number of timesteps.
        listed: usize,
        /// The number of steps.
        steps: usize,
    },
    /// `eta` is outside [0, 1].
    #[error("`eta` is {0}: give a number from 0 (DDIM, deterministic) to 1 (DDPM).")]
    Eta(f64),
    /// No sampler has this name.
    #[error("there is no sampler `{name}`: choose one of {known}.")]
    UnknownSampler {
        /// The name that was given.
        name: String,
        /// The names that there are, separated by commas.
        known: String,
    },
    /// The order of an Adams-Bashforth method is outside 1 to 5.
    #[error("`order` is {0}: Adams-Bashforth methods have an order from 1 to 5.")]
    Order(usize),
    /// `alpha` is outside [0.01, 1].
    #[error(
        "`alpha` is {0}: give a number from 0.01 to 1 (0.5 is the midpoint method, 1 is Heun's)."
    )]
    Alpha(f64),
    /// A setting of the churn is out of range.
    #[error("`{name}` of the churn is {value}: give a finite number, 0 or above.")]
    Churn {
        /// Which setting.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// `strength` is outside [0, 1].
    #[error(
        "`strength` is {0}: give a number from 0 (the image as it is) to 1 (nothing but noise)."
    )]
    Strength(f64),
    /// A clipping range or threshold that images cannot be clipped to.
    #[error(
        "`clip` is {0}: give a finite number above 0, or `dynamic` with a `quantile` from 0 to 1 and a `maximum` of at least 1."
    )]
    Clip(String),
    /// A guidance scale that does not lie between 0 and 1000.
    #[error("the guidance scale is {0}: give a number from 0 to 1000, where 1 is no guidance.")]
    GuidanceScale(f64),
    /// A guidance interval that is not an ascending one within [0, 1].
    #[error(
        "the guidance interval runs from {from} to {to}: give two noise rates from 0 (clean) to 1 (noise), the smaller first."
    )]
    GuidanceInterval {
        /// Where it begins.
        from: f64,
        /// Where it ends.
        to: f64,
    },
    /// The scheduler's JSON could not be read at all.
    #[error(
        "the scheduler config is not what diffusers writes ({0}): check that it is a `scheduler_config.json`."
    )]
    SchedulerJson(String),
    /// The scheduler's JSON asks for something that is not available here.
    #[error("the scheduler config has `{key}` = {value}, which is not supported: {supported}.")]
    SchedulerOption {
        /// The key in the file.
        key: String,
        /// Its value, as JSON.
        value: String,
        /// What would be valid.
        supported: &'static str,
    },
    /// A setting has no counterpart in diffusers.
    #[error("diffusers' schedulers have no {0}: choose another setting before saving the model.")]
    NotInDiffusers(&'static str),
}
