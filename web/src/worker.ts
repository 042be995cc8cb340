// The engine in WebAssembly, in a thread of its own, so that the page never freezes. See `browser-engine.ts`, which starts it.

/** A model that lies beside the page, in `models.json`. */
export interface Shipped {
  model: string;
  title: string;
  /** In `models/` and the model's name, as in the folder of a model. */
  files: string[];
}

/** Page to worker: a question as a message, and the model that it is about. */
export interface Order {
  message: Uint8Array;
  shipped?: Shipped;
}

/** Worker to page: a message, that the question is answered, or why not. */
export type Report = { message: Uint8Array } | { ended: true } | { failed: string };

/** What wasm-bindgen makes of `web/engine`. */
interface Glue {
  default(options: { module_or_path: URL }): Promise<unknown>;
  BrowserEngine: new (models: string) => {
    add(model: string, file: string, bytes: Uint8Array): void;
    answer(message: Uint8Array, send: (message: Uint8Array) => boolean): void;
  };
}

const begun = begin();
const loaded = new Set<string>();

onmessage = async ({ data }: MessageEvent<Order>) => {
  const report = (report: Report) => postMessage(report);
  try {
    const engine = await begun;
    if (data.shipped && !loaded.has(data.shipped.model)) {
      for (const [file, bytes] of await fetchAll(data.shipped)) engine.add(data.shipped.model, file, bytes);
      loaded.add(data.shipped.model);
    }
    engine.answer(data.message, (message) => {
      report({ message });
      return true;
    });
    report({ ended: true });
  } catch (error) {
    report({ failed: error instanceof Error ? error.message : String(error) });
  }
};

async function begin(): Promise<InstanceType<Glue["BrowserEngine"]>> {
  const beside = (file: string) => new URL(file, location.href);
  const glue = (await import(beside("engine.js").href)) as Glue;
  await glue.default({ module_or_path: beside("engine.wasm") });
  return new glue.BrowserEngine(await (await fetched("models.json")).text());
}

function fetchAll({ model, files }: Shipped): Promise<[string, Uint8Array][]> {
  return Promise.all(
    files.map(async (file): Promise<[string, Uint8Array]> => {
      const response = await fetched(`models/${encodeURIComponent(model)}/${file}`);
      return [file, new Uint8Array(await response.arrayBuffer())];
    }),
  );
}

/** A file beside the page. A worker that starts again finds it in the browser's cache. */
async function fetched(path: string): Promise<Response> {
  const response = await fetch(new URL(path, location.href), { cache: "force-cache" });
  if (!response.ok) throw new Error(`${path} is missing beside this page: ${response.status} ${response.statusText}`);
  return response;
}
