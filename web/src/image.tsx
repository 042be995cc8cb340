// The image that a view works on: one that the model draws, or a file of the user's.

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { State } from "./address";
import { useAnswer } from "./answers";
import type { Engine } from "./engine";
import { Amount } from "./parts";
import type { ModelFacts, Sheet } from "./protocol";

interface Chosen {
  image: Sheet | undefined;
  bytes: Uint8Array | undefined;
  /** Fields to choose another one. */
  chooser: JSX.Element;
  failure: string | undefined;
}

/** An image in the model's size. */
export function useImage(engine: Engine, model: ModelFacts, state: State, change: (changes: State) => void): Chosen {
  const [file, setFile] = useState<Uint8Array>();
  const [failure, setFailure] = useState<string>();
  useEffect(() => setFile(undefined), [model.model]);
  const seed = Number(state["of"] ?? 1) || 0;
  const classes = model.classes.length > 0 ? { classes: [seed % model.classes.length] } : {};
  const drawn = useAnswer(engine, { what: "draw", model: model.model, drawing: { seed, count: 1, ...classes }, watch: "nothing" });
  const read = async (files: FileList | null) => {
    const chosen = files?.[0];
    if (!chosen) return;
    try {
      setFile(await pixelsOf(chosen, model));
      setFailure(undefined);
    } catch {
      setFailure(`${chosen.name} is no image that the browser can read`);
    }
  };
  const chooser = (
    <>
      <Amount
        name="An image that the model draws: seed"
        min={0}
        step={1}
        value={state["of"] ?? ""}
        placeholder="1"
        change={(of) => {
          setFile(undefined);
          change({ of });
        }}
      />
      <label class="field">
        <span>or your own</span>
        <input type="file" accept="image/*" onChange={(event) => void read(event.currentTarget.files)} />
      </label>
    </>
  );
  if (file) return { image: whole(model), bytes: file, chooser, failure };
  const moment = drawn.told?.answer.what === "moment" ? drawn.told.answer : undefined;
  return { image: moment?.images, bytes: drawn.told?.bytes, chooser, failure: failure ?? drawn.failure };
}

/** Where a picture of the model's size is in its own bytes. */
export function whole({ width, height }: ModelFacts): Sheet {
  return { at: 0, count: 1, width, height };
}

/** The file's centre, in the model's size. */
async function pixelsOf(file: File, model: ModelFacts): Promise<Uint8Array> {
  const image = await createImageBitmap(file);
  const canvas = new OffscreenCanvas(model.width, model.height);
  const context = canvas.getContext("2d")!;
  const scale = Math.max(model.width / image.width, model.height / image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (model.width - width) / 2, (model.height - height) / 2, width, height);
  return new Uint8Array(context.getImageData(0, 0, model.width, model.height).data.buffer);
}
