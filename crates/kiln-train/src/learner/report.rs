//! What a step tells about itself, and the metrics that gather it over a round.

use std::sync::Arc;

use burn::tensor::{Device, ExecutionError, Tensor, TensorReadError};
use burn::train::ItemLazy;
use burn::train::metric::{
    Adaptor, Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes,
    NumericEntry, SerializedEntry,
};
use kiln_models::bottleneck::vq::{codes_in_use, perplexity};

use crate::learner::log::LOSS;
use crate::learner::session::Session;

/// The numbers of one training or validation step.
///
/// They are made as tensors, so that a GPU need not be waited for, and read on the metrics' thread.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// The step, from zero.
    pub(crate) step: usize,
    /// Images that the means go over.
    pub(crate) images: usize,
    /// The names of the scalars. The first one is the loss.
    names: Vec<&'static str>,
    /// `[scalars]`
    pub(crate) scalars: Tensor<1>,
    /// How often each code was chosen, `[codes]`, where there is a codebook.
    pub(crate) code_counts: Option<Tensor<1>>,
    /// What was measured in drawn images, by name.
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

impl Report {
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

impl ItemLazy for Report {
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

impl Adaptor<Option<Arc<Numbers>>> for Report {
    fn adapt(&self) -> Option<Arc<Numbers>> {
        self.read.clone()
    }
}

/// How a metric reads a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The mean of the scalar of the metric's name, weighted by images.
    Mean,
    /// exp of the entropy of the codes' use.
    Perplexity,
    /// Share of the codes that were chosen at all, in percent.
    CodesInUse,
    /// The figure of the metric's name, where images were drawn and measured.
    Figure,
}

/// One metric of a stage.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MetricKind {
    pub(crate) name: &'static str,
    pub(crate) unit: Option<&'static str>,
    pub(crate) higher_is_better: bool,
    pub(crate) reading: Reading,
}

impl MetricKind {
    /// The less the better, without a unit.
    pub(crate) const fn new(name: &'static str, reading: Reading) -> Self {
        Self {
            name,
            unit: None,
            higher_is_better: false,
            reading,
        }
    }

    /// The same in a unit.
    pub(crate) const fn in_unit(self, unit: &'static str) -> Self {
        Self {
            unit: Some(unit),
            ..self
        }
    }

    /// The same, and the more the better.
    pub(crate) const fn higher_is_better(self) -> Self {
        Self {
            higher_is_better: true,
            ..self
        }
    }
}

/// What was told of the newest step. Devices report in the order in which they end, so its values are summed by size: the same
/// bits in every run.
#[derive(Clone, Default)]
struct Newest {
    step: usize,
    values: Vec<f64>,
}

impl Newest {
    fn sum(&self) -> f64 {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        values.iter().sum()
    }
}

/// A [`MetricKind`] at work on one split.
#[derive(Clone)]
pub(crate) struct Gathered {
    kind: MetricKind,
    name: MetricName,
    /// The training whose steps these are; a validation has none.
    training: Option<Session>,
    last: Option<f64>,
    /// Over all steps but the newest.
    sum: f64,
    newest: Newest,
    images: f64,
    code_counts: Vec<f32>,
}

impl Gathered {
    pub(crate) fn new(kind: MetricKind, training: Option<Session>) -> Self {
        let name = Arc::new(kind.name.to_owned());
        Self {
            kind,
            name,
            training,
            last: None,
            sum: 0.0,
            newest: Newest::default(),
            images: 0.0,
            code_counts: Vec::new(),
        }
    }

    /// The value over all that was gathered since the last `clear`.
    fn gathered(&self) -> Option<f64> {
        match self.kind.reading {
            Reading::Figure => self.last,
            _ if self.images == 0.0 => None,
            Reading::Mean => Some(self.whole_sum() / self.images),
            Reading::Perplexity => Some(perplexity(&self.code_counts)),
            Reading::CodesInUse => Some(
                100.0 * codes_in_use(&self.code_counts) as f64
                    / self.code_counts.len().max(1) as f64,
            ),
        }
    }

    fn whole_sum(&self) -> f64 {
        self.sum + self.newest.sum()
    }

    /// From here on the values are over all ranks' steps.
    fn sum_over_ranks(&mut self) {
        let Some(session) = &self.training else {
            return;
        };
        // The others do not come here with a rank that has failed.
        if session.ranks().is_alone() || session.learner().should_stop() {
            return;
        }
        let counts = self.code_counts.iter().map(|&count| f64::from(count));
        let own = [self.whole_sum(), self.images]
            .into_iter()
            .chain(counts)
            .collect();
        match session.ranks().sum_metrics(own) {
            Ok(sums) => {
                if let [sum, images, counts @ ..] = &sums[..] {
                    (self.sum, self.images) = (*sum, *images);
                    self.newest = Newest::default();
                    self.code_counts = counts.iter().map(|&count| count as f32).collect();
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
        self.images += numbers.images as f64;
        match self.kind.reading {
            Reading::Figure => {
                self.last = numbers.value(self.kind.name).or(self.last);
            }
            // Drawn images have no loss.
            _ if numbers.images == 0 => {}
            Reading::Mean => {
                let value = numbers.value(self.kind.name).unwrap_or(f64::NAN);
                let weighed = value * numbers.images as f64;
                if self.training.is_none() {
                    self.sum += weighed; // one device validates
                } else {
                    if self.newest.step != numbers.step {
                        self.sum = self.whole_sum();
                        self.newest = Newest {
                            step: numbers.step,
                            values: Vec::new(),
                        };
                    }
                    self.newest.values.push(weighed);
                }
                self.last = Some(value);
                if let Some(session) = &self.training
                    && self.kind.name == LOSS
                    && !value.is_finite()
                {
                    session.fail_diverged(self.kind.name, value, numbers.step);
                }
            }
            Reading::Perplexity | Reading::CodesInUse => {
                self.code_counts.resize(numbers.code_counts.len(), 0.0);
                for (sum, count) in self.code_counts.iter_mut().zip(&numbers.code_counts) {
                    *sum += count;
                }
                self.last = self.gathered();
            }
        }
        Ok(self.entry(self.last))
    }

    /// Asked for once, at the end of a round.
    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        self.sum_over_ranks();
        Ok(self.entry(self.gathered()))
    }

    fn clear(&mut self) {
        *self = Self::new(self.kind, self.training.clone());
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
