// Edit: an image or a sketch drawn again, a hole in it filled in, images between four noises, and an image taken back to its noise.

import type { JSX } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";
import { progress, useAnswer, useDrawn } from "../answers";
import { drawingOf } from "../drawing";
import { Easel } from "../easel";
import { pictures, type Told } from "../engine";
import { useImage, whole } from "../image";
import { Amount, Choice, Explained, Figure, Paper, Picture, placeOf, Status } from "../parts";
import type { Ask, Drawing, ModelFacts, Sheet } from "../protocol";
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
  const [sketch, setSketch] = useState<Uint8Array>();
  const [colour, setColour] = useState("#ffffff");
  const strength = Number(state["strength"] ?? 0.6);
  const original = useMemo(() => (image && bytes ? pictures(image, bytes)[0] : undefined), [image, bytes]);
  useEffect(() => setSketch(undefined), [original]);
  const given = sketch ? whole(model) : image;
  const ask: Ask | undefined = given && { what: "redraw", model: model.model, drawing: few(props), watch: "clean", given, strength };
  const heard = useDrawn(engine, ask, sketch ?? bytes);
  const painted = useMemo(() => sketch ?? (original && new Uint8Array(original.data)), [sketch, original]);
  const shown = useMemo(() => painted && new ImageData(new Uint8ClampedArray(painted), model.width, model.height), [painted]);
  return (
    <>
      <form class="settings" onSubmit={(event) => event.preventDefault()}>
        {chooser}
        <Amount name="Seed" min={0} step={1} value={state["seed"] ?? ""} placeholder="0" change={(seed) => change({ seed })} />
        <label class="field">
          <span>Colour of the brush</span>
          <input type="color" value={colour} onInput={(event) => setColour(event.currentTarget.value)} />
        </label>
        <button type="button" onClick={() => setSketch(blank(model))}>
          A blank sheet
        </button>
        {sketch && (
          <button type="button" onClick={() => setSketch(undefined)}>
            Without the sketch
          </button>
        )}
      </form>
      <label class="slider">
        <span>Strength {strength.toFixed(2)}: how much of the walk from noise is done again</span>
        <input type="range" min={0} max={1} step={0.05} value={strength} onInput={(event) => change({ strength: event.currentTarget.value })} />
      </label>
      <Status failure={failure ?? heard.failure}>{progress(heard)}</Status>
      <div class="figures">
        {painted && shown && (
          <Easel
            shown={shown}
            painted={painted}
            colour={rgba(colour)}
            brush={model.width / 20}
            scale={Math.max(1, Math.round(224 / model.width))}
            label="The given image, to be sketched on"
            paint={setSketch}
          />
        )}
        <Results images={heard.told?.images ?? []} scale={Math.max(1, Math.round(112 / model.width))} />
      </div>
      <Explained>
        The image, or what you sketch, gets as much noise as there is somewhere on the walk, and is denoised from there: the
        later it begins, the less changes (<Paper arxiv="2108.01073">SDEdit, Meng et al. 2022</Paper>). Rough shapes come from
        the given image, details from the model.
      </Explained>
    </>
  );
}

/** A black sheet. */
function blank({ width, height }: ModelFacts): Uint8Array {
  return new Uint8Array(width * height * 4).map((_, byte) => (byte % 4 === 3 ? 255 : 0));
}

/** The bytes of a colour that is written as #rrggbb. */
function rgba(colour: string): [number, number, number, number] {
  const [red, green, blue] = [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16)) as [number, number, number];
  return [red, green, blue, 255];
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
  const shown = useMemo(() => (original && hole ? withHole(original, hole) : undefined), [original, hole]);
  const ask: Ask | undefined = both && { what: "inpaint", model: model.model, drawing: few(props), given: whole(model) };
  const heard = useAnswer(engine, ask, both);
  const images = useMemo(() => picturesOf(heard.told), [heard.told]);
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
        {original && (
          <Easel
            shown={shown ?? original}
            painted={hole ?? new Uint8Array(original.data.length)}
            colour={[255, 255, 255, 255]}
            brush={model.width / 12}
            scale={Math.max(1, Math.round(224 / model.width))}
            label="The image, with its hole in orange"
            paint={setHole}
          />
        )}
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

