// Questions of a view: asked when they change, aborted when they change again.

import { useEffect, useState } from "preact/hooks";
import type { Engine, Told } from "./engine";
import { pictures } from "./engine";
import type { Answer, Ask } from "./protocol";

export interface Heard<T> {
  /** What is known by the answers so far. */
  told: T | undefined;
  /** Why there is none. */
  failure: string | undefined;
  /** Whether more answers come. */
  isOpen: boolean;
  /** From the question to the newest answer. */
  milliseconds: number;
}

const NOTHING: Heard<never> = { told: undefined, failure: undefined, isOpen: false, milliseconds: 0 };

/** The newest answer to `ask`, which may be undefined. What was told before stays until the first answer. */
export function useAnswer(engine: Engine, ask: Ask | undefined, bytes?: Uint8Array): Heard<Told> {
  return useAnswers(engine, ask, bytes, newest);
}

const newest = (_: Told | undefined, told: Told): Told => told;

/** Images while they are drawn. */
export interface Drawn {
  /** The newest ones; those of a batch that has not begun are absent. */
  images: ImageData[];
  /** How far the newest batch is. */
  moment: Answer & { what: "moment" };
}

/** The images that `ask` draws, as they are denoised. */
export function useDrawn(engine: Engine, ask: Ask | undefined, bytes?: Uint8Array): Heard<Drawn> {
  return useAnswers(engine, ask, bytes, drawn);
}

function drawn(before: Drawn | undefined, { answer, bytes }: Told): Drawn | undefined {
  if (answer.what !== "moment") return before;
  const images = [...(before?.images ?? [])];
  pictures(answer.images, bytes).forEach((pixels, index) => (images[answer.first + index] = pixels));
  return { images, moment: answer };
}

/** How far a drawing is, in a line. */
export function progress({ told, isOpen, milliseconds }: Heard<Drawn>): string {
  if (!told) return "drawing ..";
  const { step, steps, calls } = told.moment;
  return `step ${step} of ${steps}, ${calls} network calls an image, ${(milliseconds / 1000).toFixed(2)} s${isOpen ? " .." : ""}`;
}

/** What `take` makes of the answers to `ask`, one after the other. */
function useAnswers<T>(
  engine: Engine,
  ask: Ask | undefined,
  bytes: Uint8Array | undefined,
  take: (before: T | undefined, told: Told) => T | undefined,
): Heard<T> {
  const question = JSON.stringify(ask);
  const [heard, hear] = useState<Heard<T> & { to?: [question: string | undefined, bytes: Uint8Array | undefined] }>(NOTHING);
  useEffect(() => {
    const setHeard = (next: (before: Heard<T>) => Heard<T>) => hear((before) => ({ ...next(before), to: [question, bytes] }));
    if (!ask) return setHeard(() => NOTHING);
    const left = new AbortController();
    const begun = performance.now();
    const since = () => performance.now() - begun;
    void (async () => {
      setHeard((before) => ({ ...before, failure: undefined, isOpen: true }));
      let told: T | undefined;
      try {
        for await (const answer of engine.ask(ask, bytes, left.signal)) {
          if (left.signal.aborted) return;
          told = take(told, answer);
          setHeard(() => ({ told, failure: undefined, isOpen: true, milliseconds: since() }));
        }
        setHeard((before) => ({ ...before, isOpen: false, milliseconds: since() }));
      } catch (error) {
        if (left.signal.aborted) return;
        const failure = error instanceof Error ? error.message : String(error);
        setHeard(() => ({ ...NOTHING, failure }));
      }
    })();
    return () => left.abort();
  }, [engine, question, bytes]);
  // A new question is open before the effect asks it.
  const isTheirs = heard.to?.[0] === question && heard.to?.[1] === bytes;
  return isTheirs ? heard : { ...heard, failure: undefined, isOpen: ask !== undefined };
}
