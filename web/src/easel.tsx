// A picture to paint on.

import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import { Picture, placeOf } from "./parts";

type Point = [x: number, y: number];

/** Where keys move the brush. */
const MOVES: Record<string, Point> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

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
  const stroke = (from: Point, to: Point) => {
    const next = new Uint8Array(painted.current);
    for (let row = 0; row < height; row++)
      for (let column = 0; column < width; column++)
        if (fromStroke([column + 0.5, row + 0.5], from, to) <= brush) next.set(colour, (row * width + column) * 4);
    painted.current = next;
    paint(next);
  };
  const touch = (event: PointerEvent & { currentTarget: HTMLElement }) => {
    if (event.buttons === 0) return;
    const [across, down] = placeOf(event);
    const to: Point = [across * width, down * height];
    stroke(event.type === "pointerdown" ? to : (before.current ?? to), to);
    before.current = to;
  };
  // The place of the brush that keys move, while the easel has the focus.
  const [place, setPlace] = useState<Point>([width / 2, height / 2]);
  const isDown = useRef(false);
  const press = (event: KeyboardEvent) => {
    const [right, down] = MOVES[event.key] ?? [0, 0];
    if (event.key === " ") isDown.current = true;
    else if (right === 0 && down === 0) return;
    event.preventDefault();
    const within = (at: number, size: number) => Math.min(size, Math.max(0, at));
    const to: Point = [within(place[0] + right * brush, width), within(place[1] + down * brush, height)];
    setPlace(to);
    if (isDown.current) stroke(place, to);
  };
  const lift = (event: KeyboardEvent) => {
    if (event.key === " ") isDown.current = false;
  };
  const ring = { left: `${(100 * place[0]) / width}%`, top: `${(100 * place[1]) / height}%`, width: `${(200 * brush) / width}%` };
  return (
    <figure>
      <div
        class="canvas easel"
        tabIndex={0}
        role="application"
        aria-label={`${label}: arrow keys move the brush, the space bar paints`}
        onPointerDown={touch}
        onPointerMove={touch}
        onKeyDown={press}
        onKeyUp={lift}
        onBlur={() => (isDown.current = false)}
      >
        <Picture pixels={shown} scale={scale} label={label} />
        <span class="brush" style={ring} />
      </div>
      <figcaption>paint with the pointer, or with the arrow keys while the space bar is down</figcaption>
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
