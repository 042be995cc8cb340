// Edit: an image drawn again, a hole in it filled in, images between four noises, and an image taken back to its noise.

import type { JSX } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { progress, useAnswer, useDrawn } from "../answers";
import { drawingOf } from "../drawing";
import { pictures } from "../engine";
import { useImage } from "../image";
import { Amount, Choice, Explained, Figure, Paper, Picture, Status } from "../parts";
import type { Ask, Drawing, Sheet } from "../protocol";
import type { ViewProps } from "../view";

const COUNT = 6;
const SIDE = 5;

export function Edit(props: ViewProps): JSX.Element {
  const { state, change } = props;
  const how = state["how"] ?? "redraw";
  return (
    <>
      <form class="settings" onSubmit={(event) => event.preventDefault()}>
        <Choice
          name="What to do"
          value={how}
          options={[
            ["redraw", "draw an image again"],
            ["inpaint", "fill in a hole"],
            ["between", "go from noise to noise"],
            ["invert", "find an image's noise"],
          ]}
          change={(value) => change({ how: value === "redraw" ? "" : value })}
        />
      </form>
      {how === "inpaint" && <Inpaint {...props} />}
      {how === "between" && <Between {...props} />}
      {how === "invert" && <Invert {...props} />}
      {how === "redraw" && <Redraw {...props} />}
    </>
  );
}

/** The class of what is drawn, for a model with classes, and how many images. */
function few({ state, model }: ViewProps): Drawing {
  const classes = model.classes.length > 0 ? { classes: [Number(state["class"] ?? 0)] } : {};
  return { ...drawingOf(state, model), count: COUNT, ...classes };
}

function Results(props: { images: ImageData[]; scale: number; columns?: number }): JSX.Element {
  const style = props.columns ? { display: "grid", gridTemplateColumns: `repeat(${props.columns}, max-content)` } : {};
  return (
    <div class="grid" style={style}>
      {props.images.map((pixels, index) => (
        <Picture pixels={pixels} scale={props.scale} label={`Result ${index}`} />
      ))}
    </div>
  );
}

function Redraw(props: ViewProps): JSX.Element {
  const { engine, model, state, change } = props;
  const { image, bytes, chooser, failure } = useImage(engine, model, state, change);
  const strength = Number(state["strength"] ?? 0.6);
  const ask: Ask | undefined = image && { what: "redraw", model: model.model, drawing: few(props), watch: "clean", given: image, strength };
  const heard = useDrawn(engine, ask, bytes);
  const original = useMemo(() => (image && bytes ? pictures(image, bytes)[0] : undefined), [image, bytes]);
  const scale = Math.max(1, Math.round(112 / model.width));
  return (
    <>
      <form class="settings" onSubmit={(event) => event.preventDefault()}>
        {chooser}
        <Amount name="Seed" min={0} step={1} value={state["seed"] ?? ""} placeholder="0" change={(seed) => change({ seed })} />
      </form>
      <label class="slider">
        <span>Strength {strength.toFixed(2)}: how much of the walk from noise is done again</span>
        <input type="range" min={0} max={1} step={0.05} value={strength} onInput={(event) => change({ strength: event.currentTarget.value })} />
      </label>
      <Status failure={failure ?? heard.failure}>{progress(heard)}</Status>
      <div class="figures">
        <Figure pixels={original} title="the given image" scale={scale} />
        <Results images={heard.told?.images ?? []} scale={scale} />
      </div>
      <Explained>
        The image gets as much noise as there is somewhere on the walk, and is denoised from there: the later it begins, the
        less changes (<Paper arxiv="2108.01073">SDEdit, Meng et al. 2022</Paper>). Rough shapes come from the given image,
        details from the model.
      </Explained>
    </>
  );
}

