//! Image data sets for kiln: MNIST, Flowers 102, CIFAR-10 and folders of images, as batches in [-1, 1].
