// What every view gets.

import type { State } from "./address";
import type { Engine } from "./engine";
import type { ModelFacts, ModelName, RunName } from "./protocol";

export interface ViewProps {
  engine: Engine;
  model: ModelFacts;
  /** All models in reach. */
  models: ModelName[];
  /** All runs in reach. */
  runs: RunName[];
  state: State;
  change: (changes: State) => void;
}
