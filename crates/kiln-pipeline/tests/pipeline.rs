//! The functions of `Pipeline` on images, with the digits model and, for classes, with a tiny one with random weights.

#[allow(dead_code, reason = "the program's tests use the rest of it")]
mod tiny;

use std::path::Path;

use burn::tensor::{Device, Tensor};
use kiln_checkpoint::DiffusionModel;
use kiln_diffusion::sampler::{InpaintOptions, Sampler};
use kiln_diffusion::{Denoised, Denoiser, Guidance, Level};
use kiln_pipeline::pictures::Images;
use kiln_pipeline::{
    Error, Interpolation, Moment, Pipeline, Precision, SampleOptions, Stops, Wanted,
};

fn digits() -> Pipeline {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../pretrained/mnist-many-steps"
    );
    Pipeline::load(Path::new(folder), &Device::flex()).unwrap()
}

fn options(pipeline: &Pipeline, steps: usize, count: usize) -> SampleOptions {
    SampleOptions {
        steps,
        count,
        ..pipeline.default_options()
    }
}

fn draw(pipeline: &Pipeline, options: &SampleOptions) -> Images {
    pipeline.sample(options).unwrap()
}

fn psnr(one: &Images, other: &Images) -> f64 {
    kiln_eval::mean_psnr(one.iter(), other.iter())
}

#[test]
fn interpolation_ends_are_the_samples_bit_for_bit() {
    let pipeline = digits();
    let of_seed = |seed| SampleOptions {
        seed,
        ..options(&pipeline, 5, 1)
    };
    let seeds = [3, 8, 5];
    for (is_loop, sampler) in [
        (false, Sampler::default()),
        (true, Sampler::default()),
        (false, Sampler::Consistency { segments: 1 }),
    ] {
        let of_seed = |seed| SampleOptions {
            sampler,
            ..of_seed(seed)
        };
        let interpolation = Interpolation { frames: 4, is_loop };
        let between = pipeline
            .interpolate(Stops::Seeds(&seeds), interpolation, &of_seed(0))
            .unwrap();
        assert_eq!(between.len(), if is_loop { 9 } else { 7 });
        for (stop, &seed) in seeds.iter().enumerate() {
            let sampled = draw(&pipeline, &of_seed(seed));
            assert_eq!(between.select([3 * stop]), sampled, "seed {seed}");
        }
        assert_ne!(between.select([1]), between.select([0]));
    }
}

#[test]
fn rounding_to_bf16_is_invisible() {
    if kiln_kernels::bf16_instructions().is_none() {
        return eprintln!("skipped: this processor multiplies bf16 numbers no faster than f32");
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../pretrained/flowers");
    let pipeline = Pipeline::load(Path::new(folder), &Device::flex()).unwrap();
    let [exact, rounded] = [Precision::F32, Precision::Bf16].map(|precision| {
        let options = SampleOptions {
            precision,
            ..options(&pipeline, 4, 16)
        };
        draw(&pipeline, &options)
    });
    // In steps of a byte; docs/performance.md says what 64 flowers gave.
    let differences = exact.iter().flatten().zip(rounded.iter().flatten());
    let differences: Vec<f32> = differences
        .map(|(exact, rounded)| 127.5 * (exact - rounded))
        .collect();
    let squares = differences.iter().map(|difference| difference * difference);
    let distance = (squares.sum::<f32>() / differences.len() as f32).sqrt();
    let largest = differences
        .iter()
        .fold(0.0f32, |largest, difference| largest.max(difference.abs()));
    assert!(
        distance > 0.01 && distance < 0.7 && largest < 6.0,
        "{distance}, at most {largest}"
    );
}

#[test]
fn a_sampler_of_ones_own_is_guided_as_the_model_is() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = plain_shapes(folder.path());
    let pipeline = pipeline.guided_by(tiny::worse()).unwrap();
    let options = SampleOptions {
        batch: 2,
        ..options(&pipeline, 5, 3)
    };
    assert_ne!(options.guidance.scale(), 1.0);
    let own = pipeline.sample_with(&options, |denoiser, noise, levels| {
        levels.array_windows().fold(noise, |z, [level, next]| {
            let Denoised { z0, noise } = denoiser.denoise(z, *level);
            next.rates.add_noise(z0, noise)
        })
    });
    let (own, ddim) = (own.unwrap(), draw(&pipeline, &options));
    assert_eq!(own.len(), 3);
    let pixels = own.values().iter().zip(ddim.values());
    let apart = pixels.fold(0.0, |most: f32, (own, ddim)| most.max((own - ddim).abs()));
    assert!(apart < 1e-4, "{apart}");
}

