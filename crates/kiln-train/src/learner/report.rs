//! The report of a step, and the metrics that gather reports over a round.

use std::mem;
use std::sync::Arc;

use burn::tensor::{Device, ExecutionError, Tensor, TensorReadError};
use burn::train::ItemLazy;
use burn::train::metric::{
    Adaptor, Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes,
    NumericEntry, SerializedEntry,
};
use kiln_kernels::copied;
use kiln_models::bottleneck::vq::{codes_in_use, perplexity};

use crate::learner::session::Session;

/// The name of the metric that training minimises, in both stages.
pub(crate) const LOSS: &str = "loss";

/// The numbers of one training or validation step.
///
/// They are tensors, so that a step need not wait for the GPU. The metrics' thread reads them.
#[derive(Debug, Clone)]
pub(crate) struct StepReport {
    /// The step, from zero.
    pub(crate) step: usize,
    /// The number of images in the means.
    pub(crate) images: usize,
    /// The names of the scalars. The first one is the loss.
    names: Vec<&'static str>,
    /// `[scalars]`
    pub(crate) scalars: Tensor<1>,
    /// How often each code was chosen, `[codes]`, if there is a codebook.
    pub(crate) code_counts: Option<Tensor<1>>,
    /// Measurements of drawn images, by name.
    figures: Vec<(&'static str, f64)>,
    read: Option<Arc<Numbers>>,
}

#[derive(Debug)]
pub(crate) struct Numbers {
    step: usize,
    images: usize,
    /// Scalars, or figures of drawn images, by name.
    values: Vec<(&'static str, f64)>,
    code_counts: Vec<f32>,
}

impl Numbers {
    fn value(&self, name: &str) -> Option<f64> {
        let mut values = self.values.iter();
        let (_, value) = values.find(|(own, _)| *own == name)?;
        Some(*value)
    }
}

impl StepReport {
    /// Scalars, `[1]` each, under the names of their metrics. The first one is the loss.
    pub(crate) fn new(
        step: usize,
        images: usize,
        scalars: Vec<(&'static str, Tensor<1>)>,
        code_counts: Option<Tensor<1>>,
    ) -> Self {
        let (names, scalars): (Vec<_>, Vec<_>) = scalars.into_iter().unzip();
        let scalars = scalars.into_iter().map(Tensor::without_autodiff).collect();
        Self {
            step,
            images,
            names,
            scalars: Tensor::cat(scalars, 0),
            code_counts,
            figures: Vec::new(),
            read: None,
        }
    }

    /// The report of `step` whose numbers a GPU has put where this report's were, copied, because it will do so again.
    pub(crate) fn repeated_in(&self, step: usize) -> Self {
        Self {
            step,
            scalars: copied(self.scalars.clone()),
            code_counts: self.code_counts.clone().map(copied),
            ..self.clone()
        }
    }

    /// A report of drawn images, without a loss.
    pub(crate) fn of_drawn(
        step: usize,
        figures: Vec<(&'static str, f64)>,
        device: &Device,
    ) -> Self {
        Self {
            step,
            images: 0,
            names: Vec::new(),
            scalars: Tensor::zeros([1], device),
            code_counts: None,
            figures,
            read: None,
        }
    }
}

impl ItemLazy for StepReport {
    fn sync(mut self) -> Result<Self, ExecutionError> {
        let counts = self
            .code_counts
            .clone()
            .map(|counts| counts.into_data().iter::<f32>().collect());
        let scalars = self.scalars.clone().into_data();
        let scalars = self.names.iter().copied().zip(scalars.iter::<f64>());
        self.read = Some(Arc::new(Numbers {
            step: self.step,
            images: self.images,
            values: scalars.chain(self.figures.iter().copied()).collect(),
            code_counts: counts.unwrap_or_default(),
        }));
        Ok(self)
    }
}

impl Adaptor<Option<Arc<Numbers>>> for StepReport {
    fn adapt(&self) -> Option<Arc<Numbers>> {
        self.read.clone()
    }
}

/// The way in which a metric reads a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The mean of the scalar with the metric's name, weighted by images.
    Mean,
    /// The exponential of the entropy of the codes' use.
    Perplexity,
    /// The percentage of codes that were chosen at all.
    CodesInUse,
    /// The figure with the metric's name, if images were drawn and measured.
    Figure,
}

/// One metric of a stage.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MetricKind {
    pub(crate) name: &'static str,
    pub(crate) unit: Option<&'static str>,
    pub(crate) higher_is_better: bool,
    pub(crate) reading: Reading,
    /// Whether every step and validation measures it.
    pub(crate) is_always_there: bool,
}

impl MetricKind {
    /// A metric without a unit. Lower is better.
    pub(crate) const fn new(name: &'static str, reading: Reading) -> Self {
        Self {
            name,
            unit: None,
            higher_is_better: false,
            reading,
            is_always_there: true,
        }
    }

    /// The same metric, but only some steps and validations measure it.
    pub(crate) const fn sometimes(self) -> Self {
        Self {
            is_always_there: false,
            ..self
        }
    }

