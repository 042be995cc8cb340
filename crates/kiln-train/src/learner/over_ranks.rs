//! The common work of ranks in a step: they sum their gradients, and now and then check that their weights are the
//! same.

use std::iter;
use std::vec;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use sha2::{Digest, Sha256};

use crate::learner::gradients::flat;
use crate::learner::session::Session;
use crate::ranks::{Ranks, RanksError};

/// The least count of numbers in one message: 4 MB. The network sends the first messages while the next ones are copied
/// from the device.
const MESSAGE: usize = 1 << 20;

/// The gradients of `module` summed over all ranks. The same sums tell them whether a rank wants to stop.
///
/// Losses are scaled by 1 / (devices of all ranks x micro-batches), so the sum is a mean. A failure ends the training.
pub(crate) fn over_ranks<M: Module>(
    module: &M,
    gradients: GradientsParams,
    session: &Session,
) -> GradientsParams {
    if session.ranks().is_alone() {
        return gradients;
    }
    let wish = f32::from(u8::from(session.wants_to_stop_after_this_step()));
    match summed(module, gradients, session.ranks(), wish) {
        Ok((gradients, wishes)) => {
            if wishes > 0.0 {
                session.stop_after_this_step();
            }
            gradients
        }
        Err(error) => {
            session.fail(error.into());
            GradientsParams::new()
        }
    }
}

fn summed<M: Module>(
    module: &M,
    gradients: GradientsParams,
    ranks: &Ranks,
    wish: f32,
) -> Result<(GradientsParams, f32), RanksError> {
    let mut left = flat(module, &gradients).into_iter().peekable();
    let messages = iter::from_fn(|| {
        left.peek()?;
        let mut message = Vec::new();
        while message.len() < MESSAGE
            && let Some(gradient) = left.next()
        {
            message.extend(gradient.into_data().iter::<f32>());
        }
        Some(message)
    });
    let mut sums = ranks
        .sum(iter::once(vec![wish]).chain(messages))?
        .into_iter();
    let wishes = sums.next().unwrap_or_default().into_iter().sum();
    let mut replaced = Replaced {
        gradients,
        messages: sums,
        message: Vec::new().into_iter(),
    };
    module.visit(&mut replaced);
    Ok((replaced.gradients, wishes))
}

/// Replaces the gradients by their sums, in the order of [`flat`]. No gradient is split between messages.
struct Replaced {
    gradients: GradientsParams,
    messages: vec::IntoIter<Vec<f32>>,
    message: vec::IntoIter<f32>,
}

impl ModuleVisitor for Replaced {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else {
            return;
        };
        if self.message.len() == 0 {
            self.message = self.messages.next().unwrap_or_default().into_iter();
        }
        let shape = gradient.shape();
        let sums: Vec<f32> = (self.message.by_ref()).take(shape.num_elements()).collect();
        let sums = Tensor::from_data(TensorData::new(sums, shape), &gradient.device());
        self.gradients.register::<D>(param.id, sums);
    }
}

/// Ends the training if the weights of `module` differ between ranks.
pub(crate) fn compare_weights<M: Module>(module: &M, session: &Session) {
    let mut weights = Weights(Sha256::new());
    module.visit(&mut weights);
    match session.ranks().first_to_differ(&weights.0.finalize()) {
        Ok(None) => {}
        Ok(Some(rank)) => session.fail(RanksError::Drift { rank }.into()),
        Err(error) => session.fail(error.into()),
    }
}

/// The digest of all weights of a module.
struct Weights(Sha256);

impl ModuleVisitor for Weights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.update(param.val().into_data().as_bytes());
    }
}
