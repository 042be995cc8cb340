//! Samplers: functions that walk a denoiser from noise to an image.
//!
//! Each is one function of (denoiser, noise, levels, options) that reads like its paper's algorithm; [`Sampler`] is the
//! choice between them as a value. They know nothing about networks or about how noise is drawn: fresh noise comes from
//! a closure that gets the step, counted from 1 (step 0 is the noise that the walk starts from), such as
//! [`ImageNoise::draw`](crate::noise::ImageNoise::draw).
//!
//! | sampler | order | network calls per step | random |
//! | --- | --- | --- | --- |
//! | [`ddim`] | 1 | 1 | with `eta` > 0 |
//! | [`ddpm`] | 1 | 1 | yes |
//! | [`euler`] | 1 | 1 | with `churn` > 0 |
//! | [`heun`] | 2 | 2 | with `churn` > 0 |
//! | [`second_order`] | 2 | 2 | no |
//! | [`adams_bashforth`] | 2 | 1 | no |
//! | [`pndm`] | 2, or 3 where levels are even in sigma | 1 (the first step 2) | no |
//! | [`dpm_solver`] | 2 | 1 | with `eta` > 0 |
//! | [`unipc`] | 3 | 1 | no |
//! | [`consistency`] | for distilled networks | 1 | with more steps than segments |
//!
//! Several papers write their methods for images that only grow noisier, x = z0 + sigma noise. They are our images
//! divided by the signal rate: x = z / a, sigma = b / a. Along such a path the noise is the slope, dx / dsigma = noise,
//! and the methods differ in the noise that they use for a whole step. Many schedules begin with (almost) no signal,
//! where sigma is infinite or falls by three orders of magnitude in a step. The mean of the slopes over such a step is
//! useless: [`heun`], [`second_order`] and [`pndm`] then use the angle between the levels instead.

mod adams_bashforth;
mod choice;
mod churn;
mod consistency;
mod ddim;
mod ddpm;
mod dpm_solver;
mod eta;
mod euler;
mod heun;
mod inpaint;
mod inversion;
mod pndm;
mod second_order;
mod slope;
mod step_taken;
mod turn;
mod unipc;

pub use adams_bashforth::adams_bashforth;
pub use choice::Sampler;
pub use churn::Churn;
pub use consistency::{consistency, end_of_segment};
pub use ddim::ddim;
pub use ddpm::{PosteriorMean, Variance, ddpm, step_variance};
pub use dpm_solver::dpm_solver;
pub use euler::euler;
pub use heun::heun;
pub use inpaint::{InpaintOptions, Known, inpaint, visits};
pub use inversion::invert;
pub use pndm::pndm;
pub use second_order::second_order;
pub use step_taken::StepTaken;
pub use unipc::unipc;
