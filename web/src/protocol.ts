// Written by a test of kiln-play from protocol.rs.

export type Question = { 
/**
 * Chosen by the page.
 */
id: number, 
/**
 * What is asked.
 */
ask: Ask, };

export type Ask = { "what": "models" } | { "what": "runs" } | { "what": "run", 
/**
 * One of the names in [`Answer::Runs`].
 */
run: string, } | { "what": "run-picture", 
/**
 * The run.
 */
run: string, 
/**
 * The name of the stage.
 */
stage: string, 
/**
 * After so many training steps.
 */
step: number, } | { "what": "examine", 
/**
 * The run.
 */
run: string, } | { "what": "model", 
/**
 * One of the names in [`Answer::Models`].
 */
model: string, } | { "what": "draw", 
/**
 * The model that draws.
 */
model: string, 
/**
 * How.
 */
drawing: Drawing, 
/**
 * What to show of the steps before the last one.
 */
watch: Watch, } | { "what": "walk", 
/**
 * The model that draws.
 */
model: string, 
/**
 * How; its `count` and `classes` do not matter.
 */
drawing: Drawing, 
/**
 * The number of the image under the seed.
 */
image: number, 
/**
 * Its class.
 */
class: number | null, } | { "what": "schedule", 
/**
 * The schedule, as in a config's `[schedule]`.
 */
schedule: Record<string, unknown>, 
/**
 * The number of steps.
 */
steps: number, 
/**
 * Which timesteps they visit.
 */
spacing: string, } | { "what": "noised", 
/**
 * Of the picture behind the question.
 */
given: Sheet, 
/**
 * The share of the image, from 0 to 1.
 */
signal_rate: number, 
/**
 * The amount of noise, from 0 to 1.
 */
noise_rate: number, 
/**
 * Of the noise.
 */
seed: number, } | { "what": "encode", 
/**
 * The model whose first stage it is.
 */
model: string, 
/**
 * Of the picture behind the question.
 */
given: Sheet, } | { "what": "decode-codes", 
/**
 * The model whose first stage it is.
 */
model: string, 
/**
 * As in [`Answer::Encoded`].
 */
codes: Array<number>, } | { "what": "redraw", 
/**
 * The model that draws.
 */
model: string, 
/**
 * How.
 */
drawing: Drawing, 
/**
 * What to show of the steps before the last one.
 */
watch: Watch, 
/**
 * Of the picture behind the question.
 */
given: Sheet, 
/**
 * How much of the walk is done again, from 0 to 1.
 */
strength: number, } | { "what": "inpaint", 
/**
 * The model that draws.
 */
model: string, 
/**
 * How.
 */
drawing: Drawing, 
/**
 * Of the two pictures behind the question.
 */
given: Sheet, } | { "what": "invert", 
/**
 * The model that draws.
 */
model: string, 
/**
 * How; without guidance unless it has some, because few images come back from a guided walk.
 */
drawing: Drawing, 
/**
 * Of the picture behind the question.
 */
given: Sheet, 
/**
 * How often each step is mended, from 0 to 16.
 */
refinements: number, } | { "what": "between", 
/**
 * The model that draws.
 */
model: string, 
/**
 * How; its `seed` and `count` do not matter.
 */
drawing: Drawing, 
/**
 * The seeds of the noises at the corners: top left, top right, bottom left, bottom right.
 */
corners: [number, number, number, number], 
/**
 * Where the images are: how far across and how far down, from 0 to 1.
 */
places: Array<[number, number]>, } | { "what": "push", 
/**
 * The model that draws.
 */
model: string, 
/**
 * How.
 */
drawing: Drawing, 
/**
 * The number of the image under the seed.
 */
image: number, 
/**
 * Its class.
 */
class: number | null, } | { "what": "losses", 
/**
 * The model.
 */
model: string, 
/**
 * Of the pictures behind the question.
 */
given: Sheet, 
/**
 * The class of each picture, for a model with classes.
 */
classes: Array<number>, 
/**
 * How many levels, evenly over the timesteps.
 */
levels: number, } | { "what": "nearest", 
/**
 * The model that was trained on them.
 */
model: string, 
/**
 * Of the picture behind the question.
 */
given: Sheet, 
/**
 * How many.
 */
count: number, };

