//! The inputs of a convolution that are kept for its gradients.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use burn::backend::TensorMetadata;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, Shape};

use super::numbers;
use crate::values::{Rounded, Values};

/// An input, `[batch, height, width, channels]`.
#[derive(Clone, Debug)]
pub(crate) enum KeptInput {
    Exact(FlexTensor),
    /// As f16 numbers, which are half as large.
    Rounded(Arc<Rounded>, Shape),
}

/// The tensor that was rounded last, with the result: a block's first convolution and its shortcut read the same tensor.
struct Last {
    data: Weak<Bytes>,
    layout: Layout,
    rounded: Weak<Rounded>,
}

thread_local! {
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

impl KeptInput {
    pub(crate) fn shape(&self) -> Shape {
        match self {
            Self::Exact(tensor) => tensor.shape(),
            Self::Rounded(_, shape) => shape.clone(),
        }
    }

    pub(crate) fn values(&self) -> Values<'_> {
        match self {
            Self::Exact(tensor) => Values::Exact(numbers(tensor)),
            Self::Rounded(rounded, _) => rounded.values(),
        }
    }

    /// As f16 numbers.
    pub(crate) fn rounded(self) -> Self {
        let Self::Exact(tensor) = self else {
            return self;
        };
        let (shape, data) = (tensor.shape(), tensor.data_arc());
        let known = LAST.with_borrow(|last| {
            let last = last
                .as_ref()
                .filter(|last| last.layout == *tensor.layout())?;
            let is_same = Arc::ptr_eq(&last.data.upgrade()?, &data);
            is_same.then(|| last.rounded.upgrade()).flatten()
        });
        let rounded = known.unwrap_or_else(|| {
            let rounded = Arc::new(Rounded::new(numbers(&tensor)));
            LAST.set(Some(Last {
                data: Arc::downgrade(&data),
                layout: tensor.layout().clone(),
                rounded: Arc::downgrade(&rounded),
            }));
            rounded
        });
        Self::Rounded(rounded, shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extension::tensor;

    fn address(kept: &KeptInput) -> *const Rounded {
        match kept {
            KeptInput::Exact(_) => panic!("It is rounded."),
            KeptInput::Rounded(rounded, _) => Arc::as_ptr(rounded),
        }
    }

    #[test]
    fn an_input_of_two_layers_is_kept_once() {
        let images = |value| tensor(vec![value; 12], Shape::new([1, 2, 2, 3]));
        let (first, second) = (images(1.0), images(2.0));
        let kept = KeptInput::Exact(first.clone()).rounded();
        let again = KeptInput::Exact(first.clone()).rounded();
        assert_eq!(address(&kept), address(&again));
        assert_eq!(again.shape(), first.shape());

        let other = KeptInput::Exact(second).rounded();
        assert_ne!(address(&kept), address(&other));
        let mut memory = [0.0; 12];
        assert_eq!(other.values().read(0..12, &mut memory), [2.0; 12]);
        // Nothing keeps it alive.
        drop(other);
        assert!(LAST.with_borrow(|last| last.as_ref().unwrap().rounded.upgrade().is_none()));
    }
}
