//! How a training goes.

use std::time::Duration;

use super::pictures::Bytes;
use super::{Refusal, Shelf, Tell};
use crate::protocol::Answer;

/// From one answer to the next.
const PAUSE: Duration = Duration::from_secs(2);

/// Tells how a training goes, again and again, until the page leaves.
pub(super) fn follow(shelf: &impl Shelf, run: &str, tell: &mut Tell<'_>) -> Result<(), Refusal> {
    loop {
        let facts = known(run, shelf.run(run))?;
        tell.tell(Answer::Run(facts), Bytes::default())?;
        std::thread::sleep(PAUSE);
    }
}

/// Tells a picture of a training.
pub(super) fn picture(
    shelf: &impl Shelf,
    run: &str,
    stage: &str,
    step: u32,
    tell: &mut Tell<'_>,
) -> Result<(), Refusal> {
    let file = known(run, shelf.run_picture(run, stage, step))?;
    let kind = "image/png".to_owned();
    tell.tell(Answer::File { kind }, Bytes(file))
}

/// Tells what is wrong with a run.
pub(super) fn examine(shelf: &impl Shelf, run: &str, tell: &mut Tell<'_>) -> Result<(), Refusal> {
    let findings = known(run, shelf.examine(run))?;
    tell.tell(Answer::Findings { findings }, Bytes::default())
}

fn known<T>(run: &str, found: Option<Result<T, String>>) -> Result<T, Refusal> {
    let found = found.ok_or_else(|| format!("there is no run `{run}` here"));
    found.flatten().map_err(Refusal::Question)
}