#[test]
fn a_denoiser_walked_by_hand_draws_the_image_of_its_number() {
    let pipeline = shapes();
    let options = SampleOptions {
        classes: vec![2],
        guidance: Guidance::new(2.0, [0.0, 1.0]).unwrap(),
        ..options(&pipeline, 4, 3)
    };
    let denoiser = pipeline.denoiser(&[Some(2)], &options).unwrap();
    let mut z = pipeline.noise(options.seed, 1);
    for [level, next] in pipeline.trajectory(&options).unwrap().array_windows() {
        let Denoised { z0, noise } = denoiser.denoise(z, *level);
        z = next.rates.add_noise(z0, noise);
    }
    let drawn = draw(&pipeline, &options).select([1]);
    assert!(psnr(&pipeline.decode(z).unwrap(), &drawn) > 50.0);
    let error = pipeline.denoiser(&[Some(3)], &options).err().unwrap();
    assert!(matches!(error, Error::NoSuchClass { .. }), "{error}");
}

#[test]
fn images_are_drawn_by_number_and_class_in_the_order_asked_for() {
    let pipeline = shapes();
    let options = SampleOptions {
        batch: 2,
        ..options(&pipeline, 3, 4)
    };
    let all = draw(&pipeline, &options);
    let wanted = |image, class| Wanted { image, class };
    let asked = [(3, Some(2)), (0, None), (1, Some(0)), (3, Some(2))];
    let asked = asked.map(|(image, class)| wanted(image, class));
    let drawn = pipeline.sample_wanted(&asked, &options).unwrap();
    assert_eq!(drawn.len(), 4);
    for (place, of_all) in [(0, 2 * 4 + 3), (2, 1), (3, 2 * 4 + 3)] {
        let [one, other] = [drawn.select([place]), all.select([of_all])];
        assert!(psnr(&one, &other) > 50.0, "image {place}");
    }
    assert!(pipeline.sample_wanted(&[], &options).unwrap().is_empty());
    let refused = pipeline.sample_wanted(&[wanted(0, Some(3))], &options);
    assert!(matches!(refused, Err(Error::NoSuchClass { .. })));
}

#[test]
fn an_observer_sees_every_moment_and_can_end_the_drawing() {
    let pipeline = shapes();
    let options = SampleOptions {
        classes: vec![0],
        batch: 2,
        ..options(&pipeline, 3, 3)
    };
    let mut seen = Vec::new();
    let drawn = pipeline.sample(options.observed(&mut |moment| {
        seen.push((moment.steps_done, moment.latents.dims()[0]));
        Ok(())
    }));
    assert_eq!(drawn.unwrap(), draw(&pipeline, &options));
    let batch = |images| (0..4).map(move |step| (step, images));
    assert_eq!(seen, batch(2).chain(batch(1)).collect::<Vec<_>>());
    for last in 0..=3 {
        let mut seen = 0;
        let ended = pipeline.sample(options.observed(&mut |moment| {
            seen += 1;
            match moment.steps_done == last {
                true => Err(Error::Stopped),
                false => Ok(()),
            }
        }));
        assert!(matches!(ended, Err(Error::Stopped)) && seen == last + 1);
    }
}

#[test]
fn more_steps_agree_more() {
    let pipeline = digits();
    let latents = |steps| {
        let mut last = None;
        let mut keep = |moment: Moment<'_>| {
            last = Some(moment.latents.clone());
            Ok(())
        };
        let options = options(&pipeline, steps, 8);
        pipeline.sample(options.observed(&mut keep)).unwrap();
        last.unwrap()
    };
    let [few, more, most] = [25, 50, 100].map(latents);
    let distance = |one: &Tensor<4>, other: &Tensor<4>| -> f32 {
        (one.clone() - other.clone()).square().mean().into_scalar()
    };
    let (early, late) = (distance(&few, &more), distance(&more, &most));
    assert!(late < early, "{early} {late}");
}

