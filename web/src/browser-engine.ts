// The engine of `kiln web`: WebAssembly in a worker, with models that lie beside the page.

import type { Engine, Told } from "./engine";
import { fromMessage, toMessage } from "./engine";
import type { Ask } from "./protocol";
import type { Order, Report, Shipped } from "./worker";

/** An unwanted question may go on for so many milliseconds. Then its worker is stopped and another one begins. */
const PATIENCE = 700;

export class BrowserEngine implements Engine {
  private worker: Worker | undefined;
  private asked = 0;
  /** Ends with the question before: the worker answers one at a time. */
  private busy: Promise<unknown> = Promise.resolve();
  private readonly shipped: Promise<Shipped[]>;

  constructor() {
    this.shipped = shippedModels();
  }

  async *ask(ask: Ask, bytes = new Uint8Array(), signal?: AbortSignal): AsyncGenerator<Told> {
    const shipped = (await this.shipped).find(({ model }) => "model" in ask && model === ask.model);
    const message = toMessage({ id: ++this.asked, ask }, bytes);
    const before = this.busy;
    let leave = () => {};
    this.busy = new Promise<void>((resolve) => (leave = resolve));
    await before;
    if (signal?.aborted) {
      leave();
      throw signal.reason;
    }
    yield* this.answers({ message, shipped }, leave, signal);
  }

  /** Asks the worker; `leave` lets the next question in. */
  private async *answers(order: Order, leave: () => void, signal?: AbortSignal): AsyncGenerator<Told> {
    const worker = (this.worker ??= new Worker("worker.js", { type: "module" }));
    const reports: Report[] = [];
    let wake = () => {};
    let over = false;
    const end = () => {
      over = true;
      worker.onmessage = worker.onerror = null;
      leave();
    };
    const take = (report: Report) => {
      reports.push(report);
      if (!("message" in report)) end();
      wake();
    };
    worker.onmessage = ({ data }: MessageEvent<Report>) => take(data);
    worker.onerror = (event) => {
      this.worker = undefined;
      worker.terminate();
      take({ failed: event.message || "the engine could not be loaded" });
    };
    const abandon = () => {
      wake();
      setTimeout(() => {
        if (over) return;
        this.worker = undefined;
        worker.terminate();
        end();
      }, PATIENCE);
    };
    signal?.addEventListener("abort", abandon, { once: true });
    worker.postMessage(order);
    try {
      for (;;) {
        signal?.throwIfAborted();
        const report = reports.shift();
        if (report === undefined) {
          await new Promise<void>((resolve) => (wake = resolve));
        } else if ("message" in report) {
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

async function shippedModels(): Promise<Shipped[]> {
  const response = await fetch("models.json");
  if (!response.ok) throw new Error("open the address that kiln play printed: only it may ask");
  return (await response.json()) as Shipped[];
}
