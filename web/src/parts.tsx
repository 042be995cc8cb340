// What several views are made of.

import type { ComponentChildren, JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";

/** A picture, enlarged without blur. */
export function Picture(props: { pixels: ImageData; scale: number; label: string }): JSX.Element {
  const canvas = useRef<HTMLCanvasElement>(null);
  const { pixels, scale, label } = props;
  useEffect(() => canvas.current?.getContext("2d")?.putImageData(pixels, 0, 0), [pixels]);
  const style = { width: `${pixels.width * scale}px`, height: `${pixels.height * scale}px` };
  return <canvas ref={canvas} width={pixels.width} height={pixels.height} style={style} role="img" aria-label={label} />;
}

/** Where the pointer is on what it touches: how far across and how far down, from 0 to 1. */
export function placeOf(event: MouseEvent & { currentTarget: Element }): [across: number, down: number] {
  const box = event.currentTarget.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

/** A picture with its title below it; nothing without one. */
export function Figure(props: { pixels: ImageData | undefined; title: string; scale: number }): JSX.Element | null {
  const { pixels, title, scale } = props;
  if (!pixels) return null;
  return (
    <figure>
      <Picture pixels={pixels} scale={scale} label={title} />
      <figcaption>{title}</figcaption>
    </figure>
  );
}

/** A number with its name. */
export function Amount(props: {
  name: string;
  value: string;
  placeholder?: string;
  min?: number;
  max?: number;
  step?: number;
  change: (value: string) => void;
}): JSX.Element {
  const { name, change, ...rest } = props;
  return (
    <label class="field">
      <span>{name}</span>
      <input
        type="number"
        {...rest}
        onInput={({ currentTarget }) => {
          // The browser marks a number that cannot be, and the page stays as it was.
          const { badInput, rangeUnderflow, rangeOverflow } = currentTarget.validity;
          const isPart = props.step === 1 && !Number.isInteger(Number(currentTarget.value));
          if (!badInput && !rangeUnderflow && !rangeOverflow && !isPart) change(currentTarget.value);
        }}
      />
    </label>
  );
}

/** A choice with its name. */
export function Choice(props: {
  name: string;
  value: string;
  options: [value: string, title: string][];
  change: (value: string) => void;
}): JSX.Element {
  return (
    <label class="field">
      <span>{props.name}</span>
      <select value={props.value} onChange={(event) => props.change(event.currentTarget.value)}>
        {props.options.map(([value, title]) => (
          <option value={value}>{title}</option>
        ))}
      </select>
    </label>
  );
}

/** How far a question is, or why it has no answer. */
export function Status(props: { failure: string | undefined; children?: ComponentChildren }): JSX.Element {
  const { failure, children } = props;
  return (
    <p class={failure === undefined ? "status" : "status failure"} role="status">
      {failure ?? children}
    </p>
  );
}

/** What is seen, and where it comes from. */
export function Explained(props: { children: ComponentChildren }): JSX.Element {
  return <aside class="explained">{props.children}</aside>;
}

/** A paper. */
export function Paper(props: { arxiv: string; children: ComponentChildren }): JSX.Element {
  return (
    <a href={`https://arxiv.org/abs/${props.arxiv}`} rel="noreferrer" target="_blank">
      {props.children}
    </a>
  );
}
