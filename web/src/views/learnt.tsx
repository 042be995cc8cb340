// What has it learnt: errors by level of noise, what guidance changes, and whether it copies its training images.

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import { useAnswer } from "../answers";
import { drawingOf } from "../drawing";
import { pictures } from "../engine";
import { useImage } from "../image";
import { Amount, Explained, Figure, Paper, Picture, Status } from "../parts";
import type { Ask } from "../protocol";
import type { ViewProps } from "../view";

const WIDTH = 560;
const HEIGHT = 220;
/** Training images beside the one that was drawn. */
const NEAREST = 8;

export function Learnt(props: ViewProps): JSX.Element {
  return (
    <>
      <Losses {...props} />
      {props.model.guided && <Push {...props} />}
      <Nearest {...props} />
    </>
  );
}

function Losses({ engine, model }: ViewProps): JSX.Element {
  // Images that the model draws: it has seen none of them.
  const classes = model.classes.length > 0 ? { classes: [0] } : {};
  const drawn = useAnswer(engine, { what: "draw", model: model.model, drawing: { seed: 11, count: 16, ...classes }, watch: "nothing" });
  const images = drawn.told?.answer.what === "moment" ? drawn.told.answer.images : undefined;
  const ask: Ask | undefined = images && {
    what: "losses",
    model: model.model,
    given: images,
    classes: Array.from({ length: images.count }, () => 0),
    levels: 21,
  };
  const heard = useAnswer(engine, ask, drawn.told?.bytes);
  const told = heard.told?.answer.what === "losses" ? heard.told.answer : undefined;
  const line = (values: number[]) => {
    const most = Math.max(...values, 1e-9);
    return values.map((value, place) => `${(place / (values.length - 1)) * WIDTH},${(1 - value / most) * HEIGHT}`).join(" ");
  };
  return (
    <section>
      <h2>Errors by level of noise</h2>
      <Status failure={drawn.failure ?? heard.failure}>{!told && "measuring .."}</Status>
      {told && (
        <figure>
          <svg class="curves" viewBox={`-4 -4 ${WIDTH + 8} ${HEIGHT + 8}`} role="img" aria-label="Errors over the timesteps, from clean to noise">
            <polyline class="signal" points={line(told.signal)} />
            <polyline class="noise" points={line(told.noise)} />
          </svg>
          <figcaption>
            from clean (left) to noise: squared error of the <span class="signal">clean image</span> (up to{" "}
            {Math.max(...told.signal).toFixed(2)}) and of the <span class="noise">noise</span> (up to {Math.max(...told.noise).toFixed(2)}) that
            the network sees, on 16 images that the model drew itself
          </figcaption>
        </figure>
      )}
      <Explained>
        Where there is little noise, the image is easy to see and the noise is hard to see; where there is much, the other way
        round. A loss averages over all of that, so a small difference of losses may be a large one of pictures (
        <Paper arxiv="2303.09556">Hang et al. 2023</Paper>).
      </Explained>
    </section>
  );
}

function Push({ engine, model, state, change }: ViewProps): JSX.Element {
  const image = Number(state["image"] ?? 0) || 0;
  const drawing = { ...drawingOf(state, model), steps: 10, guidance: Number(state["guidance"] ?? 2) || 2 };
  const ask: Ask = { what: "push", model: model.model, drawing, image, class: model.classes.length > 0 ? image % model.classes.length : null };
  const heard = useAnswer(engine, ask);
  const told = heard.told?.answer.what === "push" ? heard.told.answer : undefined;
  const rows = useMemo(() => {
    if (!told || !heard.told) return [];
    const of = (sheet: typeof told.alone) => pictures(sheet, heard.told!.bytes);
    return [
      { title: "alone", pictures: of(told.alone) },
      { title: "guided", pictures: of(told.guided) },
      { title: `the push, ${told.amplified} times as strong`, pictures: of(told.push) },
    ];
  }, [heard.told]);
  const scale = Math.max(1, Math.round(56 / model.width));
  return (
    <section>
      <h2>What guidance changes</h2>
      <form class="settings" onSubmit={(event) => event.preventDefault()}>
        <Amount name="Image" min={0} step={1} value={state["image"] ?? ""} placeholder="0" change={(value) => change({ image: value })} />
        <Amount name="Guidance" min={0} step={0.5} value={state["guidance"] ?? ""} placeholder="2" change={(guidance) => change({ guidance })} />
      </form>
      <Status failure={heard.failure}>{!told && "drawing .."}</Status>
      {rows.map((row) => (
        <figure>
          <div class="grid">
            {row.pictures.map((pixels, step) => (
              <Picture pixels={pixels} scale={scale} label={`${row.title}, step ${step + 1}`} />
            ))}
          </div>
          <figcaption>{row.title}</figcaption>
        </figure>
      ))}
      <Explained>
        The clean images that the network sees at each step from noise (left), and how guidance moves them: away from what it
        sees without the class (<Paper arxiv="2207.12598">Ho and Salimans 2022</Paper>), or away from what a worse version of it
        sees (<Paper arxiv="2406.02507">Karras et al. 2024</Paper>). Middle gray is no push.
      </Explained>
    </section>
  );
}

function Nearest({ engine, model, state, change }: ViewProps): JSX.Element {
  const { image, bytes, chooser, failure } = useImage(engine, model, state, change);
  const heard = useAnswer(engine, image && { what: "nearest", model: model.model, given: image, count: NEAREST }, bytes);
  const told = heard.told?.answer.what === "nearest" ? heard.told.answer : undefined;
  const found = useMemo(() => (told && heard.told ? pictures(told.images, heard.told.bytes) : []), [heard.told]);
  const original = useMemo(() => (image && bytes ? pictures(image, bytes)[0] : undefined), [image, bytes]);
  const scale = Math.max(1, Math.round(84 / model.width));
  return (
    <section>
      <h2>The nearest training images</h2>
      <form class="settings" onSubmit={(event) => event.preventDefault()}>
        {chooser}
      </form>
      <Status failure={failure ?? heard.failure}>{told ? `the nearest of ${told.of} in ${told.data}` : "searching .."}</Status>
      <div class="figures">
        <Figure pixels={original} title="the image" scale={scale} />
        {told && found.map((pixels, place) => <Figure key={place} pixels={pixels} title={`${told.distances[place]!.toFixed(3)} away`} scale={scale} />)}
      </div>
      <Explained>
        A model that has learnt its images by heart draws them again: the nearest one is then the same image, at a distance near
        0 (<Paper arxiv="2301.13188">Carlini et al. 2023</Paper>). Distances are between pixels from 0 to 1: the root of their mean
        squared difference. <code>kiln evaluate --nearest</code> says how often a whole set of drawn images comes that close.
      </Explained>
    </section>
  );
}
