/// A shard's position in the whole batch of an optimizer step.
///
/// A shard is the images that one device gets in one micro-batch. The shards of a step follow one another without gaps:
/// `first_image` of the next is `first_image + len` of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPosition {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the optimizer step.
    pub step: u64,
    /// Index in the whole batch of the shard's first image.
    pub first_image: usize,
    /// Images in the whole batch, over all devices and micro-batches.
    pub total_images: usize,
}
