//! A network's features of images: one row of numbers per image.

use burn::tensor::{Device, Tensor, TensorData};

use crate::EvalError;

/// The features of a set of images, `[count, length]`, all of them finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    values: Vec<f32>,
    length: usize,
}

impl Features {
    /// Rows of `length` numbers, one after the other.
    ///
    /// # Errors
    /// [`EvalError::Features`] if they are not whole rows, or a number is not finite.
    pub fn new(values: Vec<f32>, length: usize) -> Result<Self, EvalError> {
        if length == 0 || !values.len().is_multiple_of(length) {
            let reason = format!("{} numbers do not make rows of {length}", values.len());
            return Err(EvalError::Features(reason));
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(place) => Err(EvalError::Features(format!(
                "those of image {} are not finite",
                place / length
            ))),
            None => Ok(Self { values, length }),
        }
    }

    /// The rows of a tensor `[count, length]`.
    ///
    /// # Errors
    /// Those of [`Self::new`], and [`EvalError::Compute`] if the device fails.
    pub fn from_tensor(rows: Tensor<2>) -> Result<Self, EvalError> {
        let [_, length] = rows.dims();
        Self::new(
            rows.try_into_data_as::<f32>()?.iter::<f32>().collect(),
            length,
        )
    }

    /// How many images there are.
    pub fn count(&self) -> usize {
        self.values.len() / self.length
    }

    /// How many numbers an image has.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The rows, one after the other.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Image by image.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.length)
    }

    /// Adds the images of `other` at the end.
    ///
    /// # Errors
    /// [`EvalError::Lengths`] if they have another length.
    pub fn append(&mut self, other: Self) -> Result<(), EvalError> {
        self.check_length(&other)?;
        self.values.extend(other.values);
        Ok(())
    }

    /// The first `count` images, or as many as there are.
    pub fn first(&self, count: usize) -> Self {
        let end = count.min(self.count()) * self.length;
        Self {
            values: self.values[..end].to_vec(),
            length: self.length,
        }
    }

    /// The images with these numbers; numbers out of range are ignored.
    pub(crate) fn select(&self, images: &[u32]) -> Self {
        let row = |&image: &u32| self.rows().nth(image as usize);
        Self {
            values: images.iter().filter_map(row).flatten().copied().collect(),
            length: self.length,
        }
    }

    /// `[count, length]` on the CPU, where all distances are computed.
    pub(crate) fn to_tensor(&self) -> Tensor<2> {
        let data = TensorData::new(self.values.clone(), [self.count(), self.length]);
        Tensor::from_data(data, &Device::flex())
    }

    pub(crate) fn check_length(&self, other: &Self) -> Result<(), EvalError> {
        let (left, right) = (self.length, other.length);
        (left == right)
            .then_some(())
            .ok_or(EvalError::Lengths { left, right })
    }

    pub(crate) fn at_least(&self, needed: usize, what: &'static str) -> Result<(), EvalError> {
        let given = self.count();
        (given >= needed).then_some(()).ok_or(EvalError::TooFew {
            what,
            given,
            needed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole_and_finite() {
        assert!(Features::new(vec![0.0; 5], 2).is_err());
        assert!(Features::new(vec![], 0).is_err());
        let error = Features::new(vec![0.0, 1.0, f32::NAN, 3.0], 2).unwrap_err();
        assert!(error.to_string().contains("image 1"), "{error}");
    }

    #[test]
    fn selecting_follows_the_order_asked_for() {
        let features = Features::new(vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 2).unwrap();
        assert_eq!(features.select(&[2, 0, 9]).values(), [4.0, 5.0, 0.0, 1.0]);
        assert_eq!(features.first(2).count(), 2);
        assert_eq!(features.first(7), features);
        let shorter = Features::new(vec![0.0], 1).unwrap();
        assert!(features.clone().append(shorter).is_err());
    }
}
