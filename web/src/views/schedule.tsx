// Schedule: how much noise there is at each timestep, and which of them a drawing visits.

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import { useAnswer } from "../answers";
import { SPACINGS } from "../drawing";
import { pictures } from "../engine";
import { useImage } from "../image";
import { Amount, Choice, Explained, Paper, Picture, placeOf, Status } from "../parts";
import type { Ask, LevelAt } from "../protocol";
import type { ViewProps } from "../view";

const KINDS = [
  "linear",
  "scaled-linear",
  "sigmoid-betas",
  "cosine",
  "sigmoid",
  "noise-power-linear",
  "noise-power-cosine",
  "log-snr-linear",
  "angle-linear",
  "karras",
  "exponential",
  "flow",
];
/** A key of a kind with its range and its default. */
type Key = [key: string, least: number, most: number, step: number, value: number];
const BETAS: Key[] = [
  ["beta_start", 0.0001, 0.005, 0.0001, 0.0001],
  ["beta_end", 0.005, 0.05, 0.001, 0.02],
];
const LOG_SNRS: Key[] = [
  ["start_log_snr", 0, 10, 0.5, 3],
  ["end_log_snr", -20, 0, 0.5, -10],
];
const SIGMAS: Key[] = [
  ["sigma_min", 0.001, 0.1, 0.001, 0.002],
  ["sigma_max", 1, 200, 1, 80],
];
const KEYS: Record<string, Key[]> = {
  linear: BETAS,
  "scaled-linear": BETAS,
  "sigmoid-betas": BETAS,
  sigmoid: [
    ["sigmoid_start", -6, 0, 0.5, -3],
    ["sigmoid_end", 0, 6, 0.5, 3],
    ["tau", 0.3, 2, 0.1, 1],
  ],
  "noise-power-linear": LOG_SNRS,
  "noise-power-cosine": LOG_SNRS,
  "log-snr-linear": LOG_SNRS,
  "angle-linear": [
    ["start_signal_rate", 0.8, 1, 0.01, 0.95],
    ["end_signal_rate", 0.01, 0.3, 0.01, 0.02],
  ],
  karras: [...SIGMAS, ["rho", 1, 15, 0.5, 7]],
  exponential: SIGMAS,
};
const WIDTH = 640;
const HEIGHT = 260;