function Inpaint(props: ViewProps): JSX.Element {
  const { engine, model, state, change } = props;
  const { image, bytes, chooser, failure } = useImage(engine, model, state, change);
  const [hole, setHole] = useState<Uint8Array>();
  const original = useMemo(() => (image && bytes ? pictures(image, bytes)[0] : undefined), [image, bytes]);
  useEffect(() => setHole(undefined), [original]);
  const both = useMemo(() => {
    if (!hole || !original) return undefined;
    const joined = new Uint8Array(original.data.length + hole.length);
    joined.set(original.data);
    joined.set(hole, original.data.length);
    return joined;
  }, [hole, original]);
  const given = { at: 0, count: 1, width: model.width, height: model.height };
  const ask: Ask | undefined = both && { what: "inpaint", model: model.model, drawing: few(props), given };
  const heard = useAnswer(engine, ask, both);
  const images = useMemo(
    () => (heard.told?.answer.what === "pictures" ? pictures(heard.told.answer.images, heard.told.bytes) : []),
    [heard.told],
  );
  const scale = Math.max(1, Math.round(112 / model.width));
  return (
    <>
      <form class="settings" onSubmit={(event) => event.preventDefault()}>
        {chooser}
        <Amount name="Seed" min={0} step={1} value={state["seed"] ?? ""} placeholder="0" change={(seed) => change({ seed })} />
        <button type="button" onClick={() => setHole(lowerHalf(model.width, model.height))}>
          The lower half
        </button>
        <button type="button" onClick={() => setHole(undefined)}>
          No hole
        </button>
      </form>
      <Status failure={failure ?? heard.failure}>
        {hole ? heard.isOpen && "filling in .." : "Paint a hole over the image."}
      </Status>
      <div class="figures">
        {original && <Canvas pixels={original} hole={hole} scale={Math.max(1, Math.round(224 / model.width))} paint={setHole} />}
        {hole && <Results images={images} scale={scale} />}
      </div>
      <Explained>
        After each step, what is known of the image replaces its place, with as much noise as the rest has, and the network
        makes the hole fit it (<Paper arxiv="2201.09865">RePaint, Lugmayr et al. 2022</Paper>). Where nothing was painted, the
        image stays bit for bit.
      </Explained>
    </>
  );
}

function lowerHalf(width: number, height: number): Uint8Array {
  const hole = new Uint8Array(width * height * 4);
  return hole.fill(255, Math.floor(height / 2) * width * 4);
}