/** `pixels` with its hole in orange. */
function withHole(pixels: ImageData, hole: Uint8Array): ImageData {
  const data = new Uint8ClampedArray(pixels.data);
  for (let pixel = 0; pixel < data.length; pixel += 4) if (hole[pixel]) data.set([214, 92, 46, 255], pixel);
  return new ImageData(data, pixels.width, pixels.height);
}

function Between(props: ViewProps): JSX.Element {
  const { engine, model, state, change } = props;
  const corners = (state["corners"] ?? "7 4 9 1").split(/[\s,]+/).map(Number);
  const isWhole = corners.length === 4 && corners.every((seed) => Number.isInteger(seed) && seed >= 0);
  const at = (state["at"] ?? "0.5 0.5").split(" ").map((part) => Math.min(1, Math.max(0, Number(part) || 0)));
  const [across, down] = [at[0] ?? 0.5, at[1] ?? 0.5];
  const between = (places: Place[]): Ask | undefined =>
    isWhole
      ? { what: "between", model: model.model, drawing: few(props), corners: corners as [number, number, number, number], places }
      : undefined;
  const heard = useAnswer(engine, between(GRID));
  const one = useAnswer(engine, between([[across, down]]));
  const images = useMemo(() => picturesOf(heard.told), [heard.told]);
  const [here] = useMemo(() => picturesOf(one.told), [one.told]);
  const go = (across: number, down: number) => change({ at: `${across.toFixed(2)} ${down.toFixed(2)}` });
  const drag = (event: PointerEvent & { currentTarget: HTMLElement }) => {
    if (event.buttons === 0) return;
    // The images at the edges are those of the corners, so the way leads from middle to middle.
    const [across, down] = placeOf(event).map((place) => Math.min(1, Math.max(0, (place * SIDE - 0.5) / (SIDE - 1)))) as Place;
    go(across, down);
  };
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
      <Status failure={heard.failure ?? one.failure}>
        {isWhole ? (heard.isOpen || one.isOpen) && "drawing .." : "Give four seeds: whole numbers from 0."}
      </Status>
      <div class="figures">
        <div class="canvas" onPointerDown={drag} onPointerMove={drag}>
          <Results images={images} scale={Math.max(1, Math.round(84 / model.width))} columns={SIDE} />
        </div>
        <div>
          <Figure pixels={here} title={`${Math.round(across * 100)}% across, ${Math.round(down * 100)}% down: drag over the grid`} scale={Math.max(1, Math.round(224 / model.width))} />
          <label class="slider">
            <span>Across</span>
            <input type="range" min={0} max={1} step={0.01} value={across} onInput={(event) => go(Number(event.currentTarget.value), down)} />
          </label>
          <label class="slider">
            <span>Down</span>
            <input type="range" min={0} max={1} step={0.01} value={down} onInput={(event) => go(across, Number(event.currentTarget.value))} />
          </label>
        </div>
      </div>
      <Explained>
        Each image is drawn from a noise between those of the corners. Noises lie on a sphere, so the way leads along arcs (
        <Paper arxiv="2010.02502">Song et al. 2020</Paper>). One digit turns into another through shapes that the model
        believes in; where it believes in none, it jumps.
      </Explained>
    </>
  );
}

type Place = [across: number, down: number];

/** The places of a square of images, row by row. */
const GRID: Place[] = Array.from({ length: SIDE * SIDE }, (_, index) => [(index % SIDE) / (SIDE - 1), Math.floor(index / SIDE) / (SIDE - 1)]);

function picturesOf(told: Told | undefined): ImageData[] {
  return told?.answer.what === "pictures" ? pictures(told.answer.images, told.bytes) : [];
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
        noise that is no noise: look at its deviation, which is 1 for noise, and for the image's shape in it.
      </Explained>
    </>
  );
}
