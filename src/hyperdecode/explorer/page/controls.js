// The sliders of the page, and what they stand at. Plain elements: keyboard and screen readers know them.

export const byId = (id) => document.getElementById(id);

function signed(value) {
  const rounded = Math.abs(value).toFixed(1);
  return (Number(rounded) === 0 ? "" : value > 0 ? "+" : "\u2212") + rounded;
}

/** Make a labelled slider in `parent` and return {element, input, output, score}. */
export function slider(parent, { id, label, min, max, step, value, words, scored }) {
  const row = document.createElement("div");
  row.className = scored ? "slider scored" : "slider";
  const name = typeof label === "string" ? document.createElement("label") : label;
  if (typeof label === "string") {
    name.textContent = label;
    name.htmlFor = id;
  }
  const input = Object.assign(document.createElement("input"), { type: "range", id, min, max, step });
  input.value = input.dataset.home = value;
  const output = document.createElement("output");
  output.htmlFor = id;
  const score = document.createElement("span");
  const tell = () => {
    output.textContent = (words ?? ((number) => `${signed(number)} SD`))(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", tell);
  input.addEventListener("tell", tell);
  tell();
  row.append(name, input, output);
  if (scored) {
    score.className = "score";
    row.append(Object.assign(score, { title: "where the face lies" }));
  }
  parent.append(row);
  return { row, input, output, score, get value() { return Number(input.value); } };
}

/** Set a slider, or bring it back to where it began. */
export function put(control, value) {
  control.input.value = value ?? control.input.dataset.home;
  control.input.dispatchEvent(new Event("tell"));
}

/** Write the score of each attribute beside its slider. */
export function tellScores(controls, scores) {
  for (const [name, control] of Object.entries(controls)) {
    control.score.textContent = name in scores ? signed(scores[name]) : "";
  }
}

/** A number field and a slider: one latent dimension. */
export function dimension(parent, place, first, scene) {
  const field = Object.assign(document.createElement("input"), {
    type: "number", min: 0, max: scene.dimensions - 1, step: 1, value: first, id: `place${place}`,
  });
  field.setAttribute("aria-label", `Number of dimension ${place + 1}, 0 to ${scene.dimensions - 1}`);
  const control = slider(parent, {
    id: `dimension${place}`, label: field, min: -scene.reach, max: scene.reach, step: 0.1, value: 0,
  });
  control.input.setAttribute("aria-label", `Amount of dimension ${place + 1}`);
  return Object.assign(control, { field, get place() { return whole(field, scene.dimensions - 1); } });
}

/** The whole number in a field, within its bounds. */
export function whole(field, most) {
  const value = Math.round(Number(field.value));
  return Number.isFinite(value) ? Math.min(Math.max(value, 0), most) : 0;
}
