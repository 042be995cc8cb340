// Draw: images as they are denoised, and the whole walk of one of them.

import type { JSX } from "preact";
import { progress, useDrawn } from "../answers";
import { drawingOf, SAMPLERS, SPACINGS, WITH_ETA } from "../drawing";
import { Amount, Choice, Explained, Paper, Picture, Status } from "../parts";
import type { Ask, Watch } from "../protocol";
import type { ViewProps } from "../view";
import { Walk } from "./walk";

export function Draw(props: ViewProps): JSX.Element {
  const { engine, model, state, change } = props;
  const drawing = drawingOf(state, model);
  const watch = (state["watch"] ?? "clean") as Watch;
  const ask: Ask = { what: "draw", model: model.model, drawing, watch };
  const heard = useDrawn(engine, ask);
  const scale = Math.max(1, Math.round(56 / model.width));
  const kind = drawing.sampler?.kind ?? "ddim";
  const own = model.drawing;
  const chosen = state["image"];
  // A row of each class.
  const isByClass = model.classes.length > 0 && drawing.classes === undefined;
  const rowsOfClasses = isByClass ? `display: grid; grid-template-columns: repeat(${drawing.count ?? own.count ?? 1}, max-content); overflow-x: auto` : "";
  const onKey = (event: KeyboardEvent) => event.key === "Escape" && change({ image: "" });
  return (
    <>
      <form class="settings" onSubmit={(event) => event.preventDefault()}>
        <Amount name="Seed" min={0} step={1} value={state["seed"] ?? ""} placeholder="0" change={(seed) => change({ seed })} />
        <Amount
          name="Steps"
          min={1}
          max={1000}
          step={1}
          value={state["steps"] ?? ""}
          placeholder={String(own.steps)}
          change={(steps) => change({ steps })}
        />
        <Amount
          name={model.classes.length > 0 ? "Images a class" : "Images"}
          min={1}
          max={256}
          step={1}
          value={state["count"] ?? ""}
          placeholder={String(own.count)}
          change={(count) => change({ count })}
        />
        <Choice
          name="Sampler"
          value={state["sampler"] ?? own.sampler?.kind ?? "ddim"}
          options={SAMPLERS.map((name) => [name, name])}
          change={(sampler) => change({ sampler, eta: "" })}
        />
        {WITH_ETA.includes(kind) && (
          <Amount name="Eta" min={0} max={1} step={0.1} value={state["eta"] ?? ""} placeholder="0" change={(eta) => change({ eta })} />
        )}
        <Choice
          name="Timesteps"
          value={state["spacing"] ?? own.spacing ?? "trailing"}
          options={SPACINGS.map((name) => [name, name])}
          change={(spacing) => change({ spacing })}
        />
        {model.guided && (
          <Amount
            name="Guidance"
            min={0}
            step={0.5}
            value={state["guidance"] ?? ""}
            placeholder={String(own.guidance)}
            change={(guidance) => change({ guidance })}
          />
        )}
        {model.classes.length > 0 && (
          <Choice
            name="Class"
            value={state["class"] ?? ""}
            options={[["", "all"], ...model.classes.map((name, index): [string, string] => [String(index), name])]}
            change={(name) => change({ class: name })}
          />
        )}
        <Choice
          name="On the way, show"
          value={watch}
          options={[
            ["clean", "the clean image the network sees"],
            ["noisy", "the noisy image"],
            ["nothing", "nothing"],
          ]}
          change={(shown) => change({ watch: shown === "clean" ? "" : shown })}
        />
        <button type="button" onClick={() => change({ seed: String((Number(state["seed"] ?? 0) || 0) + 1) })}>
          Next seed
        </button>
      </form>
      <Status failure={heard.failure}>{progress(heard)}</Status>
      <div class="grid" aria-busy={heard.isOpen} style={rowsOfClasses} onKeyDown={onKey}>
        {heard.told?.images.map((pixels, index) => (
          <button
            type="button"
            class={chosen === String(index) ? "tile chosen" : "tile"}
            title="Show how it came about"
            onClick={() => change({ image: chosen === String(index) ? "" : String(index) })}
          >
            <Picture pixels={pixels} scale={scale} label={`Image ${index} of seed ${drawing.seed}`} />
          </button>
        ))}
      </div>
      {chosen !== undefined && (
        <Walk {...props} image={Number(chosen)} drawing={drawing} />
      )}
      <Explained>
        Every image begins as noise. In each step the network looks at it, says which clean image it sees in it, and the
        sampler moves a little in that direction (<Paper arxiv="2006.11239">Ho et al. 2020</Paper>,{" "}
        <Paper arxiv="2010.02502">Song et al. 2020</Paper>). The first clean images are blurred: they are the mean of all
        that could come of the noise. Click an image to go through its steps. The same seed draws the same image, here and
        with <code>kiln sample --seed {drawing.seed}</code>.
      </Explained>
    </>
  );
}
