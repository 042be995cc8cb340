//! Trains both stages on Burn's Learner.
