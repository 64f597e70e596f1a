"use strict";

// Four questions for each pair, always in this order; a place is a pair and one of its questions.
const QUESTIONS = [
  ["left", "composition"], ["left", "image"], ["right", "composition"], ["right", "image"],
];
const TEXTS = {
  composition: ["Composition", "1 missing or wrong – 5 all there, in harmony"],
  image: ["Image quality", "1 broken, deformed – 5 clean and beautiful"],
};
const NAMES = {left: "Left picture", right: "Right picture"};

const $ = id => document.getElementById(id);
// `answers` of each picture; `given` is what undo takes back: [at, question, answer before].
const state = {pairs: [], answers: [], at: 0, question: 0, given: []};
const pictures = new Map();  // of this pair and the next one, loaded ahead
let saving = Promise.resolve();  // answers reach the server in the order in which they were given

async function begin() {
  const loaded = await (await fetch("/pairs")).json();
  Object.assign(state, {pairs: loaded.pairs, answers: loaded.answers, rater: loaded.rater});
  $("file").textContent = loaded.file;
  for (const side of ["left", "right"]) build(side);
  $("back").onclick = () => turn(-1);
  $("next").onclick = () => turn(1);
  $("undo").onclick = undo;
  $("again").onclick = () => show(0, 0);
  document.addEventListener("keydown", pressed);
  const open = state.pairs.findIndex(pair => !complete(pair));
  open < 0 ? finish() : show(open, firstOpen(state.pairs[open]));
}

function build(side) {
  const section = $(side);
  section.append($("side").content.cloneNode(true));
  section.querySelector(".picture").onclick = () => enlarge(side);
  for (const [number, [where, aspect]] of QUESTIONS.entries()) {
    if (where !== side) continue;
    const question = $("question").content.cloneNode(true).firstElementChild;
    const [name, help] = TEXTS[aspect];
    question.id = `${side}-${aspect}`;
    question.setAttribute("aria-label", `${NAMES[side]}, ${name.toLowerCase()}: ${help}`);
    question.querySelector("b").textContent = name;
    question.querySelector("span").textContent = help;
    for (let value = 1; value <= 5; value++) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = value;
      button.onclick = () => answer(number, value);
      question.querySelector(".answers").append(button);
    }
    section.append(question);
  }
}

const answered = (pair, [side, aspect]) => state.answers[pair[side]][aspect];
const complete = pair => QUESTIONS.every(question => answered(pair, question));
const firstOpen = pair => Math.max(0, QUESTIONS.findIndex(question => !answered(pair, question)));
const finished = () => $("rating").hidden;

function show(at, question) {
  const turned = state.at !== at || finished();
  Object.assign(state, {at, question});
  $("rating").hidden = false;
  $("end").hidden = true;
  const pair = state.pairs[at];
  if (turned || !$("elements").childElementCount) {
    $("elements").replaceChildren(...pair.elements.map(listed));
    const near = [at, at + 1].filter(number => number < state.pairs.length);
    for (const number of pictures.keys()) if (!near.includes(number)) pictures.delete(number);
    for (const number of near) if (!pictures.has(number)) pictures.set(number, load(number));
    for (const side of ["left", "right"]) $(side).querySelector(".picture").replaceChildren(pictures.get(at)[side]);
  }
  for (const [number, [side, aspect]] of QUESTIONS.entries()) {
    const element = $(`${side}-${aspect}`);
    element.classList.toggle("marked", number === question);
    element.querySelectorAll("button").forEach((button, index) =>
      button.setAttribute("aria-pressed", state.answers[pair[side]][aspect] === index + 1));
  }
  const [side, aspect] = QUESTIONS[question];
  $(`${side}-${aspect}`).focus({preventScroll: true});
  $(`${side}-${aspect}`).scrollIntoView({block: "nearest"});
  head(`Pair ${at + 1} of ${state.pairs.length}`);
  say(`Pair ${at + 1} of ${state.pairs.length}. ${NAMES[side]}, ${TEXTS[aspect][0].toLowerCase()}.`);
}

