//! Diffusion on tensors, without a network: schedules, predictions, samplers.
