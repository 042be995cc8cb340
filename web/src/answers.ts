// Questions of a view: asked when they change, aborted when they change again.

import { useEffect, useState } from "preact/hooks";
import type { Engine, Told } from "./engine";
import type { Ask } from "./protocol";

export interface Heard {
  /** The newest answer. */
  told: Told | undefined;
  /** Why there is none. */
  failure: string | undefined;
  /** Whether more answers come. */
  isOpen: boolean;
  /** From the question to the newest answer. */
  milliseconds: number;
}

const NOTHING: Heard = { told: undefined, failure: undefined, isOpen: false, milliseconds: 0 };

/** The newest answer to `ask`, which may be undefined. What was told before stays until the first answer. */
export function useAnswer(engine: Engine, ask: Ask | undefined, bytes?: Uint8Array): Heard {
  const [heard, setHeard] = useState(NOTHING);
  useEffect(() => {
    if (!ask) return setHeard(NOTHING);
    const left = new AbortController();
    const begun = performance.now();
    const since = () => performance.now() - begun;
    void (async () => {
      setHeard((before) => ({ ...before, failure: undefined, isOpen: true }));
      try {
        for await (const told of engine.ask(ask, bytes, left.signal)) {
          if (left.signal.aborted) return;
          setHeard({ told, failure: undefined, isOpen: true, milliseconds: since() });
        }
        setHeard((before) => ({ ...before, isOpen: false, milliseconds: since() }));
      } catch (error) {
        if (left.signal.aborted) return;
        const failure = error instanceof Error ? error.message : String(error);
        setHeard({ ...NOTHING, failure });
      }
    })();
    return () => left.abort();
  }, [engine, JSON.stringify(ask), bytes]);
  return heard;
}
