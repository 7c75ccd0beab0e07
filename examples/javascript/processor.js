// The author's part: a function of an event. Weighs the strikes of examples/quickstart by what hit the aircraft.
import { config, runProcessor } from "./flowctl.js";

const weights = { Small: 1, Medium: 3, Large: 10, ...config.weights };

runProcessor((event) => {
  const strike = event.json();
  const weight = weights[strike["Wildlife Size"]] ?? 0;
  if (weight < (config.at_least ?? 0)) return null; // filtered
  return { species: strike["Wildlife Species"], weight };
});