    /// The same metric with a unit.
    pub(crate) const fn in_unit(self, unit: &'static str) -> Self {
        Self {
            unit: Some(unit),
            ..self
        }
    }

    /// The same metric, but higher is better.
    pub(crate) const fn higher_is_better(self) -> Self {
        Self {
            higher_is_better: true,
            ..self
        }
    }

    /// Its columns in `metrics.csv`.
    pub(crate) fn columns(&self) -> Vec<String> {
        let splits: &[&str] = match self.reading {
            Reading::Figure => &["valid"],
            _ => &["train", "valid"],
        };
        let column = |split| format!("{}/{split}", self.name);
        splits.iter().map(column).collect()
    }
}

/// The reports of one step, or of all steps before it. Devices report in the order in which they finish, so a step's
/// values are summed in order of size. This gives the same bits in every run.
#[derive(Clone, Default)]
struct Told {
    step: usize,
    /// Weighted by images.
    values: Vec<f64>,
    images: f64,
    code_counts: Vec<f32>,
}

impl Told {
    fn sum(&self) -> f64 {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        values.iter().sum()
    }

    fn add_codes(&mut self, counts: &[f32]) {
        let length = self.code_counts.len().max(counts.len());
        self.code_counts.resize(length, 0.0);
        for (sum, count) in self.code_counts.iter_mut().zip(counts) {
            *sum += count;
        }
    }

    /// This and `later` together.
    fn with(mut self, later: &Self) -> Self {
        self.values = vec![self.sum() + later.sum()];
        self.images += later.images;
        self.add_codes(&later.code_counts);
        self
    }
}

/// The kind of steps that a [`Gathered`] gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Training,
    Validation,
}

/// A [`MetricKind`] on one split.
#[derive(Clone)]
pub(crate) struct Gathered {
    kind: MetricKind,
    name: MetricName,
    of: Of,
    session: Session,
    last: Option<f64>,
    /// All steps but the newest, which may still be given up.
    settled: Told,
    newest: Told,
}

impl Gathered {
    pub(crate) fn new(kind: MetricKind, of: Of, session: Session) -> Self {
        let name = Arc::new(kind.name.to_owned());
        Self {
            kind,
            name,
            of,
            session,
            last: None,
            settled: Told::default(),
            newest: Told::default(),
        }
    }

    /// The value over everything since the last `clear`.
    fn gathered(&self) -> Option<f64> {
        if self.kind.reading == Reading::Figure {
            return self.last;
        }
        let all = self.settled.clone().with(&self.newest);
        (all.images > 0.0).then(|| match self.kind.reading {
            Reading::Perplexity => perplexity(&all.code_counts),
            Reading::CodesInUse => {
                100.0 * codes_in_use(&all.code_counts) as f64 / all.code_counts.len().max(1) as f64
            }
            Reading::Mean | Reading::Figure => all.sum() / all.images,
        })
    }

    /// Drops unfinished work: a step that was given up, which a resume repeats, or a validation that was cut short.
    fn leave_out_what_is_unfinished(&mut self) {
        let is_unfinished = match self.of {
            Of::Training => self.newest.step >= self.session.steps_done(),
            Of::Validation => !self.session.is_validated(),
        };
        if is_unfinished {
            self.newest = Told::default();
        }
    }

    /// Sums the values over all ranks' steps.
    fn sum_over_ranks(&mut self) {
        let session = &self.session;
        // Only rank 0 validates. If a rank has failed, the others do not reach this point.
        let is_alone = self.of == Of::Validation || session.ranks().is_alone();
        if is_alone || session.learner().should_stop() {
            return;
        }
        let all = self.settled.clone().with(&self.newest);
        let counts = all.code_counts.iter().map(|&count| f64::from(count));
        let own = [all.sum(), all.images].into_iter().chain(counts).collect();
        match session.ranks().sum_metrics(own) {
            Ok(sums) => {
                if let [sum, images, counts @ ..] = &sums[..] {
                    self.newest = Told::default();
                    self.settled = Told {
                        values: vec![*sum],
                        images: *images,
                        code_counts: counts.iter().map(|&count| count as f32).collect(),
                        ..Told::default()
                    };
                }
            }
            Err(error) => session.fail(error.into()),
        }
    }

    fn entry(&self, now: Option<f64>) -> SerializedEntry {
        match (self.gathered(), now) {
            (Some(gathered), Some(now)) => {
                let unit = self.kind.unit.unwrap_or_default();
                let text = format!("so far {gathered:.4} {unit} - last {now:.4} {unit}");
                SerializedEntry::new(text, gathered.to_string())
            }
            _ => SerializedEntry::not_available(self.kind.unit),
        }
    }
}

impl Metric for Gathered {
    type Input = Option<Arc<Numbers>>;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        let unit = self.kind.unit.map(str::to_owned);
        NumericAttributes {
            unit,
            higher_is_better: self.kind.higher_is_better,
        }
        .into()
    }

