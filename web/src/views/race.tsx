// Race: ways to draw side by side, from the same noises.

import type { JSX } from "preact";
import type { State } from "../address";
import { progress, useAnswer, useDrawn } from "../answers";
import { drawingOf, SAMPLERS } from "../drawing";
import { Amount, Choice, Explained, Paper, Picture, Status } from "../parts";
import type { Ask, Drawing } from "../protocol";
import type { ViewProps } from "../view";

const LANES = 6;

export function Race(props: ViewProps): JSX.Element {
  const { model, models, state, change } = props;
  const by = state["by"] ?? "steps";
  const byDefault: Record<string, string> = {
    steps: "1 2 4 8 20",
    sampler: "ddim ddpm dpm-solver unipc consistency",
    guidance: "1 1.5 2 3",
    model: models.slice(0, LANES).map(({ model }) => model).join(", "),
  };
  const entered = state["lanes"] ?? byDefault[by] ?? "";
  // Names of models may have blanks and slashes.
  const between = by === "model" ? /\s*,\s*/ : /[\s,/]+/;
  const lanes = entered.split(between).filter((lane) => lane !== "").slice(0, LANES);
  return (
    <>
      <form class="settings" onSubmit={(event) => event.preventDefault()}>
        <Choice
          name="Race by"
          value={by}
          options={[
            ["steps", "steps"],
            ["sampler", "samplers"],
            ["model", "models and checkpoints"],
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
        {lanes.map((lane) =>
          by === "model" ? (
            <OfModel key={lane} {...props} name={lane} />
          ) : nonsense(by, lane) !== undefined ? (
            <section class="lane">
              <h2>{lane}</h2>
              <Status failure={nonsense(by, lane)} />
            </section>
          ) : (
            <Lane
              key={`${by} ${lane}`}
              {...props}
              title={by === "steps" ? `${lane} ${lane === "1" ? "step" : "steps"}` : lane}
              differs={{ [by]: lane }}
            />
          ),
        )}
      </div>
      <Explained>
        All lanes begin with the same noises. What differs is how they walk: how many steps, which sampler, how much
        guidance, or which model. A lane's cost is its number of network calls; the time here also counts the other lanes that run beside
        it. A distilled model reaches in one to eight steps where others need dozens (
        <Paper arxiv="2303.01469">Song et al. 2023</Paper>); DPM-Solver++ and UniPC need fewer steps than DDIM for the same
        image (<Paper arxiv="2211.01095">Lu et al. 2022</Paper>, <Paper arxiv="2302.04867">Zhao et al. 2023</Paper>).
      </Explained>
    </>
  );
}

/** Why a lane cannot be. */
function nonsense(by: string, lane: string): string | undefined {
  if (by === "steps" && !/^[1-9]\d*$/.test(lane)) return "this is no number of steps";
  if (by === "guidance" && !Number.isFinite(Number(lane))) return "this is no scale of guidance";
  if (by === "sampler" && !SAMPLERS.includes(lane)) return `there is no such sampler, but ${SAMPLERS.join(", ")}`;
  return undefined;
}

/** The lane of another model. */
function OfModel(props: ViewProps & { name: string }): JSX.Element {
  const { engine, models, name } = props;
  const { told, failure } = useAnswer(engine, { what: "model", model: name });
  const title = models.find(({ model }) => model === name)?.title ?? name;
  if (told?.answer.what === "model") return <Lane {...props} model={told.answer} title={title} differs={{}} />;
  return (
    <section class="lane">
      <h2>{title}</h2>
      <Status failure={failure}>waiting ..</Status>
    </section>
  );
}

/** One way to draw: as the model does by itself, but for what `differs`. */
function Lane(props: ViewProps & { title: string; differs: State }): JSX.Element {
  const { engine, model, state, title, differs } = props;
  const base = drawingOf({ seed: state["seed"] ?? "0", ...differs }, model);
  const drawing: Drawing = { ...base, count: 8, classes: model.classes.length > 0 ? [0] : undefined };
  const ask: Ask = { what: "draw", model: model.model, drawing, watch: "clean" };
  const heard = useDrawn(engine, ask);
  const scale = Math.max(1, Math.round(56 / model.width));
  return (
    <section class="lane">
      <h2>{title}</h2>
      <div class="grid">
        {heard.told?.images.map((pixels, index) => (
          <Picture pixels={pixels} scale={scale} label={`${title}: image ${index}`} />
        ))}
      </div>
      <Status failure={heard.failure}>{progress(heard)}</Status>
    </section>
  );
}
