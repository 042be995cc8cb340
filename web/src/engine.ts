// The engine behind the page: it is asked, and its answers come one by one.

import type { Answer, Answered, Ask, Question, Sheet } from "./protocol";

/** An answer, and the bytes behind it. */
export interface Told {
  answer: Answer;
  bytes: Uint8Array;
}

/** Answers questions. An aborted question ends its work. */
export interface Engine {
  ask(ask: Ask, bytes?: Uint8Array, signal?: AbortSignal): AsyncGenerator<Told>;
}

/** A message: the length of the JSON (u32, little-endian), the JSON, and bytes. */
export function toMessage(question: Question, bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const json = new TextEncoder().encode(JSON.stringify(question));
  const message = new Uint8Array(4 + json.length + bytes.length);
  new DataView(message.buffer).setUint32(0, json.length, true);
  message.set(json, 4);
  message.set(bytes, 4 + json.length);
  return message;
}

export function fromMessage(message: Uint8Array): Told {
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  const length = view.getUint32(0, true);
  const json = new TextDecoder().decode(message.subarray(4, 4 + length));
  const { answer } = JSON.parse(json) as Answered;
  return { answer, bytes: message.subarray(4 + length) };
}

/** The engine of `kiln play`, on the server that the page came from. */
export class ServedEngine implements Engine {
  private asked = 0;

  constructor(private readonly token: string) {}

  async *ask(ask: Ask, bytes = new Uint8Array(), signal?: AbortSignal): AsyncGenerator<Told> {
    const id = ++this.asked;
    const body = toMessage({ id, ask }, bytes);
    const headers = { "x-kiln-token": this.token };
    const response = await fetch("/ask", { method: "POST", body, headers, signal }).catch((error) => {
      if (signal?.aborted) throw error;
      throw new Error("kiln play does not answer: is it still running?");
    });
    if (!response.ok || !response.body) throw new Error((await response.text()).trim());
    for await (const message of messages(response.body)) {
      const told = fromMessage(message);
      if (told.answer.what === "refused") throw new Error(told.answer.sentence);
      if (told.answer.what === "done") return;
      yield told;
    }
    throw new Error("the answer ended too early: is kiln play still running?");
  }
}

/** Cuts a stream into messages, each behind its length. */
async function* messages(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader();
  let waiting = new Uint8Array();
  try {
    for (;;) {
      while (waiting.length >= 4) {
        const length = new DataView(waiting.buffer, waiting.byteOffset).getUint32(0, true);
        if (waiting.length < 4 + length) break;
        yield waiting.slice(4, 4 + length);
        waiting = waiting.subarray(4 + length);
      }
      const { value, done } = await reader.read();
      if (done) return;
      const joined = new Uint8Array(waiting.length + value.length);
      joined.set(waiting);
      joined.set(value, waiting.length);
      waiting = joined;
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

/** The pictures of a sheet, as canvases take them. */
export function pictures(sheet: Sheet, bytes: Uint8Array): ImageData[] {
  const { at, count, width, height } = sheet;
  const size = width * height * 4;
  return Array.from({ length: count }, (_, index) => {
    const pixels = bytes.slice(at + index * size, at + (index + 1) * size);
    return new ImageData(new Uint8ClampedArray(pixels.buffer), width, height);
  });
}
