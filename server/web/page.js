// The page of a randygpt server. All that it shows of a release is foreign text: it is only ever set as text.
"use strict";

const POLL_MS = 3000;
const PATIENCE_MS = 20000;
const MAX_ROWS = 60; // of a card
const MAX_WORDS = 400; // characters of one value
const MAX_POINTS = 1000; // of a curve
const $ = (id) => document.getElementById(id);
const UNSEEN = /(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu; // control characters, and those that turn text round

let controller = null; // of the text being written
let looking = null; // at where the model comes from
let shown = ""; // what was last told of it
const drawnOf = {}; // what each part was drawn of
let refused = false; // the key that is typed in, or that there is none

const visible = (text) => String(text).replace(UNSEEN, (mark) => `\\u{${mark.codePointAt(0).toString(16)}}`);
const short = (text) => (text.length > MAX_WORDS ? `${text.slice(0, MAX_WORDS)}…` : text);
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = visible(text);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Text of an element that is read out when it changes. */
function say(id, text) {
  if ($(id).textContent !== visible(text)) $(id).textContent = visible(text);
}

// ---- asking the server

async function ask(path, body, signal) {
  const key = $("key").value.trim();
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const content = body && { method: "POST", body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, { ...content, headers, signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("the server does not answer");
  }
  if (response.ok) return response;
  let words = `${response.status} ${response.statusText}`;
  try {
    const { error } = await response.json();
    words = error.message ?? error;
  } catch { /* no JSON: the status will do */ }
  if (response.status === 401) $("access").open = true;
  throw Object.assign(new Error(words), { status: response.status });
}

// ---- writing

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(broken);
    if (done) broken();
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function broken(error) {
  throw error?.name === "AbortError" ? error : new Error("the connection ended before the text did");
}

/** The request in the form; null if a field is wrong, which it says. */
function asked() {
  const body = { prompt: $("prompt").value, stream: true, logprobs: 0 }; // with them, each token can be counted
  for (const name of ["temperature", "top_p", "top_k", "max_tokens", "seed"]) {
    const field = $(name);
    field.setAttribute("aria-invalid", !field.checkValidity());
    if (!field.checkValidity()) {
      $("sampling").open = true;
      field.focus();
      say("problem", `${field.labels[0].textContent.trim()}: ${field.validationMessage}`);
      return null;
    }
    if (field.value !== "") body[name] = Number(field.value);
  }
  return body;
}

async function write() {
  const body = controller ? null : asked();
  if (!body) return;
  controller = new AbortController();
  const began = performance.now();
  let tokens = 0;
  const rate = () => `${tokens} tokens, ${Math.round(tokens / ((performance.now() - began) / 1000))} a second`;
  busy(true);
  say("problem", "");
  $("given").textContent = body.prompt;
  $("drawn").textContent = "";
  try {
    const response = await ask("/v1/completions", body, controller.signal);
    const release = response.headers.get("X-Release");
    let end = "";
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const [choice] = event.choices;
      tokens += choice.logprobs.tokens.length;
      end = choice.finish_reason ?? end;
      extend(choice.text);
      $("status").textContent = rate();
    }
    const why = end === "length" ? "the limit was reached" : "the model ended it";
    finish(`${rate()}: ${why}${release ? `; by release ${release.slice(0, 12)}` : ""}`);
  } catch (error) {
    if (error.name === "AbortError") finish(`stopped after ${rate()}`);
    else {
      finish(tokens ? `broken off after ${rate()}` : "");
      say("problem", error.message);
      if (error.status === 401) $("key").focus();
    }
  } finally {
    controller = null;
  }
}

function extend(text) {
  const box = $("text");
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  $("drawn").append(text);
  if (atEnd) box.scrollTop = box.scrollHeight;
}

function finish(words) {
  busy(false);
  say("status", words);
}

function busy(is) {
  const [from, to] = is ? [$("write"), $("stop")] : [$("stop"), $("write")];
  const held = document.activeElement === from; // a button that is disabled loses the focus
  to.disabled = false;
  if (held) to.focus();
  from.disabled = true;
  document.body.classList.toggle("writing", is);
  if (is) say("status", "writing");
  $("status").setAttribute("aria-live", is ? "off" : "polite"); // only the end is read out
}

// ---- where the model comes from

/** Look once; who comes meanwhile gets the same look. */
function look() {
  looking ??= read().finally(() => { looking = null; });
  return looking;
}

async function read() {
  try {
    const text = await (await ask("/provenance", null, AbortSignal.timeout(PATIENCE_MS))).text();
    refused = false;
    if (text !== shown) show(JSON.parse(text));
    shown = text;
  } catch (error) {
    shown = "";
    refused = error.status === 401;
    say("headline", refused ? "an API key is needed" : error.message);
  }
}

function show({ model, release, releases, followed, failure, unread }) {
  const title = release ? `${release.name}, version ${release.version}` : model?.label;
  say("headline", title ?? "no model yet: waiting for a first release");
  document.title = `${visible(title ?? "waiting")} · randygpt`;
  $("origin").hidden = !model && !failure && !unread;
  const reasons = [failure && `The newest release is not served: ${failure}`, unread && `Not all can be read: ${unread}`];
  say("failure", reasons.filter(Boolean).join(". "));
  redraw("facts", [model, release], () => {
    $("facts").replaceChildren(...rows(facts(model, release)));
    showCard(isObject(release?.card) ? release.card : {});
  });
  redraw("releases", releases, () => {
    $("shelf").hidden = releases.length === 0;
    const held = $("releases").contains(document.activeElement) && document.activeElement.dataset.release;
    $("releases").replaceChildren(...releases.map(shelved));
    if (held) ($("releases").querySelector(`[data-release="${held}"]`) ?? $("releases")).focus();
  });
  $("relays").hidden = followed.length === 0;
  $("links").replaceChildren(...followed.flatMap(linked));
}

/** Draw what is different from the last time: a button that is drawn again loses the focus. */
function redraw(name, data, draw) {
  const text = JSON.stringify(data);
  if (drawnOf[name] !== text) draw();
  drawnOf[name] = text;
}

function facts(model, release) {
  if (release) {
    return [
      ["Name", release.name],
      ["Version", release.version],
      ["Author", release.author_name ?? "not on your list of trusted authors"],
      ["Key", code(release.author)],
      ["Signed", when(release.created_at)],
      ["Release", code(release.release)],
      ["SHA-256", code(release.sha256)],
      ["Size", `${(release.size / 1e6).toFixed(1)} MB${release.partial ? ", weights only" : ""}`],
      ["Model", model.name],
    ];
  }
  if (!model) return [];
  const file = [["From", model.label], ["Model", model.name]];
  return model.sha256 ? [...file, ["SHA-256", code(model.sha256)]] : file;
}

function rows(pairs) {
  return pairs.flatMap(([name, value]) => {
    const cell = document.createElement("dd");
    cell.append(value instanceof Node ? value : visible(value));
    return [make("dt", name), cell];
  });
}

function code(text) {
  const whole = document.createElement("span");
  const name = { type: "button", class: "small", "aria-label": `copy ${text.slice(0, 12)}…` };
  const copy = make("button", "copy", name);
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(whole.firstChild);
      copy.textContent = "selected";
    }
    copy.setAttribute("aria-label", copy.textContent);
  });
  whole.append(make("code", text), copy);
  return whole;
}

