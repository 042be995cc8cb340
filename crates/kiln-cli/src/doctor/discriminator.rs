//! Whether stage 1's discriminator helps its autoencoder.

use kiln_train::{DiscriminatorFinding, discriminator_findings};

use super::finding::{Finding, Findings};
use super::patient::Patient;

pub(super) fn check(patient: &Patient) -> Findings {
    let rows = patient.stage_1().map(|stage| &stage.rows);
    let rows = rows.ok_or("it needs stage 1's metrics.csv in a run folder")?;
    if !rows
        .values()
        .any(|row| row.contains_key("discriminator/train"))
    {
        return Err("stage 1 was trained without a discriminator".to_owned());
    }
    let findings = discriminator_findings(rows).into_iter();
    let finding = |DiscriminatorFinding { what, remedy, .. }| Finding::warning(what, remedy);
    Ok(findings.map(finding).collect())
}
