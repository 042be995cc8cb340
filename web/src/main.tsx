// The page: which model, which view.

import type { JSX } from "preact";
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { takeToken, useAddress } from "./address";
import { useAnswer } from "./answers";
import { BrowserEngine } from "./browser-engine";
import { ServedEngine } from "./engine";
import { Choice, Status } from "./parts";
import type { ModelFacts } from "./protocol";
import type { ViewProps } from "./view";
import { Draw } from "./views/draw";
import { Edit } from "./views/edit";
import { FirstStage } from "./views/first-stage";
import { Learnt } from "./views/learnt";
import { Race } from "./views/race";
import { Run } from "./views/run";
import { Schedule } from "./views/schedule";

const VIEWS: Record<string, { title: string; view: (props: ViewProps) => JSX.Element }> = {
  draw: { title: "Draw", view: Draw },
  race: { title: "Race", view: Race },
  schedule: { title: "Schedule", view: Schedule },
  "first-stage": { title: "First stage", view: FirstStage },
  edit: { title: "Edit", view: Edit },
  learnt: { title: "What has it learnt", view: Learnt },
  run: { title: "Run", view: Run },
};

const token = takeToken();
const engine = token === "" ? new BrowserEngine() : new ServedEngine(token);

function Page(): JSX.Element {
  const [state, change] = useAddress();
  const listed = useAnswer(engine, { what: "models" });
  const models = listed.told?.answer.what === "models" ? listed.told.answer.models : [];
  // Only a program has runs.
  const trained = useAnswer(engine, token === "" ? undefined : { what: "runs" });
  const runs = trained.told?.answer.what === "runs" ? trained.told.answer.runs : [];
  const name = state["model"] ?? models[0]?.model;
  const about = useAnswer(engine, name === undefined ? undefined : { what: "model", model: name });
  const [model, setModel] = useState<ModelFacts>();
  useEffect(() => {
    if (about.told?.answer.what === "model") setModel(about.told.answer);
  }, [about.told]);
  const failure = listed.failure ?? about.failure;
  const chosen = VIEWS[state["view"] ?? "draw"] ?? VIEWS["draw"]!;
  const View = chosen.view;
  const shown = Object.entries(VIEWS).filter(([key]) => key !== "run" || runs.length > 0);
  // What was chosen for one model or view makes no sense for another.
  const leave = { steps: "", sampler: "", spacing: "", guidance: "", class: "", image: "", step: "", count: "", eta: "", lanes: "", code: "", run: "", beside: "", stage: "" };
  return (
    <>
      <header>
        <h1>kiln</h1>
        <nav aria-label="Views">
          {shown.map(([key, { title, view }]) => (
            <button
              type="button"
              aria-current={view === View ? "page" : undefined}
              onClick={() => change({ ...leave, view: key === "draw" ? "" : key })}
            >
              {title}
            </button>
          ))}
        </nav>
        <Choice
          name="Model"
          value={name ?? ""}
          options={models.map(({ model, title }) => [model, title])}
          change={(value) => change({ ...leave, model: value })}
        />
      </header>
      <main>
        {failure !== undefined && <Status failure={failure} />}
        {token === "" && View === Run ? (
          <Status failure="a page without kiln play has no runs: `kiln play RUN` shows them" />
        ) : (
          model && model.model === name && <View engine={engine} model={model} models={models} runs={runs} state={state} change={change} />
        )}
      </main>
      {model && (
        <footer>
          {model.channels} x {model.height} x {model.width} pixels, {model.first_stage ? `latents ${model.latents.join(" x ")} of its ${model.first_stage}` : "no first stage"},{" "}
          {(model.weights / 1e6).toFixed(1)} million weights, predicts the {model.prediction}
          {model.distilled ? `, distilled by ${model.distilled}` : ""}
        </footer>
      )}
    </>
  );
}

render(<Page />, document.getElementById("page")!);