function when(seconds) {
  const date = new Date(seconds * 1000);
  if (Number.isNaN(date.getTime())) return make("span", "at no time");
  const words = date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  return make("time", words, { datetime: date.toISOString() });
}

function showCard(card) {
  const inner = [card.training, card.config].filter(isObject);
  const plain = [card, ...inner]
    .flatMap(Object.entries)
    .filter(([, value]) => ["string", "number", "boolean"].includes(typeof value))
    .slice(0, MAX_ROWS);
  $("card").replaceChildren(...rows(plain.map(([name, value]) => [short(name.replaceAll("_", " ")), short(words(value))])));
  const points = curve(card.training?.history);
  $("curve").hidden = points.length < 2;
  $("curve").replaceChildren(...(points.length < 2 ? [] : [drawn(points), caption(points.at(-1))]));
  $("training").hidden = plain.length === 0 && points.length < 2;
}

/** A value of a card: 1,000 and 1.4821 for numbers. */
function words(value) {
  if (Number.isSafeInteger(value)) return value.toLocaleString("en");
  return String(typeof value === "number" ? Number(value.toPrecision(6)) : value);
}

/** [iteration, training loss, validation loss], of what a card says. */
function curve(history) {
  const isFit = (value) => Number.isFinite(value) && Math.abs(value) < 1e9;
  const isPoint = (point) => Array.isArray(point) && point.length === 3 && point.every(isFit);
  return Array.isArray(history) ? history.filter(isPoint).slice(0, MAX_POINTS) : [];
}

