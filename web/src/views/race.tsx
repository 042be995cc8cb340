// Race: ways to draw side by side, from the same noises.

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import { useAnswer } from "../answers";
import { drawingOf, SAMPLERS } from "../drawing";
import { pictures } from "../engine";
import { Amount, Choice, Explained, Paper, Picture } from "../parts";
import type { Ask, Drawing } from "../protocol";
import type { ViewProps } from "../view";

const LANES = 6;

export function Race({ engine, model, state, change }: ViewProps): JSX.Element {
  const by = state["by"] ?? "steps";
  const byDefault: Record<string, string> = {
    steps: "1 2 4 8 20",
    sampler: "ddim ddpm dpm-solver unipc consistency",
    guidance: "1 1.5 2 3",
  };
  const entered = state["lanes"] ?? byDefault[by] ?? "";
  const lanes = entered.split(/[\s,/]+/).filter((lane) => lane !== "").slice(0, LANES);
  return (
    <>
      <form class="settings" onSubmit={(event) => event.preventDefault()}>
        <Choice
          name="Race by"
          value={by}
          options={[
            ["steps", "steps"],
            ["sampler", "samplers"],
            ...(model.guided ? [["guidance", "guidance"] as [string, string]] : []),
          ]}
          change={(value) => change({ by: value === "steps" ? "" : value, lanes: "" })}
        />
        <label class="field wide">
          <span>Lanes{by === "sampler" ? ` (${SAMPLERS.join(", ")})` : ""}</span>
          <input value={entered} onChange={(event) => change({ lanes: event.currentTarget.value })} />
        </label>
        <Amount name="Seed" min={0} step={1} value={state["seed"] ?? ""} placeholder="0" change={(seed) => change({ seed })} />
      </form>
      <div class="lanes">
        {lanes.map((lane) => (
          <Lane key={`${by} ${lane}`} engine={engine} model={model} state={state} change={change} by={by} lane={lane} />
        ))}
      </div>
      <Explained>
        All lanes begin with the same noises. What differs is how they walk: how many steps, which sampler, how much
        guidance. A lane's cost is its number of network calls; the time here also counts the other lanes that run beside
        it. A distilled model reaches in one to four steps where others need dozens (
        <Paper arxiv="2303.01469">Song et al. 2023</Paper>); DPM-Solver++ and UniPC need fewer steps than DDIM for the same
        image (<Paper arxiv="2211.01095">Lu et al. 2022</Paper>, <Paper arxiv="2302.04867">Zhao et al. 2023</Paper>).
      </Explained>
    </>
  );
}

function Lane(props: ViewProps & { by: string; lane: string }): JSX.Element {
  const { engine, model, state, by, lane } = props;
  const base = drawingOf({ seed: state["seed"] ?? "0", ...(by === "steps" ? {} : { steps: state["steps"] ?? "" }), [by]: lane }, model);
  const drawing: Drawing = { ...base, count: 8, classes: model.classes.length > 0 ? [0] : undefined };
  const ask: Ask = { what: "draw", model: model.model, drawing, watch: "clean" };
  const { told, failure, isOpen, milliseconds } = useAnswer(engine, ask);
  const moment = told?.answer.what === "moment" ? told.answer : undefined;
  const images = useMemo(() => (told && moment ? pictures(moment.images, told.bytes) : []), [told]);
  const scale = Math.max(1, Math.round(56 / model.width));
  return (
    <section class="lane">
      <h2>
        {lane} {by === "steps" ? "steps" : ""}
      </h2>
      <div class="grid">
        {images.map((pixels, index) => (
          <Picture pixels={pixels} scale={scale} label={`${lane}: image ${index}`} />
        ))}
      </div>
      <p class="status">
        {failure ??
          (moment ? `step ${moment.step} of ${moment.steps}, ${moment.calls} calls, ${(milliseconds / 1000).toFixed(2)} s${isOpen ? " .." : ""}` : "waiting ..")}
      </p>
    </section>
  );
}