#[test]
fn an_inverted_digit_is_drawn_again() {
    let pipeline = digits();
    let originals = draw(&pipeline, &options(&pipeline, 50, 8));
    let options = options(&pipeline, 50, 8);
    let best = pipeline
        .decode(pipeline.encode(&originals).unwrap())
        .unwrap();
    let psnr_after = |refinements| {
        let noises = pipeline.invert(&originals, refinements, &options).unwrap();
        let again = pipeline.sample_from(noises, &options).unwrap();
        (psnr(&originals, &again), psnr(&best, &again))
    };
    let (plain, refined) = (psnr_after(0), psnr_after(5));
    println!(
        "plain {plain:?} refined {refined:?}, best {}",
        psnr(&originals, &best)
    );
    assert!(
        refined.0 > 20.0 && refined.1 > 20.0,
        "{plain:?} {refined:?}"
    );
    assert!(refined.1 > plain.1, "{plain:?} {refined:?}");
}

#[test]
fn an_image_is_inverted_in_any_batch() {
    let pipeline = digits();
    let originals = draw(&pipeline, &options(&pipeline, 5, 3));
    let invert = |batch| {
        let options = SampleOptions {
            batch,
            ..options(&pipeline, 5, 0)
        };
        pipeline.invert(&originals, 1, &options).unwrap()
    };
    let difference = (invert(3) - invert(1)).abs().max().into_scalar::<f32>();
    assert!(difference < 1e-4, "{difference}");
    let none = originals.select([]);
    let nothing = pipeline
        .invert(&none, 1, &options(&pipeline, 5, 0))
        .unwrap();
    assert_eq!(nothing.dims(), [0, 4, 8, 8]);
}

#[test]
fn strength_goes_from_the_image_to_a_new_one() {
    let pipeline = digits();
    let original = draw(&pipeline, &options(&pipeline, 20, 1));
    let options = SampleOptions {
        seed: 5,
        precision: Precision::F32,
        ..options(&pipeline, 20, 4)
    };
    let at = |strength| {
        pipeline
            .image_to_image(&original, strength, &options)
            .unwrap()
    };
    let kept = at(0.0);
    let reconstruction = pipeline
        .decode(pipeline.encode(&original).unwrap())
        .unwrap();
    assert_eq!(kept.select([3]), reconstruction);
    assert_eq!(at(1.0), draw(&pipeline, &options));
    // Less and less of the image is left.
    let repeated = original.select([0; 4]);
    let left = [0.0, 0.3, 0.6, 1.0].map(|strength| psnr(&repeated, &at(strength)));
    assert!(left.is_sorted_by(|little, much| little > much), "{left:?}");
    for strength in [-0.1, 1.1, f64::NAN] {
        let drawn = pipeline.image_to_image(&original, strength, &options);
        assert!(matches!(drawn, Err(Error::Diffusion(_))));
    }
}

/// White in the lower half of 28x28 pixels.
fn lower_half() -> Images {
    let mut mask = Images::empty(1, 28, 28);
    let pixels = (0..28 * 28).map(|pixel| if pixel < 14 * 28 { -1.0 } else { 1.0 });
    mask.extend(&pixels.collect::<Vec<f32>>());
    mask
}

#[test]
fn inpainting_leaves_what_is_known_bit_for_bit() {
    let pipeline = digits();
    let original = draw(&pipeline, &options(&pipeline, 20, 1));
    for resamplings in [0, 1] {
        let inpaint_options = InpaintOptions {
            resamplings,
            jump: 5,
            ..Default::default()
        };
        let options = SampleOptions {
            seed: 2,
            ..options(&pipeline, 20, 3)
        };
        let filled = pipeline
            .inpaint(&original, &lower_half(), inpaint_options, &options)
            .unwrap();
        let lower = 14 * 28;
        for image in filled.iter() {
            assert_eq!(image[..lower], original.values()[..lower]);
            assert_ne!(image[lower..], original.values()[lower..]);
        }
        assert_ne!(filled.select([0]), filled.select([1]));
        // Each filling is the same when drawn alone.
        let alone = SampleOptions {
            batch: 1,
            ..options
        };
        let again = pipeline
            .inpaint(&original, &lower_half(), inpaint_options, &alone)
            .unwrap();
        assert!(psnr(&filled, &again) > 50.0);
    }
}

