// The web page of a randygpt server: requests and generation. model.js shows the model. Everything that the page shows of
// a release is untrusted, and only ever set as text.
"use strict";

const MAX_PROMPT = 8000; // characters that are sent to continue a text; no model reads more
const $ = (id) => document.getElementById(id);
const INVISIBLE = /(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu; // control, format (bidirectional) and separator characters

let controller = null; // aborts the running generation

const visible = (text) => String(text).replace(INVISIBLE, (mark) => `\\u{${mark.codePointAt(0).toString(16)}}`);

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
  if (response.status === 401) askForKey();
  throw Object.assign(new Error(message), { status: response.status });
}

function askForKey() {
  $("access").hidden = false;
  $("access").open = true;
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

/** Generate text from the prompt, or continue the text that is shown. */
async function generate(isContinuation = false) {
  const body = controller ? null : readForm();
  if (!body) return;
  if (isContinuation) body.prompt = lastPart($("prompt-echo").textContent + $("output").textContent);
  controller = new AbortController();
  const began = performance.now();
  let tokens = 0;
  let dropped = 0;
  const rate = () => `${tokens} tokens, ${Math.round(tokens / ((performance.now() - began) / 1000))} tokens/s`;
  let finishReason = "";
  setBusy(true);
  announce("error", "");
  if (!isContinuation) {
    $("prompt-echo").textContent = body.prompt;
    $("output").textContent = "";
  }
  try {
    const response = await send("/v1/completions", body, controller.signal);
    const release = response.headers.get("X-Release");
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
    const unknown = dropped && !isContinuation ? `; ${dropped} characters of the prompt are not in the model's vocabulary and were dropped` : "";
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
    $("continue").hidden = finishReason !== "length";
  }
}

/** Return the end of a text, without half a character at its beginning. */
function lastPart(text) {
  return text.slice(-MAX_PROMPT).replace(/^[\udc00-\udfff]/, "");
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
  const hadFocus = [from, $("continue")].includes(document.activeElement); // a disabled or hidden button loses it
  to.disabled = false;
  if (isBusy) $("continue").hidden = true;
  if (hadFocus) to.focus();
  from.disabled = true;
  document.body.classList.toggle("busy", isBusy);
  if (isBusy) announce("status", "generating");
  $("status").setAttribute("aria-live", isBusy ? "off" : "polite"); // announce only the end
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
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
$("stop").addEventListener("click", () => controller?.abort());
$("continue").addEventListener("click", () => generate(true));
if (/^(Mac|iP)/.test(navigator.platform)) $("hint").textContent = "⌘ Enter generates, Esc stops";
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") controller?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate();
});