    fn update(
        &mut self,
        item: &Self::Input,
        _: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        let Some(numbers) = item else {
            return Ok(self.entry(None));
        };
        if self.kind.reading == Reading::Figure {
            self.last = numbers.value(self.kind.name).or(self.last);
            return Ok(self.entry(self.last));
        }
        let is_absent = !self.kind.is_always_there && numbers.value(self.kind.name).is_none();
        if numbers.images == 0 || is_absent {
            return Ok(self.entry(self.last)); // drawn images have no loss
        }
        if self.newest.step != numbers.step {
            self.settled = mem::take(&mut self.settled).with(&self.newest);
            self.newest = Told {
                step: numbers.step,
                ..Told::default()
            };
        }
        self.newest.images += numbers.images as f64;
        match self.kind.reading {
            Reading::Mean | Reading::Figure => {
                let value = numbers.value(self.kind.name).unwrap_or(f64::NAN);
                self.newest.values.push(value * numbers.images as f64);
                self.last = Some(value);
                let must_be_finite = self.of == Of::Training && self.kind.name == LOSS;
                if must_be_finite && !value.is_finite() {
                    (self.session).fail_diverged(self.kind.name, value, numbers.step);
                }
            }
            Reading::Perplexity | Reading::CodesInUse => {
                self.newest.add_codes(&numbers.code_counts);
                self.last = self.gathered();
            }
        }
        Ok(self.entry(self.last))
    }

    /// Called once, at the end of a round.
    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        self.leave_out_what_is_unfinished();
        self.sum_over_ranks();
        Ok(self.entry(self.gathered()))
    }

    fn clear(&mut self) {
        *self = Self::new(self.kind, self.of, self.session.clone());
    }
}

impl Numeric for Gathered {
    fn value(&self) -> Option<NumericEntry> {
        self.last.map(NumericEntry::Value)
    }

    fn running_value(&self) -> Option<NumericEntry> {
        self.gathered().map(NumericEntry::Value)
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.gathered().unwrap_or(f64::NAN))
    }
}

#[cfg(test)]
mod tests {
    use burn::data::dataloader::Progress;
    use burn::tensor::Device;

    use super::*;
    use crate::learner::session::StopSignal;

    fn metadata() -> MetricMetadata {
        MetricMetadata {
            progress: Progress::new(1, 1, None),
            iteration: None,
            lr: None,
        }
    }

    /// A metric of a training in which 2 images of each `step` reported `loss`.
    fn told(of: Of, session: &Session, losses: &[(usize, f64)]) -> Gathered {
        let kind = MetricKind::new(LOSS, Reading::Mean);
        let mut gathered = Gathered::new(kind, of, session.clone());
        for &(step, loss) in losses {
            let loss = Tensor::from_floats([loss as f32], &Device::flex());
            let report = StepReport::new(step, 2, vec![(LOSS, loss)], None)
                .sync()
                .unwrap();
            gathered.update(&report.adapt(), &metadata()).unwrap();
        }
        gathered
    }

    fn value(mut gathered: Gathered) -> Option<f64> {
        gathered.compute().unwrap();
        let NumericEntry::Final(value) = gathered.final_value() else {
            panic!("a value of the whole round")
        };
        (!value.is_nan()).then_some(value)
    }

    #[test]
    fn a_step_that_was_given_up_is_not_in_the_mean() {
        let session = Session::new(10, StopSignal::default());
        let losses = [(10, 1.0), (10, 2.0), (11, 3.0), (11, 4.0), (12, 100.0)];
        let gathered = told(Of::Training, &session, &losses);
        session.finish_steps_before(12);
        assert_eq!(value(gathered.clone()), Some(2.5));
        session.finish_steps_before(13);
        assert_eq!(value(gathered), Some(22.0));
        let only_begun = told(Of::Training, &session, &[(13, 1.0)]);
        assert_eq!(value(only_begun), None);
    }

    #[test]
    fn a_validation_that_was_cut_short_has_no_mean() {
        let session = Session::new(10, StopSignal::default());
        let gathered = told(Of::Validation, &session, &[(10, 1.0), (10, 2.0)]);
        assert_eq!(value(gathered.clone()), None);
        session.set_validated(true);
        assert_eq!(value(gathered), Some(1.5));
    }

    #[test]
    fn codes_are_counted_over_the_steps_that_ended() {
        let session = Session::new(0, StopSignal::default());
        let kind = MetricKind::new("codes in use", Reading::CodesInUse);
        let mut gathered = Gathered::new(kind, Of::Training, session.clone());
        for (step, counts) in [
            [9.0, 0.0, 0.0, 0.0],
            [0.0, 9.0, 0.0, 0.0],
            [0.0, 0.0, 9.0, 0.0],
        ]
        .into_iter()
        .enumerate()
        {
            let device = Device::flex();
            let loss = Tensor::from_floats([0.0], &device);
            let counts = Tensor::from_floats(counts, &device);
            let report = StepReport::new(step, 2, vec![(LOSS, loss)], Some(counts));
            let report = report.sync().unwrap();
            gathered.update(&report.adapt(), &metadata()).unwrap();
        }
        session.finish_steps_before(2);
        assert_eq!(value(gathered), Some(50.0));
    }
}