export type Drawing = { 
/**
 * The seed of the noise.
 */
seed: number, 
/**
 * The number of images, of each class where there are classes.
 */
count?: number, 
/**
 * The number of the first image under the seed, if not 0.
 */
first?: number, 
/**
 * Denoising steps.
 */
steps?: number, 
/**
 * The sampler with its settings, as in a config's `sampling.sampler`.
 */
sampler?: { kind: string } & Record<string, unknown>, 
/**
 * Which timesteps are visited.
 */
spacing?: string, 
/**
 * The scale of the guidance: 1 is none.
 */
guidance?: number, 
/**
 * The noise rates with guidance.
 */
guidance_interval?: [number, number], 
/**
 * The classes to draw, by number.
 */
classes?: Array<number>, };

export type Watch = "nothing" | "noisy" | "clean";

export type Sheet = { 
/**
 * Where the first picture begins, in bytes.
 */
at: number, 
/**
 * How many there are.
 */
count: number, 
/**
 * Pixels from left to right.
 */
width: number, 
/**
 * Pixels from top to bottom.
 */
height: number, };

export type Answered = { 
/**
 * That of the question.
 */
id: number, 
/**
 * What is told.
 */
answer: Answer, };

export type Answer = { "what": "models", 
/**
 * The best one to begin with comes first.
 */
models: Array<ModelName>, } | { "what": "runs", 
/**
 * The best one to begin with comes first.
 */
runs: Array<RunName>, } | { "what": "run" } & RunFacts | { "what": "file", 
/**
 * As in `image/png`.
 */
kind: string, } | { "what": "findings", 
/**
 * Nothing, or some sentences: what is wrong, and what to do.
 */
findings: Array<[string, string]>, } | { "what": "model" } & ModelFacts | { "what": "moment", 
/**
 * Steps done.
 */
step: number, 
/**
 * All steps.
 */
steps: number, 
/**
 * How often all these steps call a network, with the calls of a guide.
 */
calls: number, 
/**
 * The number of the first of these images among all of the drawing.
 */
first: number, 
/**
 * The images.
 */
images: Sheet, } | { "what": "walk", 
/**
 * The levels from noise on, one more than steps; the last one has no noise.
 */
levels: Array<LevelAt>, 
/**
 * The noisy image at each level.
 */
noisy: Sheet, 
/**
 * The clean image that the network sees there; from the second level on, what it saw at the level before.
 */
clean: Sheet, 
/**
 * The channels of the noisy latents side by side, at each level; absent for a model of pixels.
 */
noisy_latents: Sheet | null, 
/**
 * The same of the clean ones.
 */
clean_latents: Sheet | null, } | { "what": "schedule", 
/**
 * Its levels from clean to noise, some hundred of them.
 */
curve: Array<LevelAt>, 
/**
 * Those that the drawing visits.
 */
visited: Array<LevelAt>, 
/**
 * What is wrong with it, if anything is.
 */
warning: string | null, } | { "what": "pictures", 
/**
 * The pictures.
 */
images: Sheet, } | { "what": "encoded", 
/**
 * The channels of its latents side by side.
 */
latents: Sheet, 
/**
 * The codes that stand in for them, row by row, if there is a codebook with one code for each latent.
 */
codes: Array<number>, 
/**
 * A colour for each code of the codebook, row by row: near codes have near colours.
 */
colours: Sheet | null, 
/**
 * The number of codes in the codebook; 0 without one.
 */
codebook: number, 
/**
 * What the decoder makes of them.
 */
reconstruction: Sheet, 
/**
 * How far it is from the picture at each pixel, amplified.
 */
difference: Sheet, 
/**
 * How much the difference is amplified.
 */
amplified: number, 
/**
 * The peak signal-to-noise ratio of the reconstruction, in dB.
 */
psnr: number, } | { "what": "push", 
/**
 * The levels of the walk, from noise on.
 */
levels: Array<LevelAt>, 
/**
 * The clean image that the network sees at each without guidance.
 */
alone: Sheet, 
/**
 * The clean image that it sees with guidance.
 */
guided: Sheet, 
/**
 * Their difference, amplified; middle gray is none.
 */
push: Sheet, 
/**
 * How much the difference is amplified.
 */
amplified: number, } | { "what": "inverted", 
/**
 * The channels of the noise side by side.
 */
noise: Sheet, 
/**
 * The standard deviation of its values: 1 for noise as the model knows it.
 */
deviation: number, 
/**
 * What is drawn from the noise.
 */
again: Sheet, 
/**
 * Its peak signal-to-noise ratio, in dB.
 */
psnr: number, 
/**
 * The same of what the first stage alone makes of the picture; absent for a model of pixels.
 */
psnr_of_first_stage: number | null, } | { "what": "losses", 
/**
 * At which levels.
 */
levels: Array<LevelAt>, 
/**
 * Mean squared error of the noise that it sees, at each level.
 */
noise: Array<number>, 
/**
 * Mean squared error of the clean latents that it sees.
 */
signal: Array<number>, } | { "what": "nearest", 
/**
 * The nearest one comes first.
 */
images: Sheet, 
/**
 * How far each is from the picture: the root of the mean squared difference of pixels, which lie from 0 to 1.
 */
distances: Array<number>, 
/**
 * The number of training images.
 */
of: number, 
/**
 * The data set.
 */
data: string, } | { "what": "done" } | { "what": "refused", 
/**
 * Why, in a sentence.
 */
sentence: string, };

