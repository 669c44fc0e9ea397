// Asks for a small picture while something moves, for the full one once it rests; never more than one at a time of its own.

import { byId, dimension, put, slider, tellScores, whole } from "./controls.js";

const REST = 350; // milliseconds without a change until the full picture is asked for
const FLUENT = 90, SLOW = 220; // milliseconds of a small picture: below, a larger one is tried; above, a smaller one
const MOST_SEED = 2 ** 31 - 1;

const scene = await (await fetch("scene.json")).json();
const labels = Object.keys(scene.subjects);
const controls = { attributes: {}, directions: [], dimensions: [] };
let preview = Math.max(0, scene.previews.indexOf(128));
let asking = false, again = false, rest = 0, newest = 0, address = "";

build();
moved();

function build() {
  document.title = `${scene.title} – hyperdecode explorer`;
  byId("title").textContent = scene.title;
  byId("about").textContent =
    `${scene.generator}, ${scene.resolution} px, latents in ${scene.space}. Small pictures while a slider moves, the full one when it rests.`;
  const share = (value) => `${Math.round(100 * value)}%`;
  if (labels.length) {
    byId("kinds").hidden = false;
    fill(byId("subject"), labels.map((label) => [label, label]));
    controls.way = slider(byId("way"), {
      id: "share", label: "Way to true", min: 0, max: 1, step: 0.02, value: 0, words: share,
    });
    byId("way").insertAdjacentHTML("beforeend", '<div class="ends" aria-hidden="true"><span>decoded</span><span>true</span></div>');
    faces();
  }
  if (scene.truncates) {
    controls.truncation = slider(byId("truncation"), {
      id: "truncate", label: "Truncation", min: 0, max: 1, step: 0.02, value: 1, words: (value) => value.toFixed(2),
    });
  }
  const span = { min: -scene.reach, max: scene.reach, step: 0.1, value: 0 };
  for (const name of scene.attributes) {
    const parent = document.querySelector("#attributes .sliders");
    controls.attributes[name] = slider(parent, { id: `attribute-${name}`, label: name, scored: true, ...span });
  }
  byId("attributes").hidden = !scene.attributes.length;
  for (let k = 0; k < scene.directions; k++) {
    const parent = document.querySelector("#directions .sliders");
    controls.directions.push(slider(parent, { id: `direction${k}`, label: `Direction ${k + 1}`, ...span }));
  }
  byId("directions").hidden = !scene.directions;
  for (let k = 0; k < Math.min(3, scene.dimensions); k++) {
    controls.dimensions.push(dimension(document.querySelector("#dimensions .sliders"), k, k, scene));
  }
  listen();
  kind();
}

function listen() {
  const form = byId("controls");
  form.addEventListener("input", moved);
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const radio of document.querySelectorAll("[name=kind]")) radio.addEventListener("change", kind);
  byId("subject").addEventListener("change", faces);
  byId("number").addEventListener("change", looks);
  byId("before").addEventListener("click", () => step(-1));
  byId("after").addEventListener("click", () => step(1));
  byId("another").addEventListener("click", () => {
    byId("seed").value = Math.floor(Math.random() * 1e6);
    moved();
  });
  byId("reset").addEventListener("click", () => {
    const all = [controls.way, controls.truncation, ...Object.values(controls.attributes), ...controls.directions, ...controls.dimensions];
    for (const control of all) if (control) put(control);
    truncateAsUsual();
    moved();
  });
}

function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => Object.assign(document.createElement("option"), { value, textContent: text })));
}

function faces() {
  const before = byId("number").value;
  fill(byId("number"), scene.subjects[byId("subject").value].map((name, k) => [k, `${k + 1}: ${name}`]));
  if (before) byId("number").value = before;
  looks();
}

function step(by) {
  const n = byId("number").length;
  byId("number").value = (Number(byId("number").value) + by + n) % n;
  looks();
  moved();
}

function isTest() {
  return labels.length > 0 && document.querySelector("[name=kind]:checked").value === "test";
}

function kind() {
  byId("test").hidden = !isTest();
  byId("random").hidden = isTest();
  truncateAsUsual();
  looks();
}

// Faces of a study are truncated already; one by seed is drawn as `hyperdecode faces sample` draws it.
function truncateAsUsual() {
  if (controls.truncation) put(controls.truncation, isTest() ? 1 : 0.7);
}

function looks() {
  byId("looks").hidden = !isTest();
  if (!isTest()) return;
  const where = `look/${encodeURIComponent(byId("subject").value)}/${byId("number").value}`;
  byId("shown").src = `${where}/shown`;
  byId("decoded").src = `${where}/decoded`;
}

function asked(side) {
  const test = isTest();
  return {
    subject: test ? byId("subject").value : "",
    face: test ? Number(byId("number").value) : 0,
    seed: whole(byId("seed"), MOST_SEED),
    share: test ? controls.way.value : 0,
    truncation: controls.truncation?.value ?? 1,
    attributes: Object.fromEntries(Object.entries(controls.attributes).map(([name, control]) => [name, control.value])),
    keep: byId("keep").checked,
    directions: controls.directions.map((control) => control.value),
    dimensions: controls.dimensions.map((control) => [control.place, control.value]),
    side,
  };
}

function moved() {
  clearTimeout(rest);
  rest = setTimeout(() => ask(scene.resolution), REST);
  if (!scene.previews.length) return;
  again = true;
  if (!asking) follow();
}

// One small picture after the other, each of where the sliders stand then.
async function follow() {
  asking = true;
  while (again) {
    again = false;
    await ask(scene.previews[preview]);
  }
  asking = false;
}

async function ask(side) {
  const number = ++newest, start = performance.now();
  try {
    const answer = await fetch("picture", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked(side)),
    });
    if (answer.status === 204 || number !== newest) return;
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `the server answered ${answer.status}`);
    const blob = await answer.blob();
    if (number !== newest) return;
    const took = performance.now() - start;
    await show(blob, side, took, answer.headers);
    if (side !== scene.resolution) adapt(took);
  } catch (error) {
    tell(error instanceof TypeError ? "The explorer has ended: start it again in the terminal." : String(error.message), true);
  }
}

function adapt(took) {
  if (took < FLUENT && preview < scene.previews.length - 1) preview += 1;
  if (took > SLOW && preview > 0) preview -= 1;
}

async function show(blob, side, took, headers) {
  const before = address;
  address = URL.createObjectURL(blob);
  const picture = byId("picture");
  picture.src = address;
  await picture.decode().catch(() => undefined);
  if (before) URL.revokeObjectURL(before);
  const full = side === scene.resolution;
  picture.alt = isTest()
    ? `Face on the way from decoded to true (${controls.way.output.textContent}) of ${byId("subject").value}, test face ${Number(byId("number").value) + 1}`
    : `Random face of seed ${byId("seed").value}`;
  byId("save").toggleAttribute("href", full);
  byId("save").setAttribute("aria-disabled", String(!full));
  if (full) byId("save").href = address;
  tellScores(controls.attributes, JSON.parse(headers.get("Scores") ?? "{}"));
  tell(`${side} px in ${Math.round(took)} ms (generator ${headers.get("Milliseconds")} ms)`);
}

function tell(words, bad = false) {
  byId("status").textContent = words;
  byId("status").classList.toggle("bad", bad);
}
