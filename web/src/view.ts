// What every view gets.

import type { State } from "./address";
import type { Engine } from "./engine";
import type { ModelFacts } from "./protocol";

export interface ViewProps {
  engine: Engine;
  model: ModelFacts;
  state: State;
  change: (changes: State) => void;
}