#[test]
fn images_of_another_shape_are_refused() {
    let pipeline = digits();
    let mut colour = Images::empty(3, 28, 28);
    colour.extend(&[0.0; 3 * 28 * 28]);
    assert!(matches!(
        pipeline.encode(&colour),
        Err(Error::ImageShape { .. })
    ));
    let mut small = Images::empty(1, 14, 28);
    small.extend(&[0.0; 14 * 28]);
    let original = draw(&pipeline, &options(&pipeline, 1, 1));
    let options = options(&pipeline, 1, 1);
    let filled = pipeline.inpaint(&original, &small, InpaintOptions::default(), &options);
    let message = filled.unwrap_err().to_string();
    assert!(
        message.contains("28x14") && message.contains("28x28"),
        "{message}"
    );
}

fn shapes() -> Pipeline {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    tiny::conditional().save(&path, Default::default()).unwrap();
    Pipeline::load(&path, &Device::flex()).unwrap()
}

#[test]
fn a_class_has_as_many_images_whichever_others_are_asked_for() {
    let with_count = |mut model: DiffusionModel, count| {
        model.metadata.sampling_count = count;
        Pipeline::from_model("tiny".to_owned(), model, &Device::flex()).unwrap()
    };
    // As the model was trained to show them: a picture of 24 images has rows of 8 for its three classes.
    let known = with_count(tiny::conditional(), Some(24));
    assert_eq!(
        [1, 2, 3].map(|classes| known.default_count(classes)),
        [8; 3]
    );
    assert_eq!(known.default_options().count, 8);
    let unknown = with_count(tiny::conditional(), None);
    assert_eq!(
        [1, 3].map(|classes| unknown.default_count(classes)),
        [64, 8]
    );
    assert_eq!(with_count(tiny::model(), Some(24)).default_count(0), 24);
}

#[test]
fn every_class_has_its_images_from_the_same_noises() {
    let pipeline = shapes();
    let classes = pipeline.classes().unwrap();
    assert_eq!((classes.count(), classes.has_null_class()), (3, true));
    let all = draw(&pipeline, &options(&pipeline, 4, 2));
    assert_eq!(all.len(), 3 * 2);
    for class in 0..3 {
        let alone = SampleOptions {
            classes: vec![class],
            count: 5,
            batch: 2,
            ..options(&pipeline, 4, 2)
        };
        let alone = draw(&pipeline, &alone);
        let row = all.select([2 * class, 2 * class + 1]);
        assert!(psnr(&alone.first(2), &row) > 50.0, "class {class}");
    }
    assert_ne!(
        all.select([0]),
        all.select([2]),
        "another class, another image"
    );
}

#[test]
fn guidance_changes_images_between_its_noise_rates_alone() {
    let pipeline = shapes();
    let draw = |scale, interval| {
        let options = SampleOptions {
            guidance: Guidance::new(scale, interval).unwrap(),
            classes: vec![1],
            ..options(&pipeline, 8, 3)
        };
        draw(&pipeline, &options)
    };
    let plain = draw(1.0, [0.0, 1.0]);
    assert_ne!(draw(3.0, [0.0, 1.0]), plain);
    // There is no level without any noise.
    assert_eq!(draw(3.0, [0.0, 1e-6]), plain);
    // With guidance 0 the class does not matter.
    let null = SampleOptions {
        classes: Vec::new(),
        ..options(&pipeline, 8, 3)
    };
    let unconditional = pipeline.sample(&null).unwrap();
    assert!(psnr(&draw(0.0, [0.0, 1.0]), &unconditional) > 50.0);
}

/// A model without classes and without a guide.
fn plain_shapes(folder: &Path) -> Pipeline {
    let path = folder.join("plain");
    tiny::model().save(&path, Default::default()).unwrap();
    Pipeline::load(&path, &Device::flex()).unwrap()
}

