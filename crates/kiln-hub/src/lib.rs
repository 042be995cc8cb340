//! The diffusers layout on disk.
