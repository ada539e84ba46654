// What the page shows of the model: who published it, how to get it, its card, and the operator's part.
"use strict";

const POLL_MS = 3000;
const TIMEOUT_MS = 20000;
const MAX_ROWS = 60; // of a model card
const MAX_LENGTH = 400; // characters of a value
const MAX_POINTS = 1000; // of the loss curve
let polling = null; // promise of the running poll
let lastFacts = ""; // JSON text that the page shows
const rendered = {}; // JSON text that each part was rendered from
let unauthorized = false; // the last poll was refused: no key, or a wrong one

const short = (text) => (text.length > MAX_LENGTH ? `${text.slice(0, MAX_LENGTH)}…` : text);
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** Poll once; concurrent callers share the poll. */
function poll() {
  polling ??= readFacts().finally(() => { polling = null; });
  return polling;
}

async function readFacts() {
  try {
    const text = await (await send("/provenance", null, AbortSignal.timeout(TIMEOUT_MS))).text();
    if (unauthorized && document.activeElement !== $("key")) $("access").open = false;
    unauthorized = false;
    if (text !== lastFacts) showFacts(JSON.parse(text));
    lastFacts = text;
  } catch (error) {
    lastFacts = "";
    unauthorized = error.status === 401;
    announce("headline", unauthorized ? "an API key is required" : error.message);
  }
}

function showFacts({ model, release, releases, followed, failure, unread, needs_key: needsKey }) {
  const title = release ? `${release.name}, version ${release.version}` : model?.name;
  announce("headline", title ?? "no model yet: waiting for the first release");
  document.title = `${visible(title ?? "waiting")} · randygpt`;
  $("access").hidden = !needsKey;
  update("facts", [model, release], () => {
    showModel(model, release);
    showGet(release);
  });
  showOperator({ model, release, releases, followed, failure, unread, needsKey });
}

/** Render a part if its data changed: a button that is rendered again loses the focus. */
function update(name, data, render) {
  const text = JSON.stringify(data);
  if (rendered[name] !== text) render();
  rendered[name] = text;
}

// ---- the visitor's part

function showModel(model, release) {
  const card = isObject(release?.card) ? release.card : {};
  const training = isObject(card.training) ? card.training : {};
  $("model").hidden = !model && !release;
  $("words").textContent = model ? inWords(model) : "";
  $("about").textContent = typeof card.about === "string" ? visible(short(card.about)) : "";
  $("figures").replaceChildren(...figures(model, training).map(([value, name]) => {
    const figure = document.createElement("div");
    figure.append(make("dt", name), make("dd", value));
    return figure;
  }));
  const points = lossCurve(training.history);
  $("curve").hidden = points.length < 2;
  $("curve").replaceChildren(...(points.length < 2 ? [] : [lossChart(points), caption(points.at(-1))]));
  $("origin").replaceChildren(...rows(release ? origin(release, card) : []));
  $("facts").replaceChildren(...rows(details(model, release)));
  $("card").replaceChildren(...rows(cardEntries(card)));
}

/** Describe a model by its shape: what its files say, not what its card claims. */
function inWords({ tokenizer, vocab_size: size, block_size: context }) {
  const unit = tokenizer === "char" ? "character" : "token (a piece of a word)";
  return `This GPT writes one ${unit} at a time, out of the ${size.toLocaleString("en")} that it knows, `
    + `and sees the last ${context.toLocaleString("en")} of the text.`;
}

/** Return the first three figures that are known: [value, name]. */
function figures(model, training) {
  const loss = [training.best_loss, training.val_loss].find(isFigure);
  const known = [
    [model && compact.format(model.parameters), "parameters"],
    isFigure(training.bits_per_byte)
      ? [training.bits_per_byte.toFixed(2), "bits per byte"]
      : [loss?.toFixed(2), "validation loss"],
    [isFigure(training.iteration) && (training.iteration + 1).toLocaleString("en"), "iterations"],
    [model && model.block_size.toLocaleString("en"), "context length"],
    [model && model.vocab_size.toLocaleString("en"), "vocabulary"],
  ];
  return known.filter(([value]) => value).slice(0, 3);
}

const isFigure = (value) => Number.isFinite(value) && value >= 0 && value < 1e12;

function origin(release, card) {
  const key = `${release.author.slice(0, 12)}…${release.author.slice(-6)}`;
  const license = typeof card.license === "string" ? [["License", short(card.license)]] : [];
  return [
    ["Signed by", release.author_name ? `${release.author_name} (${key})` : key],
    ["Signed on", timeOf(release.created_at)],
    ...license,
    ...(release.ancestors ?? []).map(ancestor),
    ["Size", `${(release.size / 1e6).toFixed(1)} MB${release.partial ? ", weights only" : ""}`],
  ];
}

