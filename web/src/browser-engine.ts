// The engine of `kiln web`: WebAssembly in workers, with models that lie beside the page.
//
// A worker has one thread and answers one question at a time, so several of them share the questions, and the images of a
// drawing. They draw the same images as one would: each image has its own noise, whatever is drawn beside it.

import type { Engine, Told } from "./engine";
import { fromMessage, toMessage } from "./engine";
import type { Ask, Drawing, ModelFacts } from "./protocol";
import type { Order, Report, Shipped } from "./worker";

/** An unwanted question may go on for so many milliseconds. Then its worker is stopped and another one begins. */
const PATIENCE = 700;
/** Each has the engine and its models in memory. */
const WORKERS = Math.max(1, Math.min(4, navigator.hardwareConcurrency));

/** A worker, once it is needed, and the models that it has loaded. */
interface Lane {
  worker?: Worker | undefined;
  models: Set<string>;
}

/** A part of a drawing, and the number of its first image in the whole. */
interface Part {
  ask: Ask;
  first: number;
}

export class BrowserEngine implements Engine {
  private readonly shipped = shippedModels();
  private readonly idle: Lane[] = Array.from({ length: WORKERS }, () => ({ models: new Set<string>() }));
  /** Questions that wait for a lane. */
  private readonly waiting: ((lane: Lane) => void)[] = [];
  private readonly facts = new Map<string, ModelFacts>();
  private asked = 0;

  async *ask(ask: Ask, bytes = new Uint8Array(), signal?: AbortSignal): AsyncGenerator<Told> {
    const parts = ask.what === "draw" ? this.partsOf(ask) : [{ ask, first: 0 }];
    // If one part fails, the others are not wanted any more.
    const failed = new AbortController();
    const ends = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal;
    try {
      for await (const told of merged(parts.map((part) => this.askPart(part, bytes, ends)))) {
        if (told.answer.what === "model") this.facts.set(told.answer.model, told.answer);
        yield told;
      }
    } finally {
      failed.abort();
    }
    if (ask.what === "draw") this.prepare(ask.model);
  }

  /** A part for each idle lane that has the model. */
  private partsOf(ask: Ask & { what: "draw" }): Part[] {
    const facts = this.facts.get(ask.model);
    const lanes = this.idle.filter(({ models }) => models.has(ask.model)).length;
    const part = (first: number, changes: Drawing | object): Part => ({ ask: { ...ask, drawing: { ...ask.drawing, ...changes } }, first });
    if (!facts || lanes < 2) return [part(0, {})];
    const classes = ask.drawing.classes ?? facts.classes.map((_, index) => index);
    const count = ask.drawing.count ?? facts.drawing.count ?? 1;
    if (classes.length > 1) return shares(classes.length, lanes).map(([from, to]) => part(from * count, { classes: classes.slice(from, to) }));
    const before = ask.drawing.first ?? 0;
    return shares(count, lanes).map(([from, to]) => part(from, { first: before + from, count: to - from }));
  }

  /** Loads a model into a lane that has nothing to do and lacks it: the next drawing will be shared. */
  private prepare(model: string): void {
    const lane = this.idle.find(({ models }) => !models.has(model));
    if (!lane) return;
    this.idle.splice(this.idle.indexOf(lane), 1);
    const preparing = this.askLane(lane, { what: "model", model }, new Uint8Array());
    void preparing.next().then(
      () => this.prepare(model),
      () => undefined,
    );
  }

  private async *askPart({ ask, first }: Part, bytes: Uint8Array, signal: AbortSignal): AsyncGenerator<Told> {
    const model = "model" in ask ? ask.model : "";
    const lane = await this.lane(model);
    for await (const { answer, bytes: behind } of this.askLane(lane, ask, bytes, signal)) {
      const moved = answer.what === "moment" ? { ...answer, first: answer.first + first } : answer;
      yield { answer: moved, bytes: behind };
    }
  }

  /** An idle lane, if possible one that has the model. */
  private lane(model: string): Lane | Promise<Lane> {
    const lane = this.idle.find(({ models }) => models.has(model)) ?? this.idle[0];
    if (!lane) return new Promise((resolve) => this.waiting.push(resolve));
    this.idle.splice(this.idle.indexOf(lane), 1);
    return lane;
  }

  private leave(lane: Lane): void {
    const next = this.waiting.shift();
    if (next) next(lane);
    else this.idle.unshift(lane);
  }

  /** Asks a lane that has nothing to do, and lets the next question in. */
  private async *askLane(lane: Lane, ask: Ask, bytes: Uint8Array, signal?: AbortSignal): AsyncGenerator<Told> {
    if (signal?.aborted) {
      this.leave(lane);
      throw signal.reason;
    }
    const worker = (lane.worker ??= new Worker("worker.js", { type: "module" }));
    const reports: Report[] = [];
    let wake = () => {};
    let over = false;
    const end = () => {
      over = true;
      worker.onmessage = worker.onerror = null;
      this.leave(lane);
    };
    const stop = () => {
      worker.terminate();
      lane.worker = undefined;
      lane.models.clear();
    };
    const take = (report: Report) => {
      reports.push(report);
      if (!("message" in report)) end();
      wake();
    };
    worker.onmessage = ({ data }: MessageEvent<Report>) => take(data);
    worker.onerror = (event) => {
      stop();
      take({ failed: event.message || "the engine could not be loaded" });
    };
    const abandon = () => {
      wake();
      setTimeout(() => {
        if (over) return;
        stop();
        end();
      }, PATIENCE);
    };
    signal?.addEventListener("abort", abandon, { once: true });
    try {
      const shipped = (await this.shipped).find(({ model }) => "model" in ask && model === ask.model);
      worker.postMessage({ message: toMessage({ id: ++this.asked, ask }, bytes), shipped } satisfies Order);
      for (;;) {
        signal?.throwIfAborted();
        const report = reports.shift();
        if (report === undefined) {
          await new Promise<void>((resolve) => (wake = resolve));
        } else if ("message" in report) {
          if (shipped) lane.models.add(shipped.model);
          const told = fromMessage(report.message);
          if (told.answer.what === "refused") throw new Error(told.answer.sentence);
          if (told.answer.what !== "done") yield told;
        } else {
          if ("failed" in report) throw new Error(report.failed);
          return;
        }
      }
    } finally {
      signal?.removeEventListener("abort", abandon);
      if (!over) abandon();
    }
  }
}

/** 0 to `count` in about equal ranges, at most so many `parts`. */
function shares(count: number, parts: number): [from: number, to: number][] {
  const ends = Math.max(1, Math.min(parts, count));
  const end = (part: number) => Math.floor((count * part) / ends);
  return Array.from({ length: ends }, (_, part) => [end(part), end(part + 1)]);
}

/** What all of them yield, as it comes. */
async function* merged<T>(sources: AsyncGenerator<T>[]): AsyncGenerator<T> {
  const next = (source: AsyncGenerator<T>) => source.next().then((result) => ({ source, result }));
  const open = new Map(sources.map((source) => [source, next(source)]));
  while (open.size > 0) {
    const { source, result } = await Promise.race(open.values());
    if (result.done) {
      open.delete(source);
    } else {
      open.set(source, next(source));
      yield result.value;
    }
  }
}

async function shippedModels(): Promise<Shipped[]> {
  const response = await fetch("models.json");
  if (!response.ok) throw new Error("open the address that kiln play printed: only it may ask");
  return (await response.json()) as Shipped[];
}
