// A picture to paint on.

import type { JSX } from "preact";
import { useRef } from "preact/hooks";
import { Picture, placeOf } from "./parts";

type Point = [x: number, y: number];

/** The picture `shown`, with what a brush does to a copy of `painted`, which has four bytes for each of its pixels. */
export function Easel(props: {
  shown: ImageData;
  painted: Uint8Array;
  /** The four bytes of a pixel that the brush has touched. */
  colour: [number, number, number, number];
  /** How far the brush reaches, in pixels. */
  brush: number;
  scale: number;
  label: string;
  paint: (painted: Uint8Array) => void;
}): JSX.Element {
  const { shown, colour, scale, label, paint } = props;
  const brush = Math.max(1, props.brush);
  const { width, height } = shown;
  // The pointer may move again before the page shows what it painted.
  const painted = useRef<Uint8Array>(props.painted);
  painted.current = props.painted;
  // A fast pointer is seen at a few places only.
  const before = useRef<Point | undefined>(undefined);
  const touch = (event: PointerEvent & { currentTarget: HTMLElement }) => {
    if (event.buttons === 0) return;
    const [across, down] = placeOf(event);
    const to: Point = [across * width, down * height];
    const from = event.type === "pointerdown" ? to : (before.current ?? to);
    before.current = to;
    const next = new Uint8Array(painted.current);
    for (let row = 0; row < height; row++)
      for (let column = 0; column < width; column++)
        if (fromStroke([column + 0.5, row + 0.5], from, to) <= brush) next.set(colour, (row * width + column) * 4);
    painted.current = next;
    paint(next);
  };
  return (
    <figure>
      <div class="canvas" onPointerDown={touch} onPointerMove={touch}>
        <Picture pixels={shown} scale={scale} label={label} />
      </div>
      <figcaption>paint with the pointer</figcaption>
    </figure>
  );
}

/** How far a point is from the line between two others. */
function fromStroke([x, y]: Point, [fromX, fromY]: Point, [toX, toY]: Point): number {
  const [alongX, alongY] = [toX - fromX, toY - fromY];
  const length = alongX ** 2 + alongY ** 2;
  const part = length === 0 ? 0 : Math.min(1, Math.max(0, ((x - fromX) * alongX + (y - fromY) * alongY) / length));
  return Math.hypot(x - fromX - part * alongX, y - fromY - part * alongY);
}