export type ModelName = { 
/**
 * By which the page asks for it.
 */
model: string, 
/**
 * What the page calls it.
 */
title: string, };

export type RunName = { 
/**
 * By which the page asks for it.
 */
run: string, 
/**
 * What the page calls it.
 */
title: string, };

export type RunFacts = { 
/**
 * Its name.
 */
run: string, 
/**
 * Its `config.toml`.
 */
config: string, 
/**
 * The stages that have begun, in order.
 */
stages: Array<StageFacts>, };

export type StageFacts = { 
/**
 * `stage 1` or `stage 2`.
 */
stage: string, 
/**
 * The steps that the training takes.
 */
steps: number, 
/**
 * Those up to the newest row.
 */
done: number, 
/**
 * Where it computes, as in `cpu:2`, if it is known.
 */
devices: string | null, 
/**
 * The time of a step, if it is known.
 */
seconds_a_step: number | null, 
/**
 * The time since the newest row, if it is known.
 */
seconds_since: number | null, 
/**
 * What is wrong with the metrics, if they cannot be read.
 */
damage: string | null, 
/**
 * The metrics: a curve for each name, such as `loss/train`.
 */
curves: Array<Curve>, 
/**
 * The steps of the checkpoints that are there.
 */
checkpoints: Array<number>, 
/**
 * The steps of the pictures that are there.
 */
pictures: Array<number>, };

export type Curve = { 
/**
 * The metric, such as `loss/train`.
 */
name: string, 
/**
 * Steps and values.
 */
points: Array<[number, number]>, };

export type ModelFacts = { 
/**
 * Its name.
 */
model: string, 
/**
 * Channels of its images: 1 (gray) or 3.
 */
channels: number, 
/**
 * Pixels from left to right of its images.
 */
width: number, 
/**
 * Pixels from top to bottom.
 */
height: number, 
/**
 * `[channels, height, width]` of what is denoised.
 */
latents: [number, number, number], 
/**
 * diffusers' name for the class of its first stage; absent for a model of pixels.
 */
first_stage: string | null, 
/**
 * The number of codes in its codebook; 0 without one.
 */
codebook: number, 
/**
 * Weights of the denoising network.
 */
weights: number, 
/**
 * What the network predicts.
 */
prediction: string, 
/**
 * Its schedule, as in a config's `[schedule]`.
 */
schedule: Record<string, unknown>, 
/**
 * The names of its classes; none if it has no classes.
 */
classes: Array<string>, 
/**
 * Whether it can be guided.
 */
guided: boolean, 
/**
 * How it was distilled, if it was.
 */
distilled: string | null, 
/**
 * How it draws if it is not told otherwise.
 */
drawing: Drawing, 
/**
 * Facts about its training.
 */
training: Array<[string, string]>, };

export type LevelAt = { 
/**
 * What the network is told.
 */
timestep: number, 
/**
 * The share of the image.
 */
signal_rate: number, 
/**
 * The amount of noise.
 */
noise_rate: number, };