function caption([, training, validation]) {
  const words = `Loss by iteration. At the end: validation (bold) ${validation.toFixed(3)}, training ${training.toFixed(3)}`;
  return make("figcaption", words);
}

function drawn(points) {
  const [width, height, left, bottom, top] = [320, 150, 36, 20, 8];
  const label = `validation loss from ${points[0][2].toFixed(3)} to ${points.at(-1)[2].toFixed(3)}`;
  const svg = part("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const iterations = points.map(([iteration]) => iteration);
  const losses = points.flatMap(([, training, validation]) => [training, validation]);
  const scale = (values, from, to) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return { low, high, at: (value) => from + ((value - low) / (high - low || 1)) * (to - from) };
  };
  const [x, y] = [scale(iterations, left, width - 6), scale(losses, height - bottom, top)];
  for (const loss of [y.high, (y.high + y.low) / 2, y.low]) {
    svg.append(part("line", { class: "axis", x1: left, x2: width, y1: y.at(loss), y2: y.at(loss) }));
    svg.append(part("text", { x: left - 5, y: y.at(loss) + 4, "text-anchor": "end" }, loss.toFixed(2)));
  }
  svg.append(part("text", { x: left, y: height - 4 }, x.low.toLocaleString("en")));
  svg.append(part("text", { x: width - 6, y: height - 4, "text-anchor": "end" }, x.high.toLocaleString("en")));
  for (const [index, name] of [[1, "train"], [2, "validation"]]) {
    const line = points.map((point) => `${x.at(point[0]).toFixed(1)},${y.at(point[index]).toFixed(1)}`).join(" ");
    svg.append(part("polyline", { class: name, points: line }));
  }
  return svg;
}

function part(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function shelved(release) {
  const entry = document.createElement("li");
  const by = make("small", `by ${release.author_name ?? `${release.author.slice(0, 12)}…`}, `);
  by.append(when(release.created_at));
  entry.append(make("span", `${release.name} ${release.version}`), by);
  if (release.current && !release.serving) entry.append(make("small", "current", { class: "mark" }));
  if (release.serving) entry.append(make("span", "answers", { class: "mark good" }));
  else {
    const name = { type: "button", class: "small", "aria-label": `use ${visible(release.name)} ${release.version}` };
    const button = make("button", "use this one", name);
    button.dataset.release = release.release;
    button.addEventListener("click", () => use(release.release, button));
    entry.append(button);
  }
  return entry;
}

async function use(release, button) {
  say("refusal", "");
  button.textContent = "is loaded";
  try {
    await ask("/admin/use", { release });
    await looking; // it may have begun before
    await look();
  } catch (error) {
    say("refusal", error.message);
    if (error.status === 401 || error.status === 403) $("access").open = true;
    if (error.status === 401) $("key").focus();
  } finally {
    button.textContent = "use this one";
  }
}

function linked({ name, relays, running, updated_at: at }) {
  const first = make("li", `${name} ${running ? "is followed" : "is not followed any more"}`);
  if (at !== null) {
    first.append(make("small", "as of "));
    first.lastChild.append(when(at));
  }
  const lines = relays.map(({ url, connected, reason }) => {
    const entry = make("li", url);
    const good = running && connected;
    entry.append(make("span", good ? "connected" : "away", { class: `mark ${good ? "good" : "bad"}` }));
    if (reason) entry.append(make("small", short(reason)));
    return entry;
  });
  return [first, ...lines];
}

// ---- start

function keep(key) {
  try {
    if (key !== undefined) sessionStorage.setItem("key", key);
    return sessionStorage.getItem("key") ?? "";
  } catch {
    return ""; // a browser that keeps nothing
  }
}

$("key").value = keep();
$("key").addEventListener("change", () => {
  keep($("key").value.trim());
  look();
});
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});
$("stop").addEventListener("click", () => controller?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") controller?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) write();
});
document.addEventListener("visibilitychange", () => document.hidden || refused || look());
setInterval(() => document.hidden || refused || look(), POLL_MS);
look();
