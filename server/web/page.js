// The web page of a randygpt server. Everything it shows of a release is untrusted, and only ever set as text.
"use strict";

const POLL_MS = 3000;
const TIMEOUT_MS = 20000;
const MAX_ROWS = 60; // of a model card
const MAX_LENGTH = 400; // characters of a value
const MAX_POINTS = 1000; // of the loss curve
const $ = (id) => document.getElementById(id);
const INVISIBLE = /(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu; // control, format (bidirectional) and separator characters

let controller = null; // aborts the running generation
let polling = null; // promise of the running poll
let lastFacts = ""; // JSON text that the page shows
const rendered = {}; // JSON text that each part was rendered from
let unauthorized = false; // the last poll was refused: no key, or a wrong one

const visible = (text) => String(text).replace(INVISIBLE, (mark) => `\\u{${mark.codePointAt(0).toString(16)}}`);
const short = (text) => (text.length > MAX_LENGTH ? `${text.slice(0, MAX_LENGTH)}…` : text);
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = visible(text);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Set the text of a live region; an unchanged one is not announced again. */
function announce(id, text) {
  if ($(id).textContent !== visible(text)) $(id).textContent = visible(text);
}

// ---- requests

async function send(path, body, signal) {
  const key = $("key").value.trim();
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const content = body && { method: "POST", body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, { ...content, headers, signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("the server does not respond");
  }
  if (response.ok) return response;
  let message = `${response.status} ${response.statusText}`;
  try {
    const { error } = await response.json();
    message = error.message ?? error;
  } catch { /* not JSON: the status is enough */ }
  if (response.status === 401) $("access").open = true;
  throw Object.assign(new Error(message), { status: response.status });
}

// ---- generation

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(disconnected);
    if (done) disconnected();
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function disconnected(error) {
  throw error?.name === "AbortError" ? error : new Error("the connection was lost before the text was complete");
}

/** Return the request that the form describes; null, after reporting it, if a field is invalid. */
function readForm() {
  const body = { prompt: $("prompt").value, stream: true, stream_options: { include_usage: true } };
  body.logprobs = 0; // log probabilities, so that tokens can be counted
  for (const name of ["temperature", "top_p", "top_k", "min_p", "repeat_penalty", "max_tokens", "seed"]) {
    const field = $(name);
    field.setAttribute("aria-invalid", !field.checkValidity());
    if (!field.checkValidity()) {
      $("sampling").open = true;
      field.focus();
      announce("error", `${field.labels[0].textContent.trim()}: ${field.validationMessage}`);
      return null;
    }
    if (field.value !== "") body[name] = Number(field.value);
  }
  return body;
}

async function generate() {
  const body = controller ? null : readForm();
  if (!body) return;
  controller = new AbortController();
  const began = performance.now();
  let tokens = 0;
  let dropped = 0;
  const rate = () => `${tokens} tokens, ${Math.round(tokens / ((performance.now() - began) / 1000))} tokens/s`;
  setBusy(true);
  announce("error", "");
  $("prompt-echo").textContent = body.prompt;
  $("output").textContent = "";
  try {
    const response = await send("/v1/completions", body, controller.signal);
    const release = response.headers.get("X-Release");
    let finishReason = "";
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      dropped = event.usage?.dropped_characters ?? dropped;
      if (!event.choices.length) continue;
      const [choice] = event.choices;
      tokens += choice.logprobs.tokens.length;
      finishReason = choice.finish_reason ?? finishReason;
      append(choice.text);
      $("status").textContent = rate();
    }
    const reason = finishReason === "length" ? "token limit reached" : "end of text";
    const unknown = dropped ? `; ${dropped} characters of the prompt are not in the model's vocabulary and were dropped` : "";
    finish(`${rate()}: ${reason}${release ? `; release ${release.slice(0, 12)}` : ""}${unknown}`);
  } catch (error) {
    if (error.name === "AbortError") finish(`stopped after ${rate()}`);
    else {
      finish(tokens ? `interrupted after ${rate()}` : "");
      announce("error", error.message);
      if (error.status === 401) $("key").focus();
    }
  } finally {
    controller = null;
  }
}

function append(text) {
  const box = $("text");
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  $("output").append(text);
  if (atEnd) box.scrollTop = box.scrollHeight;
}

function finish(message) {
  setBusy(false);
  announce("status", message);
}

function setBusy(isBusy) {
  const [from, to] = isBusy ? [$("generate"), $("stop")] : [$("stop"), $("generate")];
  const hadFocus = document.activeElement === from; // a disabled button loses the focus
  to.disabled = false;
  if (hadFocus) to.focus();
  from.disabled = true;
  document.body.classList.toggle("busy", isBusy);
  if (isBusy) announce("status", "generating");
  $("status").setAttribute("aria-live", isBusy ? "off" : "polite"); // announce only the end
}

// ---- provenance

/** Poll once; concurrent callers share the poll. */
function poll() {
  polling ??= readFacts().finally(() => { polling = null; });
  return polling;
}

async function readFacts() {
  try {
    const text = await (await send("/provenance", null, AbortSignal.timeout(TIMEOUT_MS))).text();
    unauthorized = false;
    if (text !== lastFacts) showFacts(JSON.parse(text));
    lastFacts = text;
  } catch (error) {
    lastFacts = "";
    unauthorized = error.status === 401;
    announce("headline", unauthorized ? "an API key is required" : error.message);
  }
}

function showFacts({ model, release, releases, followed, failure, unread }) {
  const title = release ? `${release.name}, version ${release.version}` : model?.label;
  announce("headline", title ?? "no model yet: waiting for the first release");
  document.title = `${visible(title ?? "waiting")} · randygpt`;
  $("active").hidden = !model && !failure && !unread;
  const reasons = [failure && `The newest release could not be loaded: ${failure}`, unread && `Some of this could not be read: ${unread}`];
  announce("failure", reasons.filter(Boolean).join(". "));
  update("facts", [model, release], () => {
    $("facts").replaceChildren(...rows(facts(model, release)));
    showCard(isObject(release?.card) ? release.card : {});
  });
  update("releases", releases, () => {
    $("installed").hidden = releases.length === 0;
    const focused = $("releases").contains(document.activeElement) && document.activeElement.dataset.release;
    $("releases").replaceChildren(...releases.map(releaseItem));
    if (focused) ($("releases").querySelector(`[data-release="${focused}"]`) ?? $("releases")).focus();
  });
  $("relays").hidden = followed.length === 0;
  $("relay-list").replaceChildren(...followed.flatMap(followItems));
}

/** Render a part if its data changed: a button that is rendered again loses the focus. */
function update(name, data, render) {
  const text = JSON.stringify(data);
  if (rendered[name] !== text) render();
  rendered[name] = text;
}

function facts(model, release) {
  if (release) {
    return [
      ["Name", release.name],
      ["Version", release.version],
      ["Author", release.author_name ?? "not on your list of trusted authors"],
      ["Key", copyable(release.author)],
      ["Signed", timeOf(release.created_at)],
      ["Release", copyable(release.release)],
      ["SHA-256", copyable(release.sha256)],
      ["Size", `${(release.size / 1e6).toFixed(1)} MB${release.partial ? ", weights only" : ""}`],
      ["Model", model.name],
    ];
  }
  if (!model) return [];
  const file = [["From", model.label], ["Model", model.name]];
  return model.sha256 ? [...file, ["SHA-256", copyable(model.sha256)]] : file;
}

function rows(pairs) {
  return pairs.flatMap(([name, value]) => {
    const cell = document.createElement("dd");
    cell.append(value instanceof Node ? value : visible(value));
    return [make("dt", name), cell];
  });
}

function copyable(text) {
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

function timeOf(seconds) {
  const date = new Date(seconds * 1000);
  if (Number.isNaN(date.getTime())) return make("span", "unknown time");
  const text = date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  return make("time", text, { datetime: date.toISOString() });
}

function showCard(card) {
  const inner = [card.training, card.config].filter(isObject);
  const plain = [card, ...inner]
    .flatMap(Object.entries)
    .filter(([, value]) => ["string", "number", "boolean"].includes(typeof value))
    .slice(0, MAX_ROWS);
  $("card").replaceChildren(...rows(plain.map(([name, value]) => [short(name.replaceAll("_", " ")), short(format(value))])));
  const points = lossCurve(card.training?.history);
  $("curve").hidden = points.length < 2;
  $("curve").replaceChildren(...(points.length < 2 ? [] : [lossChart(points), caption(points.at(-1))]));
  $("training").hidden = plain.length === 0 && points.length < 2;
}

/** Format a value of a model card: numbers as 1,000 and 1.4821. */
function format(value) {
  if (Number.isSafeInteger(value)) return value.toLocaleString("en");
  return String(typeof value === "number" ? Number(value.toPrecision(6)) : value);
}

/** Return the valid points of a card: [iteration, training loss, validation loss]. */
function lossCurve(history) {
  const isValid = (value) => Number.isFinite(value) && Math.abs(value) < 1e9;
  const isPoint = (point) => Array.isArray(point) && point.length === 3 && point.every(isValid);
  return Array.isArray(history) ? history.filter(isPoint).slice(0, MAX_POINTS) : [];
}

function caption([, training, validation]) {
  const text = `Loss by iteration; last: validation (bold) ${validation.toFixed(3)}, training ${training.toFixed(3)}`;
  return make("figcaption", text);
}

function lossChart(points) {
  const [width, height, left, bottom, top] = [320, 150, 36, 20, 8];
  const label = `validation loss from ${points[0][2].toFixed(3)} to ${points.at(-1)[2].toFixed(3)}`;
  const svg = makeSvg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const iterations = points.map(([iteration]) => iteration);
  const losses = points.flatMap(([, training, validation]) => [training, validation]);
  const scale = (values, from, to) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return { low, high, at: (value) => from + ((value - low) / (high - low || 1)) * (to - from) };
  };
  const [x, y] = [scale(iterations, left, width - 6), scale(losses, height - bottom, top)];
  for (const loss of [y.high, (y.high + y.low) / 2, y.low]) {
    svg.append(makeSvg("line", { class: "axis", x1: left, x2: width, y1: y.at(loss), y2: y.at(loss) }));
    svg.append(makeSvg("text", { x: left - 5, y: y.at(loss) + 4, "text-anchor": "end" }, loss.toFixed(2)));
  }
  svg.append(makeSvg("text", { x: left, y: height - 4 }, x.low.toLocaleString("en")));
  svg.append(makeSvg("text", { x: width - 6, y: height - 4, "text-anchor": "end" }, x.high.toLocaleString("en")));
  for (const [index, name] of [[1, "train"], [2, "validation"]]) {
    const line = points.map((point) => `${x.at(point[0]).toFixed(1)},${y.at(point[index]).toFixed(1)}`).join(" ");
    svg.append(makeSvg("polyline", { class: name, points: line }));
  }
  return svg;
}

function makeSvg(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function releaseItem(release) {
  const entry = document.createElement("li");
  const by = make("small", `by ${release.author_name ?? `${release.author.slice(0, 12)}…`}, `);
  by.append(timeOf(release.created_at));
  entry.append(make("span", `${release.name} ${release.version}`), by);
  if (release.current && !release.serving) entry.append(make("small", "current", { class: "mark" }));
  if (release.serving) entry.append(make("span", "active", { class: "mark good" }));
  else {
    const name = { type: "button", class: "small", "aria-label": `use ${visible(release.name)} ${release.version}` };
    const button = make("button", "use", name);
    button.dataset.release = release.release;
    button.addEventListener("click", () => use(release.release, button));
    entry.append(button);
  }
  return entry;
}

async function use(release, button) {
  announce("use-error", "");
  button.textContent = "loading…";
  try {
    await send("/admin/use", { release });
    await polling; // a poll that began before the swap
    await poll();
  } catch (error) {
    announce("use-error", error.message);
    if (error.status === 401 || error.status === 403) $("access").open = true;
    if (error.status === 401) $("key").focus();
  } finally {
    button.textContent = "use";
  }
}

function followItems({ name, relays, running, updated_at: at }) {
  const first = make("li", `${name}: ${running ? "following" : "no longer followed"}`);
  if (at !== null) {
    first.append(make("small", "as of "));
    first.lastChild.append(timeOf(at));
  }
  const lines = relays.map(({ url, connected, reason }) => {
    const entry = make("li", url);
    const good = running && connected;
    entry.append(make("span", good ? "connected" : "disconnected", { class: `mark ${good ? "good" : "bad"}` }));
    if (reason) entry.append(make("small", short(reason)));
    return entry;
  });
  return [first, ...lines];
}

// ---- startup

function storedKey(key) {
  try {
    if (key !== undefined) sessionStorage.setItem("key", key);
    return sessionStorage.getItem("key") ?? "";
  } catch {
    return ""; // storage is disabled
  }
}

$("key").value = storedKey();
$("key").addEventListener("change", () => {
  storedKey($("key").value.trim());
  poll();
});
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
$("stop").addEventListener("click", () => controller?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") controller?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate();
});
document.addEventListener("visibilitychange", () => document.hidden || unauthorized || poll());
setInterval(() => document.hidden || unauthorized || poll(), POLL_MS);
poll();
