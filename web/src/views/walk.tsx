// The walk of one image: a slider over its steps.

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import { useAnswer } from "../answers";
import { pictures } from "../engine";
import { Figure, Status } from "../parts";
import type { Ask, Drawing } from "../protocol";
import type { ViewProps } from "../view";

type Props = ViewProps & { image: number; drawing: Drawing };

export function Walk({ engine, model, state, change, image, drawing }: Props): JSX.Element {
  // Image number `image` of the grid: rows of classes, from the same noises.
  const count = drawing.count ?? model.drawing.count ?? 1;
  const classes = drawing.classes ?? model.classes.map((_, index) => index);
  const ask: Ask = {
    what: "walk",
    model: model.model,
    drawing,
    image: image % count,
    class: classes[Math.floor(image / count)] ?? null,
  };
  const { told, failure } = useAnswer(engine, ask);
  const walk = told?.answer.what === "walk" ? told.answer : undefined;
  const shown = useMemo(() => {
    if (!told || !walk) return undefined;
    const of = (sheet: typeof walk.noisy | null) => (sheet ? pictures(sheet, told.bytes) : undefined);
    return {
      noisy: of(walk.noisy)!,
      clean: of(walk.clean)!,
      noisyLatents: of(walk.noisy_latents),
      cleanLatents: of(walk.clean_latents),
    };
  }, [told]);
  if (failure !== undefined || !walk || !shown) return <Status failure={failure}>walking ..</Status>;
  const last = walk.levels.length - 1;
  const step = Math.min(Number(state["step"] ?? last), last);
  const level = walk.levels[step]!;
  const scale = Math.max(1, Math.round(140 / model.width));
  const latentScale = Math.max(1, Math.round(64 / model.latents[1]));
  return (
    <section class="walk" aria-label={`How image ${image} came about`}>
      <label class="slider">
        <span>
          After step {step} of {last}: timestep {level.timestep.toFixed(0)}, {(level.signal_rate ** 2 * 100).toFixed(0)}% image,{" "}
          {(level.noise_rate ** 2 * 100).toFixed(0)}% noise
        </span>
        <input type="range" min={0} max={last} value={step} onInput={(event) => change({ step: event.currentTarget.value })} />
      </label>
      <div class="figures">
        <Figure pixels={shown.noisy[step]} title="with its noise" scale={scale} />
        <Figure pixels={shown.clean[step]} title="the clean image that the network sees" scale={scale} />
        <Figure pixels={shown.noisyLatents?.[step]} title="latents, channel by channel" scale={latentScale} />
        <Figure pixels={shown.cleanLatents?.[step]} title="clean latents" scale={latentScale} />
      </div>
    </section>
  );
}
