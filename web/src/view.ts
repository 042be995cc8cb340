// What every view gets.

import type { State } from "./address";
import type { Engine } from "./engine";
import type { ModelFacts, ModelName } from "./protocol";

export interface ViewProps {
  engine: Engine;
  model: ModelFacts;
  /** All models in reach. */
  models: ModelName[];
  state: State;
  change: (changes: State) => void;
}
