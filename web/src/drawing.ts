// How to draw, from the address to the protocol.

import type { State } from "./address";
import type { Drawing, ModelFacts } from "./protocol";

export const SAMPLERS = [
  "ddim",
  "ddpm",
  "euler",
  "heun",
  "second-order",
  "adams-bashforth",
  "pndm",
  "dpm-solver",
  "unipc",
  "consistency",
];
export const SPACINGS = ["leading", "linspace", "trailing", "quadratic", "karras", "log-snr"];

/** The settings that samplers need beside their name. */
const SETTINGS: Record<string, Record<string, unknown>> = {
  "second-order": { alpha: 0.5 },
  "adams-bashforth": { order: 2 },
};

/** Samplers whose randomness eta is. */
export const WITH_ETA = ["ddim", "dpm-solver"];

const number = (text: string | undefined): number | undefined =>
  text === undefined || !Number.isFinite(Number(text)) ? undefined : Number(text);

/** The drawing that the address asks for. What is not in it is as the model says. */
export function drawingOf(state: State, model: ModelFacts): Drawing {
  const kind = state["sampler"];
  const eta = number(state["eta"]);
  const own = model.drawing.sampler;
  let sampler = kind && kind !== own?.kind ? { kind, ...SETTINGS[kind] } : own;
  if (sampler && eta !== undefined && WITH_ETA.includes(sampler.kind)) sampler = { ...sampler, eta };
  const drawing: Drawing = { seed: number(state["seed"]) ?? 0 };
  const steps = number(state["steps"]);
  const count = number(state["count"]);
  const guidance = number(state["guidance"]);
  if (steps !== undefined) drawing.steps = steps;
  if (count !== undefined) drawing.count = count;
  if (guidance !== undefined) drawing.guidance = guidance;
  if (sampler) drawing.sampler = sampler;
  if (state["spacing"]) drawing.spacing = state["spacing"];
  if (state["class"] !== undefined) drawing.classes = [Number(state["class"])];
  return drawing;
}