function load(at) {
  return Object.fromEntries(["left", "right"].map(side => {
    const image = new Image();
    image.src = `/pictures/${state.pairs[at][side]}`;
    image.alt = `${NAMES[side]} of pair ${at + 1}`;
    image.draggable = false;
    image.onerror = () => complain(`The ${NAMES[side].toLowerCase()} of pair ${at + 1} cannot be loaded.`);
    return [side, image];
  }));
}

function finish() {
  $("rating").hidden = true;
  $("end").hidden = false;
  head("");
  $("end").querySelector("h2").focus();
}

function head(place) {
  const rated = state.pairs.filter(complete).length;
  $("place").textContent = [place, `${rated} rated`, state.rater].filter(Boolean).join(" · ");
  $("progress").max = state.pairs.length;
  $("progress").value = rated;
  $("back").disabled = !finished() && state.at === 0;
  $("undo").disabled = !state.given.length;
  $("next").disabled = finished() || !complete(state.pairs[state.at]);
}

function listed(element) {
  const item = document.createElement("li"), category = document.createElement("span");
  category.textContent = `${element.category}: `;
  item.append(category, element.trigger);
  item.title = element.name;
  return item;
}

function answer(question, value) {
  const pair = state.pairs[state.at], fresh = !complete(pair);
  state.given.push([state.at, question, answered(pair, QUESTIONS[question])]);
  change(pair, QUESTIONS[question], value);
  if (!complete(pair)) {
    const after = QUESTIONS.findIndex((other, number) => number > question && !answered(pair, other));
    show(state.at, after < 0 ? firstOpen(pair) : after);
  } else if (fresh) turn(1, true);
  else show(state.at, Math.min(question + 1, QUESTIONS.length - 1));
}

function turn(by, onwards) {
  let at = finished() ? state.pairs.length - 1 : state.at + by;
  if (onwards || at >= state.pairs.length) {  // the next that is not rated, else the first
    at = state.pairs.findIndex((pair, number) => number > state.at && !complete(pair));
    if (at < 0) at = state.pairs.findIndex(pair => !complete(pair));
    if (at < 0) return finish();
  }
  if (at >= 0) show(at, firstOpen(state.pairs[at]));
}

function undo() {
  if (!state.given.length) return;
  const [at, question, before] = state.given.pop();
  change(state.pairs[at], QUESTIONS[question], before);
  show(at, question);
}

// A picture reaches the file when it has both answers, and leaves it when it no longer has.
function change(pair, [side, aspect], value) {
  const picture = pair[side], answers = state.answers[picture], kept = answers.composition && answers.image;
  answers[aspect] = value;
  const {composition, image} = answers, given = composition && image ? {composition, image} : null;
  if (!given && !kept) return;
  saving = saving.then(async () => {
    try {
      const response = await fetch("/rate", {
        method: "POST",
        headers: {"Content-Type": "application/json"},
        body: JSON.stringify({picture, given}),
      });
      if (!response.ok) throw new Error((await response.json()).error);
      $("error").hidden = true;
    } catch (error) {
      complain(`Not kept: ${error.message}. Is the server still running? Reload this page, then go on.`);
    }
  });
}

function enlarge(side) {
  const image = $("large").querySelector("img");
  ({src: image.src, alt: image.alt} = pictures.get(state.at)[side]);
  $("large").showModal();
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.repeat && !event.key.startsWith("Arrow")) return; // a key that is held would answer for the next pair, too
  if ($("large").open) {
    if (event.key.toLowerCase() === "z") $("large").close();
    return;
  }
  const moves = {ArrowLeft: () => turn(-1), ArrowRight: () => $("next").disabled || turn(1), Backspace: undo};
  if (!finished()) {
    const mark = by => show(state.at, Math.min(Math.max(state.question + by, 0), QUESTIONS.length - 1));
    Object.assign(moves, {
      ArrowUp: () => mark(-1), ArrowDown: () => mark(1), z: () => enlarge(QUESTIONS[state.question][0]),
    });
    if (/^[1-5]$/.test(event.key)) moves[event.key] = () => answer(state.question, Number(event.key));
  }
  const move = moves[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!move) return;
  event.preventDefault();
  move();
}

const say = text => { $("status").textContent = text; };

function complain(text) {
  $("error").textContent = text;
  $("error").hidden = false;
}

begin().catch(error => complain(`The pairs cannot be loaded: ${error.message}`));
