//! Which numbers are multiplied.

use std::cell::Cell;

/// The format of the numbers that convolutions multiply.
///
/// Weights, activations, normalisations, losses and gradients are `f32` in either case, and so are the sums of the
/// products: only their factors are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 24 significant bits.
    #[default]
    F32,
    /// "Brain floating point": the range of `f32` with 8 significant bits, a relative error of up to 1/256.
    Bf16,
}

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::F32) };
}

/// Runs `work`, in which convolutions multiply numbers of `precision`; and so do their gradients, whenever they are
/// taken.
///
/// What other frameworks call autocast. It goes for this thread, and for `f32` tensors on Flex: elsewhere the format
/// of the tensors decides.
pub fn with_precision<R>(precision: Precision, work: impl FnOnce() -> R) -> R {
    struct Restore(Precision);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(precision));
    work()
}

/// What the caller wants.
pub(crate) fn current() -> Precision {
    CURRENT.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precisions_nest_and_end_with_their_work() {
        with_precision(Precision::Bf16, || {
            with_precision(Precision::F32, || assert_eq!(current(), Precision::F32));
            assert_eq!(current(), Precision::Bf16);
        });
        let panics = std::panic::catch_unwind(|| with_precision(Precision::Bf16, || panic!("x")));
        assert!(panics.is_err());
        assert_eq!(current(), Precision::F32);
    }
}