/** Return the row of a release that this one was made from: its author's claim, with a link to it. */
function ancestor({ role, author, author_name: name, release, nevent }) {
  const link = make("a", `${release.slice(0, 12)} by ${name ?? `${author.slice(0, 12)}…`}`);
  if (/^nevent1[a-z0-9]+$/.test(nevent)) link.href = `nostr:${nevent}`;
  return [role === "base" ? "Made from" : "Merges", link];
}

function details(model, release) {
  const shape = model ? [["Shape", model.shape]] : [];
  if (release) {
    return [
      ["Key", copyable(release.author)],
      ["Release", copyable(release.release)],
      ["SHA-256", copyable(release.sha256)],
      ...shape,
    ];
  }
  if (!model) return [];
  return model.sha256 ? [...shape, ["SHA-256", copyable(model.sha256)]] : shape;
}

/** Show how a visitor gets the release. */
function showGet(release) {
  const isKnown = /^nevent1[a-z0-9]+$/.test(release?.nevent ?? "") && typeof release.fetch === "string";
  $("get").hidden = !isKnown;
  if (!isKnown) return;
  $("fetch").replaceChildren(copyable(release.fetch));
  $("nostr").href = `nostr:${release.nevent}`;
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

function cardEntries(card) {
  const inner = [card.training, card.config].filter(isObject);
  const plain = [card, ...inner]
    .flatMap(Object.entries)
    .filter(([, value]) => ["string", "number", "boolean"].includes(typeof value))
    .slice(0, MAX_ROWS);
  return plain.map(([name, value]) => [short(name.replaceAll("_", " ")), short(format(value))]);
}

/** Format a value of a model card: numbers as 1,000 and 1.4821. */
function format(value) {
  if (Number.isSafeInteger(value)) return value.toLocaleString("en");
  return String(typeof value === "number" ? Number(value.toPrecision(6)) : value);
}

/** Return the valid points of a card: [iteration (from 0), training loss, validation loss]. */
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
  svg.append(makeSvg("text", { x: left, y: height - 4 }, (x.low + 1).toLocaleString("en")));
  svg.append(makeSvg("text", { x: width - 6, y: height - 4, "text-anchor": "end" }, (x.high + 1).toLocaleString("en")));
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

// ---- the operator's part

function showOperator({ model, release, releases, followed, failure, unread, needsKey }) {
  const reasons = [failure && `The newest release could not be loaded: ${failure}`, unread && `Some of this could not be read: ${unread}`];
  announce("failure", reasons.filter(Boolean).join(". "));
  announce("operator-title", `For the operator of this server${failure || unread ? ": a problem" : ""}`);
  $("operator").hidden = !(model || releases.length || followed.length || failure || unread);
  announce("trust", release ? trust(release) : model ? `The model is the file ${model.label}` : "");
  update("releases", [releases, needsKey], () => {
    $("installed").hidden = releases.length === 0;
    const focused = $("releases").contains(document.activeElement) && document.activeElement.dataset.release;
    $("releases").replaceChildren(...releases.map((each) => releaseItem(each, needsKey)));
    if (focused) ($("releases").querySelector(`[data-release="${focused}"]`) ?? $("releases")).focus();
    $("switching").textContent = needsKey
      ? "Another release stays active until a new version arrives or the server restarts."
      : "To switch releases here, start the server with --api-key-file.";
  });
  $("relays").hidden = followed.length === 0;
  $("relay-list").replaceChildren(...followed.flatMap(followItems));
}

function trust({ author, author_name: name }) {
  return name ? `The author is ${name} on your trust list.` : `The author is not on your trust list. To add the key: randygpt trust add ${author} NAME`;
}

function releaseItem(release, canSwitch) {
  const entry = document.createElement("li");
  const by = make("small", `by ${release.author_name ?? `${release.author.slice(0, 12)}…`}, `);
  by.append(timeOf(release.created_at));
  entry.append(make("span", `${release.name} ${release.version}`), by);
  if (release.current && !release.serving) entry.append(make("small", "current", { class: "mark" }));
  if (release.serving) entry.append(make("span", "active", { class: "mark good" }));
  else if (canSwitch) {
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

$("key").addEventListener("change", () => {
  storedKey($("key").value.trim());
  poll();
});
document.addEventListener("visibilitychange", () => document.hidden || unauthorized || poll());
setInterval(() => document.hidden || unauthorized || poll(), POLL_MS);
poll();
