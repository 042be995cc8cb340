//! Every sampler, for tests that hold for all of them.

use kiln_diffusion::sampler::{Churn, Sampler, Variance};

/// Every sampler, and the settings that make it a different method.
pub fn samplers() -> Vec<Sampler> {
    let churn = Churn {
        amount: 2.0,
        sigma_min: 0.05,
        ..Churn::NONE
    };
    let (small, large) = (Variance::Small, Variance::Large);
    let further = [
        Sampler::Ddim {
            eta: 1.0,
            variance: small,
        },
        Sampler::Ddim {
            eta: 1.0,
            variance: large,
        },
        Sampler::Ddpm { variance: large },
        Sampler::Euler { churn },
        Sampler::Heun { churn },
        Sampler::SecondOrder { alpha: 1.0 },
        Sampler::AdamsBashforth { order: 4 },
        Sampler::DpmSolver { eta: 1.0 },
    ];
    Sampler::ALL.into_iter().chain(further).collect()
}
