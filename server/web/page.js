// The page of a randygpt server. All that it shows of a release is foreign text: it is only ever set as text.
"use strict";

const POLL_MS = 3000;
const $ = (id) => document.getElementById(id);
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

let controller = null; // of the text being written
let shown = ""; // what was last told of the model

const visible = (text) =>
  String(text).replace(UNSEEN, (mark) => `\\u${mark.codePointAt(0).toString(16).padStart(4, "0")}`);

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = visible(text);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function headers() {
  const key = $("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function failure(response) {
  let words = `${response.status} ${response.statusText}`;
  try {
    const { error } = await response.json();
    words = error.message ?? error;
  } catch { /* no JSON: the status will do */ }
  if (response.status === 401) $("access").open = true;
  return new Error(words);
}

// ---- writing

async function* events(response) {
  let rest = "";
  for await (const piece of pieces(response.body.pipeThrough(new TextDecoderStream()))) {
    const parts = (rest + piece).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
  throw new Error("the connection ended before the text did");
}

async function* pieces(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.releaseLock();
  }
}

function asked(prompt) {
  const body = { prompt, stream: true, stream_options: { include_usage: true } };
  for (const name of ["temperature", "top_p", "top_k", "max_tokens", "seed"]) {
    const field = $(name);
    if (!field.checkValidity()) throw new Error(`${field.labels[0].textContent.trim()}: ${field.validationMessage}`);
    if (field.value !== "") body[name] = Number(field.value);
  }
  return body;
}

async function write() {
  if (controller) return;
  controller = new AbortController();
  const began = performance.now();
  let tokens = 0;
  const rate = (count) => `${count} tokens, ${Math.round(count / ((performance.now() - began) / 1000))} a second`;
  busy(true);
  $("problem").textContent = "";
  $("drawn").textContent = "";
  $("given").textContent = $("prompt").value;
  try {
    const response = await fetch("/v1/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers() },
      body: JSON.stringify(asked($("prompt").value)),
      signal: controller.signal,
    });
    if (!response.ok) throw await failure(response);
    const release = response.headers.get("X-Release");
    let end = "";
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      for (const choice of event.choices) {
        tokens += 1;
        $("drawn").append(choice.text);
        end = choice.finish_reason ?? end;
      }
      if (event.usage) tokens = event.usage.completion_tokens;
      $("status").setAttribute("aria-live", event.usage ? "polite" : "off"); // only the end is read out
      $("status").textContent = rate(tokens);
    }
    const why = end === "length" ? "as many as allowed" : "the model ended it";
    $("status").textContent = `${rate(tokens)}: ${why}${release ? `; by release ${release.slice(0, 12)}` : ""}`;
  } catch (error) {
    if (error.name === "AbortError") $("status").textContent = `stopped after ${rate(tokens)}`;
    else $("problem").textContent = visible(error.message);
  } finally {
    controller = null;
    busy(false);
  }
}

function busy(is) {
  $("write").disabled = is;
  $("stop").disabled = !is;
  document.body.classList.toggle("writing", is);
  if (is) $("status").textContent = "writing";
  if (is && document.activeElement === $("write")) $("stop").focus();
  if (!is && document.activeElement === document.body) $("write").focus();
}

// ---- where the model comes from

async function look() {
  try {
    const response = await fetch("/provenance", { headers: headers() });
    if (!response.ok) throw await failure(response);
    const text = await response.text();
    if (text === shown) return;
    shown = text;
    show(JSON.parse(text));
  } catch (error) {
    shown = "";
    $("headline").textContent = error instanceof TypeError ? "the server does not answer" : visible(error.message);
  }
}

function show({ model, release, releases, followed, failure: reason }) {
  const title = release ? `${release.name}, version ${release.version}` : model?.label;
  $("headline").textContent = visible(title ?? "no model yet: waiting for a first release");
  document.title = `${visible(title ?? "waiting")} · randygpt`;
  $("facts").replaceChildren(...facts(model, release));
  $("failure").hidden = !reason;
  $("failure").textContent = reason ? visible(`The newest release is not served: ${reason}`) : "";
  showCard(release?.card ?? {});
  $("shelf").hidden = releases.length === 0;
  keepFocus($("releases"), () => $("releases").replaceChildren(...releases.map(shelved)));
  $("relays").hidden = followed.length === 0;
  $("links").replaceChildren(...followed.flatMap(linked));
}

function facts(model, release) {
  if (!model) return [];
  if (!release) return rows([["Model", model.name], ["From", model.label], model.sha256 && ["SHA-256", code(model.sha256)]]);
  return rows([
    ["Name", release.name],
    ["Version", release.version],
    ["Author", release.author_name ?? "not on your list of trusted authors"],
    ["Key", code(release.author)],
    ["Signed", when(release.created_at)],
    ["Release", code(release.release)],
    ["SHA-256", code(release.sha256)],
    ["Size", `${(release.size / 1e6).toFixed(1)} MB${release.partial ? ", weights only" : ""}`],
    ["Model", model.name],
  ]);
}

