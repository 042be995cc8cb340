// Run: how a training goes, while it goes.

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { useAnswer } from "../answers";
import type { Engine } from "../engine";
import { Choice, Explained, Paper, Status } from "../parts";
import type { Ask, Curve, RunFacts, StageFacts } from "../protocol";
import type { ViewProps } from "../view";

const WIDTH = 320;
const HEIGHT = 140;

export function Run({ engine, runs, state, change }: ViewProps): JSX.Element {
  const name = state["run"] ?? runs[0]?.run ?? "";
  const other = state["beside"] ?? "";
  const { facts, failure } = useRun(engine, name);
  const beside = useRun(engine, other);
  const stage = facts?.stages.find(({ stage }) => stage === state["stage"]) ?? facts?.stages.at(-1);
  const options = runs.map(({ run, title }): [string, string] => [run, title]);
  return (
    <>
      <form class="settings" onSubmit={(event) => event.preventDefault()}>
        <Choice name="Run" value={name} options={options} change={(run) => change({ run, stage: "", step: "" })} />
        <Choice
          name="Beside it"
          value={other}
          options={[["", "nothing"], ...options.filter(([run]) => run !== name)]}
          change={(beside) => change({ beside })}
        />
        {facts && stage && (
          <Choice
            name="Stage"
            value={stage.stage}
            options={facts.stages.map(({ stage }) => [stage, stage])}
            change={(stage) => change({ stage, step: "" })}
          />
        )}
      </form>
      <Status failure={failure ?? beside.failure ?? stage?.damage ?? undefined}>
        {stage ? progress(stage) : facts ? "This run has not measured anything yet." : "reading .."}
      </Status>
      {facts && stage && (
        <>
          <div class="figures">
            {metrics(stage.curves).map((metric) => (
              <Chart
                key={metric}
                metric={metric}
                stage={stage}
                beside={beside.facts?.stages.find((found) => found.stage === stage.stage)}
                besideName={runs.find(({ run }) => run === other)?.title ?? other}
              />
            ))}
          </div>
          {stage.pictures.length > 0 && <Pictures engine={engine} run={name} stage={stage} state={state} change={change} />}
          <Findings engine={engine} run={name} />
          <details>
            <summary>config.toml</summary>
            <pre>{facts.config}</pre>
          </details>
        </>
      )}
      <Explained>
        Each training writes a row of <code>metrics.csv</code> at each checkpoint. A thick mark below a curve is a checkpoint that
        one can still draw with: choose it as the model above. If the validation loss rises while the training loss falls, the
        network learns its images by heart. Losses say little about pictures: the error of most noise levels cannot vanish,
        because the noise hides the image (<Paper arxiv="2006.11239">Ho et al. 2020</Paper>). A distance of drawn from real images,
        such as KID, does; with few images it goes up and down by chance (
        <Paper arxiv="1801.01401">Bińkowski et al. 2018</Paper>).
      </Explained>
    </>
  );
}

/** How a run goes, asked again and again; nothing for a run without a name. */
function useRun(engine: Engine, run: string): { facts: RunFacts | undefined; failure: string | undefined } {
  const { told, failure } = useAnswer(engine, run === "" ? undefined : { what: "run", run });
  const facts = told?.answer.what === "run" && told.answer.run === run ? told.answer : undefined;
  return { facts, failure };
}

function progress({ steps, done, devices, seconds_a_step, seconds_since }: StageFacts): string {
  const parts = [`step ${done} of ${steps}${devices === null ? "" : ` on ${devices}`}`];
  if (seconds_a_step !== null) parts.push(`${seconds_a_step.toFixed(2)} s a step`);
  const left = seconds_a_step === null ? 0 : (steps - done) * seconds_a_step - (seconds_since ?? 0);
  if (done < steps && left > 0) parts.push(`about ${duration(left)} left if it goes on`);
  if (seconds_since !== null) parts.push(`newest row ${duration(seconds_since)} ago`);
  return parts.join(", ");
}

function duration(seconds: number): string {
  if (seconds < 90) return `${seconds.toFixed(0)} s`;
  if (seconds < 5400) return `${(seconds / 60).toFixed(0)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(0)} days`;
}

/** `loss` for `loss/train` and `loss/valid`, in the order of the file. */
function metrics(curves: Curve[]): string[] {
  const names = curves.map(({ name }) => name.split("/")[0]!);
  const isFirst = (name: string) => Number(name !== "loss");
  return [...new Set(names)].sort((one, other) => isFirst(one) - isFirst(other));
}

