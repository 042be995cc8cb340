//! Weights that stay in a store.

mod common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Tensor};
use common::{numbers, tensor};
use kiln_kernels::{
    Convolution, Padding, Precision, Sampling, Store, can_stay_stored, for_one_use,
    pointwise_weight, tensor_in_store, with_exact_precision,
};

/// Numbers that can be read a few times.
#[derive(Default)]
struct Shelf {
    numbers: Vec<f32>,
    reads: AtomicUsize,
    most_reads: usize,
}

impl Store for Shelf {
    fn read(&self, numbers: &mut [f32]) -> io::Result<()> {
        if self.reads.fetch_add(1, Ordering::Relaxed) == self.most_reads {
            return Err(io::Error::other("the shelf is empty"));
        }
        numbers.copy_from_slice(&self.numbers);
        Ok(())
    }
}

impl Shelf {
    fn of<const D: usize>(weight: &Tensor<D>) -> Arc<Self> {
        Arc::new(Self {
            numbers: numbers(weight),
            most_reads: usize::MAX,
            ..Self::default()
        })
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

fn convolved(images: &Tensor<4>, weight: &Tensor<4>) -> Vec<f32> {
    let padding = Padding::uniform(weight.dims()[2] / 2);
    let sampling = Sampling::Strided { stride: 1, padding };
    numbers(&Convolution::new(images.clone(), weight.clone(), sampling).forward())
}

#[test]
fn a_convolution_reads_its_weights_once_and_does_not_keep_them() {
    let device = Device::flex();
    assert!(can_stay_stored(&device) && !can_stay_stored(&device.clone().autodiff()));
    for channels in [[16, 32], [5, 7]] {
        let [channels_in, channels_out] = channels;
        let images = |size| tensor([2, size, size, channels_in], 1, &device);
        let weight: Tensor<4> = tensor([channels_out, channels_in, 3, 3], 2, &device);
        let shelf = Shelf::of(&weight);
        let stored: Tensor<4> = tensor_in_store(shelf.clone(), weight.dims(), &device);
        assert_eq!(stored.dims(), weight.dims());
        assert_eq!(shelf.reads(), 0, "nothing wanted them");

        for _ in 0..3 {
            assert_eq!(
                convolved(&images(8), &stored),
                convolved(&images(8), &weight)
            );
        }
        assert_eq!(shelf.reads(), 1, "the order is kept");
        // Another order.
        with_exact_precision(Precision::Bf16, || {
            assert_eq!(
                convolved(&images(6), &stored),
                convolved(&images(6), &weight)
            );
        });
        assert_eq!(shelf.reads(), 2);
        assert_eq!(numbers(&for_one_use(stored.clone())), numbers(&weight));
        assert_eq!(shelf.reads(), 3);

        // Burn's operations keep them.
        let sum = |weight: &Tensor<4>| numbers(&(weight.clone() + 1.0));
        assert_eq!(sum(&stored), sum(&weight));
        assert_eq!(sum(&stored), sum(&weight));
        assert_eq!(shelf.reads(), 4);
        assert_eq!(numbers(&stored), numbers(&weight), "unchanged");
        assert_eq!(
            convolved(&images(4), &stored),
            convolved(&images(4), &weight)
        );
        assert_eq!(shelf.reads(), 4, "they are in memory");
    }
}

#[test]
fn layers_side_by_side_read_theirs_once() {
    let device = Device::flex();
    let layer = |index: usize| tensor([24, 8 * (1 + index)], index as u64, &device);
    let layers: Vec<Tensor<2>> = (0..3).map(layer).collect();
    let shelves: Vec<Arc<Shelf>> = layers.iter().map(Shelf::of).collect();
    let stored: Vec<Tensor<2>> = (shelves.iter().zip(&layers))
        .map(|(shelf, layer)| tensor_in_store(shelf.clone(), layer.dims(), &device))
        .collect();
    let images = tensor([1, 8, 8, 24], 9, &device);
    let expected = convolved(&images, &pointwise_weight(layers));
    for _ in 0..2 {
        let weight = pointwise_weight(stored.clone());
        assert_eq!(convolved(&images, &weight), expected);
    }
    assert!(shelves.iter().all(|shelf| shelf.reads() == 1));
}

#[test]
fn a_store_is_given_up_with_its_model() {
    let device = Device::flex();
    let images = tensor([1, 4, 4, 16], 1, &device);
    let used = |seed| {
        let [kernel, layer] = [
            tensor([256, 16], seed, &device),
            tensor([16, 256], seed, &device),
        ];
        let shelves = [&kernel, &layer].map(Shelf::of);
        let kernel = tensor_in_store(shelves[0].clone(), [256, 16, 1, 1], &device);
        let layer: Tensor<2> = tensor_in_store(shelves[1].clone(), [16, 256], &device);
        for _ in 0..2 {
            convolved(&images, &kernel);
            convolved(&images, &pointwise_weight(vec![layer.clone()]));
        }
        shelves
    };
    let first = used(1);
    // Others that come and go.
    for seed in 2..5 {
        used(seed);
    }
    assert_eq!(first.map(|shelf| Arc::strong_count(&shelf)), [1, 1]);
}

#[test]
#[should_panic(expected = "the model cannot be used any more: the shelf is empty")]
fn a_store_that_is_gone_is_told() {
    let device = Device::flex();
    let shelf = Arc::new(Shelf::default());
    let weight = tensor_in_store(shelf, [16, 16, 1, 1], &device);
    let _ = convolved(&tensor([1, 4, 4, 16], 1, &device), &weight);
}