function rows(pairs) {
  return pairs.filter(Boolean).flatMap(([name, value]) => {
    const cell = make("dd", value instanceof Node ? undefined : value);
    if (value instanceof Node) cell.append(value);
    return [make("dt", name), cell];
  });
}

function code(text) {
  const whole = document.createElement("span");
  const copy = make("button", "copy", { type: "button", class: "small", "aria-label": `copy ${text.slice(0, 12)}…` });
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(whole.firstChild);
      copy.textContent = "selected";
    }
  });
  whole.append(make("code", text), copy);
  return whole;
}

function when(seconds) {
  const date = new Date(seconds * 1000);
  return make("time", date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }), {
    datetime: date.toISOString(),
  });
}

function showCard(card) {
  const { history, ...training } = card.training ?? {};
  const entries = Object.entries({ ...card, ...training });
  const plain = entries.filter(([, value]) => ["string", "number", "boolean"].includes(typeof value));
  const words = (value) => (typeof value === "number" ? Number(value.toPrecision(6)).toLocaleString("en") : value);
  $("card").replaceChildren(...rows(plain.map(([name, value]) => [name.replaceAll("_", " "), words(value)])));
  const points = (Array.isArray(history) ? history : []).filter(
    (point) => Array.isArray(point) && point.length === 3 && point.every(Number.isFinite),
  );
  $("curve").hidden = points.length < 2;
  if (points.length >= 2) $("curve").replaceChildren(drawn(points), caption(points));
  $("training").hidden = plain.length === 0 && points.length < 2;
}

function caption(points) {
  const last = points.at(-1);
  return make("figcaption", `Loss by iteration: validation (bold) ${last[2].toFixed(3)}, training ${last[1].toFixed(3)} at the end`);
}

function drawn(points) {
  const [width, height, left, bottom, top] = [320, 150, 34, 20, 8];
  const svg = part("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  svg.setAttribute("aria-label", `loss from ${points[0][2].toFixed(3)} to ${points.at(-1)[2].toFixed(3)}`);
  const losses = points.flatMap(([, train, validation]) => [train, validation]);
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const [first, last] = [points[0][0], points.at(-1)[0]];
  const x = (iteration) => left + ((iteration - first) / (last - first || 1)) * (width - left - 6);
  const y = (loss) => top + ((high - loss) / (high - low || 1)) * (height - top - bottom);
  for (const loss of [high, (high + low) / 2, low]) {
    svg.append(part("line", { class: "axis", x1: left, x2: width, y1: y(loss), y2: y(loss) }));
    svg.append(part("text", { x: left - 5, y: y(loss) + 4, "text-anchor": "end" }, loss.toFixed(2)));
  }
  svg.append(part("text", { x: left, y: height - 4 }, first.toLocaleString("en")));
  svg.append(part("text", { x: width - 6, y: height - 4, "text-anchor": "end" }, last.toLocaleString("en")));
  for (const [index, name] of [[1, "train"], [2, "validation"]]) {
    const line = points.map((point) => `${x(point[0]).toFixed(1)},${y(point[index]).toFixed(1)}`).join(" ");
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
  const by = release.author_name ?? `${release.author.slice(0, 12)}…`;
  entry.append(make("span", `${release.name} ${release.version}`), make("small", `by ${by}, `));
  entry.lastChild.append(when(release.created_at));
  if (release.serving) {
    entry.append(make("span", "answers", { class: "mark good" }));
    return entry;
  }
  const words = `use ${visible(release.name)} ${release.version}`;
  const button = make("button", "use this one", { type: "button", class: "small", "aria-label": words });
  button.dataset.release = release.release;
  button.addEventListener("click", () => use(release.release, button));
  entry.append(button);
  return entry;
}

async function use(release, button) {
  $("problem").textContent = "";
  button.disabled = true;
  try {
    const response = await fetch("/admin/use", {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers() },
      body: JSON.stringify({ release }),
    });
    if (!response.ok) throw await failure(response);
    await look();
  } catch (error) {
    $("problem").textContent = visible(error.message);
  } finally {
    button.disabled = false;
  }
}

function keepFocus(list, change) {
  const held = list.contains(document.activeElement) ? document.activeElement.dataset.release : null;
  change();
  if (held) (list.querySelector(`[data-release="${held}"]`) ?? $("prompt")).focus();
}

function linked({ name, relays, running, updated_at: at }) {
  const lines = relays.map(({ url, connected, reason }) => {
    const entry = make("li", url);
    const good = running && connected;
    entry.append(make("span", good ? "connected" : "away", { class: `mark ${good ? "good" : "bad"}` }));
    if (reason) entry.append(make("small", reason));
    return entry;
  });
  const words = running ? "is followed" : "is not followed any more";
  const first = make("li", `${name} ${words}`);
  if (Number.isFinite(at)) first.append(make("small", "as of "));
  first.lastChild instanceof Element && first.lastChild.append(when(at));
  return [first, ...lines];
}

// ---- start

$("key").value = sessionStorage.getItem("key") ?? "";
$("key").addEventListener("change", () => {
  sessionStorage.setItem("key", $("key").value.trim());
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
look();
setInterval(() => document.hidden || look(), POLL_MS);
document.addEventListener("visibilitychange", () => document.hidden || look());
