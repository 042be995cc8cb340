//! A call of the denoiser reuses the memory of the last one.

#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Distribution, Tensor};
use kiln_kernels::{Precision, with_exact_precision};
use kiln_models::UNet2dConfig;

/// Longer blocks count. Burn's descriptions of tensors are shorter.
const LARGE: usize = 16 << 10;

static LARGE_BLOCKS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(size: usize) {
    if size > LARGE {
        LARGE_BLOCKS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { System.dealloc(block, layout) }
    }
}

/// Blocks that each call takes.
fn calls(config: &UNet2dConfig, images: [usize; 4], precision: Precision) -> Vec<usize> {
    let device = Device::flex();
    let network = config.init(&device, 1).unwrap();
    let timesteps = (0..8).map(f64::from);
    let levels = network.embed_levels(timesteps.clone().map(|timestep| (timestep, 0.5)));
    let mut images = Tensor::<4>::random(images, Distribution::Default, &device);
    let call = |timestep| {
        let before = LARGE_BLOCKS.load(Ordering::Relaxed);
        images = with_exact_precision(precision, || {
            levels.forward_at(images.clone(), timestep, 0.5, None)
        });
        LARGE_BLOCKS.load(Ordering::Relaxed) - before
    };
    timesteps.map(call).collect()
}

#[test]
fn calls_after_the_second_take_no_memory_from_the_system() {
    // The working memory of several threads grows when one happens to get a larger part than before.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let pool = pool.unwrap();
    for (text, images) in [
        (include_str!("../../../configs/mnist.toml"), [16, 4, 8, 8]),
        (
            include_str!("../../../configs/flowers.toml"),
            [4, 4, 16, 16],
        ),
        (
            include_str!("../../../configs/cifar10-ddpm.toml"),
            [1, 3, 32, 32],
        ),
    ] {
        let table: toml::Table = toml::from_str(text).unwrap();
        let config: UNet2dConfig = table["unet"].clone().try_into().unwrap();
        for precision in [Precision::F32, Precision::Bf16] {
            let blocks = pool.install(|| calls(&config, images, precision));
            assert!(
                blocks[0] > 0 && blocks[2..].iter().all(|blocks| *blocks == 0),
                "{images:?} in {precision:?}: {blocks:?}"
            );
        }
    }
}