/** A metric over the steps: training faint, validation or measurement strong, another run's dashed. */
function Chart(props: { metric: string; stage: StageFacts; beside: StageFacts | undefined; besideName: string }): JSX.Element {
  const { metric, stage, beside, besideName } = props;
  const of = (curves: Curve[]) => curves.filter(({ name, points }) => name.split("/")[0] === metric && points.length > 0);
  const [own, others] = [of(stage.curves), of(beside?.curves ?? [])];
  const points = [...own, ...others].flatMap((curve) => curve.points).filter(([, value]) => Number.isFinite(value));
  const longest = Math.max(stage.done, beside?.done ?? 0, 1);
  const [least, most] = [Math.min(...points.map(([, value]) => value)), Math.max(...points.map(([, value]) => value))];
  const x = (step: number) => (step / longest) * WIDTH;
  const y = (value: number) => HEIGHT - ((value - least) / (most - least || 1)) * HEIGHT;
  const line = ({ name, points }: Curve, kind: string) => {
    const at = points.filter(([, value]) => Number.isFinite(value)).map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`);
    const strength = name.endsWith("/train") ? "train" : "valid";
    if (at.length > 1) return <polyline class={`${kind} ${strength}`} points={at.join(" ")} />;
    const [only] = at;
    return only && <circle class={`${kind} ${strength}`} cx={only.split(",")[0]} cy={only.split(",")[1]} r="3" />;
  };
  const newest = own.map(({ name, points }) => `${name.split("/")[1] ?? name} ${short(points.at(-1)![1])}`).join(", ");
  return (
    <figure>
      <svg class="curves small" viewBox={`-4 -4 ${WIDTH + 8} ${HEIGHT + 14}`} role="img" aria-label={`${metric} over the steps: ${newest}`}>
        {others.map((curve) => line(curve, "beside"))}
        {own.map((curve) => line(curve, "own"))}
        {stage.checkpoints.map((step) => (
          <rect class="checkpoint" x={x(step) - 1.5} y={HEIGHT + 3} width="3" height="6">
            <title>checkpoint of step {step}</title>
          </rect>
        ))}
        <text x="0" y="10">
          {short(most)}
        </text>
        <text x="0" y={HEIGHT - 2}>
          {short(least)}
        </text>
      </svg>
      <figcaption>
        <strong>{metric}</strong>: {newest}
        {others.length > 0 && `; dashed: ${besideName}`}
      </figcaption>
    </figure>
  );
}

function short(value: number): string {
  return Number.isFinite(value) ? String(Number(value.toPrecision(3))) : "no number";
}

function Pictures(props: Pick<ViewProps, "engine" | "state" | "change"> & { run: string; stage: StageFacts }): JSX.Element {
  const { engine, run, stage, state, change } = props;
  const last = stage.pictures.length - 1;
  const chosen = stage.pictures.indexOf(Number(state["step"]));
  const place = chosen < 0 ? last : chosen;
  const step = stage.pictures[place]!;
  const ask: Ask = { what: "run-picture", run, stage: stage.stage, step };
  const { told, failure } = useAnswer(engine, ask);
  const [address, setAddress] = useState<string>();
  useEffect(() => {
    if (told?.answer.what !== "file") return;
    const address = URL.createObjectURL(new Blob([told.bytes.slice()], { type: told.answer.kind }));
    setAddress(address);
    return () => URL.revokeObjectURL(address);
  }, [told]);
  return (
    <section>
      <h2>Its pictures</h2>
      <label class="slider">
        <span>after step {step}</span>
        <input
          type="range"
          min={0}
          max={last}
          value={place}
          onInput={(event) => change({ step: String(stage.pictures[Number(event.currentTarget.value)]) })}
        />
      </label>
      {failure !== undefined && <Status failure={failure} />}
      {address && <img class="picture" src={address} alt={`What the training drew after step ${step}`} />}
    </section>
  );
}

/** What `kiln doctor` finds, if it is asked: it takes some seconds. */
function Findings({ engine, run }: { engine: Engine; run: string }): JSX.Element {
  const [asked, setAsked] = useState("");
  const { told, failure, isOpen } = useAnswer(engine, asked === run ? { what: "examine", run } : undefined);
  const findings = told?.answer.what === "findings" ? told.answer.findings : undefined;
  return (
    <section>
      <h2>Is anything wrong with it?</h2>
      {asked === run ? (
        <Status failure={failure}>{isOpen ? "examining .." : findings?.length === 0 && "kiln doctor found nothing wrong."}</Status>
      ) : (
        <button type="button" onClick={() => setAsked(run)}>
          Examine it
        </button>
      )}
      {findings && findings.length > 0 && (
        <ul>
          {findings.map(([what, remedy]) => (
            <li>
              {what}. <em>What to do:</em> {remedy}.
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}