/** An image to paint a hole on. The hole is white where it is painted. */
function Canvas(props: { pixels: ImageData; hole: Uint8Array | undefined; scale: number; paint: (hole: Uint8Array) => void }): JSX.Element {
  const { pixels, hole, scale, paint } = props;
  const { width, height } = pixels;
  // The pointer may move again before the page shows what it painted.
  const painted = useRef<Uint8Array>(new Uint8Array());
  painted.current = hole ?? new Uint8Array(width * height * 4);
  const shown = useMemo(() => {
    const data = new Uint8ClampedArray(pixels.data);
    for (let pixel = 0; pixel < data.length; pixel += 4)
      if (hole?.[pixel]) data.set([214, 92, 46, 255], pixel);
    return new ImageData(data, width, height);
  }, [pixels, hole]);
  // A fast pointer is seen at a few places only.
  const before = useRef<Point | undefined>(undefined);
  const brush = Math.max(1, Math.round(width / 12));
  const touch = (event: PointerEvent & { currentTarget: HTMLElement }) => {
    if (event.buttons === 0) return;
    const box = event.currentTarget.getBoundingClientRect();
    const to: Point = [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
    const from = event.type === "pointerdown" ? to : (before.current ?? to);
    before.current = to;
    const next = new Uint8Array(painted.current);
    for (let row = 0; row < height; row++)
      for (let column = 0; column < width; column++)
        if (fromStroke([column + 0.5, row + 0.5], from, to) <= brush) next.fill(255, (row * width + column) * 4, (row * width + column) * 4 + 4);
    painted.current = next;
    paint(next);
  };
  return (
    <figure>
      <div class="canvas" onPointerDown={touch} onPointerMove={touch}>
        <Picture pixels={shown} scale={scale} label="The image, with its hole in orange" />
      </div>
      <figcaption>paint with the pointer</figcaption>
    </figure>
  );
}

type Point = [x: number, y: number];

/** How far a point is from the line between two others. */
function fromStroke([x, y]: Point, [fromX, fromY]: Point, [toX, toY]: Point): number {
  const [alongX, alongY] = [toX - fromX, toY - fromY];
  const length = alongX ** 2 + alongY ** 2;
  const part = length === 0 ? 0 : Math.min(1, Math.max(0, ((x - fromX) * alongX + (y - fromY) * alongY) / length));
  return Math.hypot(x - fromX - part * alongX, y - fromY - part * alongY);
}

function Between(props: ViewProps): JSX.Element {
  const { engine, model, state, change } = props;
  const corners = (state["corners"] ?? "7 4 9 1").split(/[\s,]+/).map(Number);
  const isWhole = corners.length === 4 && corners.every((seed) => Number.isInteger(seed) && seed >= 0);
  const ask: Ask | undefined = isWhole
    ? { what: "between", model: model.model, drawing: few(props), corners: corners as [number, number, number, number], side: SIDE }
    : undefined;
  const heard = useAnswer(engine, ask);
  const images = useMemo(
    () => (heard.told?.answer.what === "pictures" ? pictures(heard.told.answer.images, heard.told.bytes) : []),
    [heard.told],
  );
  return (
    <>
      <form class="settings" onSubmit={(event) => event.preventDefault()}>
        <label class="field">
          <span>Seeds at the corners</span>
          <input value={state["corners"] ?? "7 4 9 1"} onChange={(event) => change({ corners: event.currentTarget.value })} />
        </label>
        <button type="button" onClick={() => change({ corners: corners.map((seed) => seed + 10).join(" ") })}>
          Other corners
        </button>
      </form>
      <Status failure={heard.failure}>
        {isWhole ? heard.isOpen && "drawing .." : "Give four seeds: whole numbers from 0."}
      </Status>
      <Results images={images} scale={Math.max(1, Math.round(84 / model.width))} columns={SIDE} />
      <Explained>
        Each image is drawn from a noise between those of the corners. Noises lie on a sphere, so the way leads along arcs (
        <Paper arxiv="2010.02502">Song et al. 2020</Paper>). One digit turns into another through shapes that the model
        believes in; where it believes in none, it jumps.
      </Explained>
    </>
  );
}

function Invert(props: ViewProps): JSX.Element {
  const { engine, model, state, change } = props;
  const { image, bytes, chooser, failure } = useImage(engine, model, state, change);
  const refinements = Number(state["refinements"] ?? 5) || 0;
  const { steps } = drawingOf(state, model);
  const drawing: Drawing = { seed: 0, steps: steps ?? 50, ...(model.classes.length > 0 ? { classes: [Number(state["class"] ?? 0)] } : {}) };
  const ask: Ask | undefined = image && { what: "invert", model: model.model, drawing, given: image, refinements };
  const heard = useAnswer(engine, ask, bytes);
  const told = heard.told?.answer.what === "inverted" ? heard.told.answer : undefined;
  const [noise, again] = useMemo(() => {
    const of = (sheet: Sheet) => pictures(sheet, heard.told!.bytes)[0];
    return told ? [of(told.noise), of(told.again)] : [];
  }, [told]);
  const original = useMemo(() => (image && bytes ? pictures(image, bytes)[0] : undefined), [image, bytes]);
  const scale = Math.max(1, Math.round(140 / model.width));
  return (
    <>
      <form class="settings" onSubmit={(event) => event.preventDefault()}>
        {chooser}
        <Amount name="Steps" min={1} max={1000} step={1} value={state["steps"] ?? ""} placeholder="50" change={(value) => change({ steps: value })} />
        <Amount
          name="Corrections a step"
          min={0}
          max={16}
          step={1}
          value={state["refinements"] ?? ""}
          placeholder="5"
          change={(value) => change({ refinements: value })}
        />
      </form>
      <Status failure={failure ?? heard.failure}>
        {told && !heard.isOpen
          ? `drawn again with ${told.psnr.toFixed(1)} dB${told.psnr_of_first_stage === null ? "" : `, where the first stage alone has ${told.psnr_of_first_stage.toFixed(1)}`}; the noise has a deviation of ${told.deviation.toFixed(2)}`
          : "going back .."}
      </Status>
      <div class="figures">
        <Figure pixels={original} title="the given image" scale={scale} />
        <Figure pixels={noise} title="its noise, channel by channel" scale={Math.max(1, Math.round(64 / model.latents[1]))} />
        <Figure pixels={again} title="drawn from that noise" scale={scale} />
      </div>
      <Explained>
        DDIM without fresh noise is a path that can be walked both ways (<Paper arxiv="2010.02502">Song et al. 2020</Paper>): here
        from the image to its noise, and back. The way back asks the network at the wrong end of each step, so that it must be
        corrected (<Paper arxiv="2309.04907">Pan et al. 2023</Paper>) or short. An image that the model would never draw has a
        noise that is no noise: look at its deviation, which should be 1, and for the image's shape in it.
      </Explained>
    </>
  );
}