export function Schedule({ engine, model, state, change }: ViewProps): JSX.Element {
  const own = model.schedule as { kind?: string };
  const kind = state["kind"] ?? "";
  const steps = Number(state["steps"] ?? model.drawing.steps ?? 50);
  const spacing = state["spacing"] ?? model.drawing.spacing ?? "trailing";
  const keys = KEYS[kind] ?? [];
  const moved = keys.filter(([key]) => state[key] !== undefined).map(([key]) => [key, Number(state[key])]);
  const schedule = kind === "" ? model.schedule : { kind, ...Object.fromEntries(moved) };
  const forgotten = Object.fromEntries(Object.values(KEYS).flat().map(([key]) => [key, ""]));
  const ask: Ask = { what: "schedule", schedule, steps, spacing };
  const { told, failure } = useAnswer(engine, ask);
  const curve = told?.answer.what === "schedule" ? told.answer : undefined;
  const shownAt = Number(state["at"] ?? 0.5);
  const level = curve?.curve[Math.round(shownAt * (curve.curve.length - 1))];

  const { image, bytes, chooser, failure: noImage } = useImage(engine, model, state, change);
  const noised = useAnswer(
    engine,
    image && level && { what: "noised", given: image, signal_rate: level.signal_rate, noise_rate: level.noise_rate, seed: 1 },
    bytes,
  );
  const noisy = useMemo(
    () => (noised.told?.answer.what === "pictures" ? pictures(noised.told.answer.images, noised.told.bytes)[0] : undefined),
    [noised.told],
  );
  return (
    <>
      <form class="settings" onSubmit={(event) => event.preventDefault()}>
        <Choice
          name="Schedule"
          value={kind}
          options={[["", `the model's (${own.kind ?? "listed"})`], ...KINDS.map((name): [string, string] => [name, name])]}
          change={(value) => change({ ...forgotten, kind: value })}
        />
        <Amount name="Steps" min={1} max={1000} step={1} value={state["steps"] ?? ""} placeholder={String(steps)} change={(value) => change({ steps: value })} />
        <Choice name="Timesteps" value={spacing} options={SPACINGS.map((name) => [name, name])} change={(value) => change({ spacing: value })} />
        {chooser}
      </form>
      {keys.map(([key, least, most, step, value]) => (
        <label class="slider" key={key}>
          <span>
            <code>{key}</code> {state[key] ?? value}
          </span>
          <input
            type="range"
            min={least}
            max={most}
            step={step}
            value={state[key] ?? value}
            onInput={(event) => change({ [key]: event.currentTarget.value })}
          />
        </label>
      ))}
      {(failure ?? noImage ?? curve?.warning) && <Status failure={failure ?? noImage}>{curve?.warning}</Status>}
      {curve && level && (
        <div class="figures">
          <figure>
            <Curves levels={curve.curve} visited={curve.visited} at={shownAt} pick={(at) => change({ at: at.toFixed(3) })} />
            <figcaption>
              <span class="signal">signal rate</span>, <span class="noise">noise rate</span>; dots are the steps' timesteps
            </figcaption>
          </figure>
          {noisy && (
            <figure>
              <Picture pixels={noisy} scale={Math.max(1, Math.round(160 / model.width))} label="An image with this much noise" />
              <figcaption>
                timestep {level.timestep.toFixed(0)}: {(level.signal_rate ** 2 * 100).toFixed(1)}% image,{" "}
                {(level.noise_rate ** 2 * 100).toFixed(1)}% noise; log-SNR {(2 * Math.log(level.signal_rate / level.noise_rate)).toFixed(1)}
              </figcaption>
            </figure>
          )}
        </div>
      )}
      <label class="slider">
        <span>Where to look</span>
        <input type="range" min={0} max={1} step={0.005} value={shownAt} onInput={(event) => change({ at: event.currentTarget.value })} />
      </label>
      <Explained>
        A noisy image is <em>signal rate</em> times the image plus <em>noise rate</em> times noise, and the squares of both
        add up to 1. Training visits all timesteps, drawing only a few. Linear betas destroy an image early and then spend
        many timesteps on what is hardly more than noise; the cosine goes evenly (
        <Paper arxiv="2102.09672">Nichol and Dhariwal 2021</Paper>). If the last timestep still has some signal, images come
        out too gray (<Paper arxiv="2305.08891">Lin et al. 2023</Paper>).
      </Explained>
    </>
  );
}

function Curves(props: { levels: LevelAt[]; visited: LevelAt[]; at: number; pick: (at: number) => void }): JSX.Element {
  const { levels, visited, at, pick } = props;
  const longest = levels[levels.length - 1]?.timestep || 1;
  const x = (level: LevelAt) => (level.timestep / longest) * WIDTH;
  const y = (rate: number) => (1 - rate) * HEIGHT;
  const line = (rate: (level: LevelAt) => number) => levels.map((level) => `${x(level).toFixed(1)},${y(rate(level)).toFixed(1)}`).join(" ");
  const choose = (event: PointerEvent & { currentTarget: SVGSVGElement }) => {
    if (event.type === "pointermove" && event.buttons === 0) return;
    pick(Math.min(1, Math.max(0, placeOf(event)[0])));
  };
  return (
    <svg class="curves" viewBox={`-4 -4 ${WIDTH + 8} ${HEIGHT + 8}`} onPointerDown={choose} onPointerMove={choose} role="img" aria-label="Signal rate and noise rate over the timesteps">
      <polyline class="signal" points={line((level) => level.signal_rate)} />
      <polyline class="noise" points={line((level) => level.noise_rate)} />
      {visited.map((level) => (
        <circle class="signal" cx={x(level)} cy={y(level.signal_rate)} r="4" />
      ))}
      <line class="at" x1={at * WIDTH} x2={at * WIDTH} y1={0} y2={HEIGHT} />
    </svg>
  );
}
