//! Whether a distilled model draws as it was distilled to, and near its teacher.

use kiln::pictures::Images;
use kiln::{Pipeline, SampleOptions};
use kiln_checkpoint::DiffusionModel;
use kiln_diffusion::sampler::Sampler;
use kiln_diffusion::{Guidance, Spacing};
use kiln_train::sampler_of_students;

use super::finding::{Finding, Findings};
use super::patient::Patient;

/// More steps than a student should need.
const MANY: usize = 8;
/// Images that student and teacher draw from the same noise, and the teacher's steps.
const IMAGES: usize = 16;
const TEACHER_STEPS: usize = 50;
/// From this share of the distance between two of the teacher's images on, the student's image is another one. A mean of all
/// images has about 0.7; a student of the digits had 0.34 after 2,000 training steps.
const FAR: f64 = 0.6;

pub(super) fn check(patient: &Patient) -> Findings {
    let student = patient.model.as_ref().ok_or("there is no trained U-Net")?;
    let method = student.metadata.distilled_by();
    let method = method.ok_or("the model was not distilled (`kiln distill`)")?;
    let mut findings = Vec::new();
    let scheduler = &student.scheduler;
    let segments = scheduler.sampler.segments();
    let right = sampler_of_students(method);
    if scheduler.sampler.name() != right {
        findings.push(Finding::warning(
            format!("a student of {method} draws by {} by default", scheduler.sampler.name()),
            format!("draw with --sampler {right}, or set sampling.sampler = \"{right}\" and distil again"),
        ));
    }
    if scheduler.levels.spacing != Spacing::Trailing {
        findings.push(Finding::warning(
            format!(
                "a student draws at {} timesteps by default, and has learnt the trailing ones",
                scheduler.levels.spacing.name()
            ),
            "draw with --spacing trailing",
        ));
    }
    let steps = student.metadata.sampling_steps.unwrap_or(TEACHER_STEPS);
    if let Some(segments) = segments.filter(|&segments| segments > steps) {
        findings.push(Finding::warning(
            format!(
                "a student draws in {steps} steps by default, and has learnt {segments} segments"
            ),
            format!(
                "draw with --steps {segments}, or set sampling.steps = {segments} and distil again"
            ),
        ));
    } else if steps > MANY {
        findings.push(Finding::warning(
            format!(
                "a student draws in {steps} steps by default, and was distilled to need 1 to {MANY}"
            ),
            "draw with --steps 4, or set sampling.steps = 4 and distil again",
        ));
    }
    if let Some(teacher) = &patient.teacher {
        findings.push(beside(student, teacher, patient));
    }
    Ok(findings)
}

/// How near the student draws to its teacher, or why that cannot be said.
fn beside(student: &DiffusionModel, teacher: &DiffusionModel, patient: &Patient) -> Finding {
    if matches!(student.scheduler.sampler, Sampler::Ddpm { .. }) {
        return Finding::note(
            "it draws with fresh noise, so its images are others than its teacher's: compare both by `kiln evaluate`",
        );
    }
    let steps = fewest_steps(student);
    let share = match distance_to_teacher(student, teacher, patient, steps) {
        Ok(share) => share,
        Err(reason) => {
            return Finding::warning(
                format!("the student cannot be compared with this teacher: {reason}"),
                "give the model that it was distilled from, with its guide if it had one",
            );
        }
    };
    let found = format!(
        "in {steps} step{} the student draws images that are {share:.2} times as far from its teacher's as those are from each other",
        if steps == 1 { "" } else { "s" }
    );
    match share < FAR {
        true => Finding::note(found),
        false => Finding::warning(
            found,
            "distil for longer, or with a lower learning_rate if all its images are alike, and check that this is its teacher",
        ),
    }
}

/// The fewest steps in which the student has learnt to follow its teacher: one for each segment. A progressive student
/// has learnt its own number of steps only.
fn fewest_steps(student: &DiffusionModel) -> usize {
    let segments = student.scheduler.sampler.segments();
    segments.or(student.metadata.sampling_steps).unwrap_or(1)
}

/// The mean distance of the student's images in `steps` steps from the teacher's in many, of the same noise, in units of the
/// distance between two images of the teacher.
fn distance_to_teacher(
    student: &DiffusionModel,
    teacher: &DiffusionModel,
    patient: &Patient,
    steps: usize,
) -> Result<f64, String> {
    let open = |model: &DiffusionModel| {
        let name = patient.name.clone();
        let pipeline = Pipeline::from_model(name, model.clone(), &patient.device);
        pipeline.map_err(|error| error.to_string())
    };
    let (student, teacher) = (open(student)?, open(teacher)?);
    if student.image_shape() != teacher.image_shape() {
        return Err("the teacher draws images of another shape".to_owned());
    }
    let draw = |pipeline: &Pipeline, steps: usize, guidance: Option<Guidance>| {
        let own = pipeline.default_options();
        let options = SampleOptions {
            steps,
            sampler: Sampler::default(),
            count: IMAGES,
            classes: own.classes.iter().copied().take(1).collect(),
            guidance: guidance.unwrap_or(own.guidance),
            ..own
        };
        pipeline.sample(&options)
    };
    let learnt = student.model().metadata.guidance_learnt();
    let few = draw(&student, steps, None).map_err(|error| error.to_string())?;
    let many = draw(&teacher, TEACHER_STEPS, learnt);
    let many = many.map_err(|error| {
        format!("it cannot draw with what the student has learnt of its teacher: {error}")
    })?;
    Ok(distance(&few, &many, 0) / distance(&many, &many, 1))
}

/// The mean distance of the pixels of each image of `one` from the image of `other` that comes `later` places after it.
fn distance(one: &Images, other: &Images, later: usize) -> f64 {
    let others: Vec<&[f32]> = other.iter().collect();
    let distances = one.iter().enumerate().map(|(place, image)| {
        let other = others[(place + later) % others.len()];
        let squares = image
            .iter()
            .zip(other)
            .map(|(x, y)| f64::from(x - y).powi(2));
        (squares.sum::<f64>() / image.len() as f64).sqrt()
    });
    distances.sum::<f64>() / one.len().max(1) as f64
}
