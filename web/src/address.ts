// The state of the page is in its address, so that a link leads to exactly this picture.

import { useEffect, useState } from "preact/hooks";

export type State = Record<string, string>;

/** What one goes back to. */
const STATIONS = ["view", "model", "run"];

/** The token of `kiln play`. It leaves the address, so that a copied link does not carry it. */
export function takeToken(): string {
  const state = read();
  const given = state["token"];
  if (given !== undefined) {
    sessionStorage.setItem("kiln-token", given);
    delete state["token"];
    history.replaceState(null, "", write(state));
  }
  return sessionStorage.getItem("kiln-token") ?? "";
}

function read(): State {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

function write(state: State): string {
  return `${location.pathname}#${new URLSearchParams(state)}`;
}

/** The state in the address, and how to change some of it. An empty value goes back to the default. */
export function useAddress(): [State, (changes: State) => void] {
  const [state, setState] = useState(read);
  useEffect(() => {
    const changed = () => setState(read());
    addEventListener("popstate", changed);
    return () => removeEventListener("popstate", changed);
  }, []);
  const change = (changes: State) => {
    const next = { ...read(), ...changes };
    for (const [key, value] of Object.entries(next)) if (value === "") delete next[key];
    // The browser's way back leads to the view before.
    const leaves = STATIONS.some((key) => next[key] !== read()[key]);
    history[leaves ? "pushState" : "replaceState"](null, "", write(next));
    setState(next);
  };
  return [state, change];
}