#[test]
fn a_worse_version_of_the_model_guides_it_by_default() {
    let folder = tempfile::tempdir().unwrap();
    let at = |scale| SampleOptions {
        guidance: Guidance::new(scale, [0.0, 1.0]).unwrap(),
        ..options(&plain_shapes(folder.path()), 8, 3)
    };
    let plain = plain_shapes(folder.path());
    assert_eq!(plain.default_options().guidance, Guidance::default());

    let alone = draw(&plain, &at(1.0));
    let guided = plain.guided_by(tiny::worse()).unwrap();
    assert_eq!(guided.default_options().guidance.scale(), 2.0);
    assert_eq!(draw(&guided, &at(1.0)), alone);
    assert_ne!(draw(&guided, &at(2.0)), alone);
    // At scale 0 the guide draws.
    let worse = Pipeline::from_model("worse".into(), tiny::worse(), &Device::flex()).unwrap();
    let of_guide = draw(&worse, &at(1.0));
    assert!(psnr(&draw(&guided, &at(0.0)), &of_guide) > 50.0);
}

/// A drawing embeds the levels of its trajectory in advance, and a denoiser alone none.
#[test]
fn levels_that_are_known_in_advance_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let plain = || plain_shapes(folder.path());
    let guided = plain().guided_by(tiny::worse()).unwrap();
    let above_some_noise = Guidance::new(2.0, [0.6, 1.0]).unwrap();
    for (pipeline, guidance, classes) in [
        (plain(), Guidance::default(), vec![]),
        (guided, above_some_noise, vec![]),
        (shapes(), above_some_noise, vec![1]),
    ] {
        let options = SampleOptions {
            guidance,
            classes,
            ..options(&pipeline, 6, 2)
        };
        let walk = |denoiser: &dyn Denoiser, noise: Tensor<4>, levels: &[Level]| {
            levels.array_windows().fold(noise, |z, [level, next]| {
                // Off the trajectory, too.
                let between = Level {
                    timestep: level.timestep + 0.25,
                    ..*level
                };
                let z0 = denoiser.denoise(z.clone(), between).z0;
                let noise = denoiser.denoise(z, *level).noise;
                next.rates.add_noise(z0, noise)
            })
        };
        let class = options.classes.first().copied();
        let alone = pipeline.denoiser(&[class; 2], &options).unwrap();
        let by_hand =
            |_: &dyn Denoiser, noise: Tensor<4>, levels: &[Level]| walk(&alone, noise, levels);
        let drawn = pipeline.sample_with(&options, walk).unwrap();
        assert_eq!(drawn, pipeline.sample_with(&options, by_hand).unwrap());
        let smaller_batches = SampleOptions {
            batch: 1,
            ..options.clone()
        };
        assert!(
            psnr(
                &pipeline.sample_with(&smaller_batches, walk).unwrap(),
                &drawn
            ) > 50.0
        );
    }
}

#[test]
fn a_guide_knows_the_classes_of_its_model() {
    let folder = tempfile::tempdir().unwrap();
    let guided = shapes().guided_by(tiny::conditional()).unwrap();
    // The model draws without guidance, class by class.
    let of_each = SampleOptions {
        classes: vec![0, 2],
        ..options(&guided, 4, 2)
    };
    let unguided = SampleOptions {
        guidance: Guidance::default(),
        ..of_each.clone()
    };
    assert!(psnr(&draw(&guided, &of_each), &draw(&guided, &unguided)) > 50.0);

    let error = plain_shapes(folder.path());
    let error = error.guided_by(tiny::conditional()).err().unwrap();
    assert!(error.to_string().contains("classes"), "{error}");
}

#[test]
fn what_a_model_cannot_draw_is_refused() {
    let conditional = shapes();
    let refused = |pipeline: &Pipeline, classes: &[usize], scale: f64| {
        let options = SampleOptions {
            classes: classes.to_vec(),
            guidance: Guidance::new(scale, [0.0, 1.0]).unwrap(),
            ..options(pipeline, 1, 1)
        };
        pipeline.sample(&options).unwrap_err()
    };
    let error = refused(&conditional, &[3], 1.0);
    assert!(matches!(error, Error::NoSuchClass { .. }), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let unconditional = plain_shapes(folder.path());
    let error = refused(&unconditional, &[0], 1.0);
    assert!(matches!(error, Error::NoClasses), "{error}");
    let error = refused(&unconditional, &[], 2.0);
    assert!(matches!(error, Error::NoGuide), "{error}");
}
