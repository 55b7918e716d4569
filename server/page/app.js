// The page: sends a picture or a video, watches it being made, compares, downloads.
// Text from the server only ever becomes textContent, but for its own /docs, which holds no script;
// nothing is loaded from elsewhere.

const $ = (id) => document.getElementById(id);
const POLL_MS = 2000;
const JOBS_MS = 3000; // between two looks at the jobs while one is not finished,
const IDLE_JOBS_MS = 10_000; // and while all are
const FOLLOW_MS = 700;
const FIRST_WAIT_MS = 250; // before a broken connection is made again; then twice that, and so on
const LONGEST_WAIT_MS = 4000;
const QUIET_MS = 45_000; // the events of a job have a heartbeat every 15 s
const PASSING = [429, 502, 503, 504]; // of a server, or a proxy before it, that will answer otherwise
const STAGES = ["decode", "convert", "upscale", "encode"]; // in the order of the work; others follow
const ASK_KEY = "This server needs a key: enter it above.";
const SILENT = "The server does not answer.";

let key = takeKey();
let watching = null; // the job on display: {id, controller, file}
let urls = []; // object URLs of what is on display

function takeKey() {
  const found = new URLSearchParams(location.hash.slice(1)).get("key");
  if (found) {
    sessionStorage.setItem("key", found);
    history.replaceState(null, "", location.pathname); // not in screenshots, not in bookmarks
  }
  return found ?? sessionStorage.getItem("key");
}

function headers(more = {}) {
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

class Refusal extends Error {
  constructor(text, status) {
    super(text);
    this.passes = PASSING.includes(status);
  }
}

async function call(path, options = {}) {
  const sent = key;
  const answer = await fetch(path, { ...options, headers: headers(options.headers) });
  if (answer.ok) return answer;
  const body = await answer.text();
  if (answer.status === 401 && sent !== key) return call(path, options); // another was given meanwhile
  throw refusal(answer.status, body);
}

// What an answer of 400 and above means, in words for who sits at the page.
function refusal(status, body) {
  if (status === 401) {
    $("key-form").hidden = false;
    return new Refusal(key ? "This key is not known here; enter another one." : ASK_KEY, status);
  }
  let text = `The server answers with status ${status}.`;
  try {
    text = JSON.parse(body).error.message;
  } catch { /* not our form: a proxy's answer */ }
  return new Refusal(text, status);
}

// What reads the answer to a request, asked again and again while the server restarts.
async function insist(signal, work, onTrouble = () => {}) {
  for (let wait = FIRST_WAIT_MS; ; wait = Math.min(2 * wait, LONGEST_WAIT_MS)) {
    try {
      return await work(() => { wait = FIRST_WAIT_MS; });
    } catch (error) {
      if (error.name === "AbortError" || (error instanceof Refusal && !error.passes)) throw error;
    }
    onTrouble();
    await pause(wait, signal);
  }
}

const pause = (ms, signal) => new Promise((resolve, reject) => {
  const leave = () => { clearTimeout(timer); reject(signal.reason); };
  const timer = setTimeout(() => { signal.removeEventListener("abort", leave); resolve(); }, ms);
  signal.addEventListener("abort", leave, { once: true });
});

function say(text = "") {
  $("message").textContent = text;
}

function guarded(work) {
  return async (...given) => {
    try {
      await work(...given);
    } catch (error) {
      if (error.name === "AbortError") return;
      say(error instanceof Refusal ? error.message : SILENT);
      $("work").hidden = true;
    }
  };
}

// --- the engine -------------------------------------------------------------------------------

async function showEngine() {
  let text = SILENT;
  try {
    text = engineText(await (await fetch("/readyz")).json());
  } catch { /* shown as it is */ }
  if ($("engine").textContent !== text) $("engine").textContent = text;
}

function engineText(state) {
  if (state.build) {
    const done = Math.round(state.build.fraction * 100);
    return `Building ${state.build.what}: ${done} %${state.meanwhile ? `; meanwhile pictures run on ${state.meanwhile}` : ""}`;
  }
  if (state.problem) return state.problem;
  if (!state.backend) return "The engine is starting…";
  const model = state.model ? `, model ${state.model}` : "";
  return `${state.backend}${model} on ${state.device}${verdictText(state.calibration)}`;
}

function verdictText({ state, fps, size, verdict }) {
  if (state === "running" || state === "waiting") return " · measuring its speed…";
  if (!fps) return "";
  return ` · ${fps.toFixed(1)} fps at ${size}${verdict ? `: ${verdict}` : ""}`;
}

// --- sending ----------------------------------------------------------------------------------

const start = guarded(async (file) => {
  say();
  await stopWatching();
  $("result").hidden = true;
  const isVideo = file.type.startsWith("video/") || file.type === "image/gif" || /\.(mkv|ts|avi|mov)$/i.test(file.name);
  showWork(`Sending ${file.name}`);
  const answer = await send(isVideo ? "/jobs" : "/upscale", file);
  if (!isVideo) return showPicture(file, answer);
  const job = JSON.parse(await answer.body.text());
  await Promise.all([watch(job.id, file), showJobs()]);
});

// XMLHttpRequest, because fetch does not tell how much of a body has been sent.
function send(path, file) {
  const chosen = ["model", "height"].map((name) => [name, $(name).value]).filter(([, value]) => value);
  const query = chosen.length ? `?${new URLSearchParams(chosen)}` : "";
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    watching = { controller: { abort: () => request.abort() } };
    request.open("POST", path + query);
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.setRequestHeader("Content-Disposition", `attachment; filename*=UTF-8''${encodeURIComponent(file.name)}`);
    request.responseType = "blob";
    request.upload.onprogress = ({ loaded, total }) => showProgress(loaded / total, `${percent(loaded / total)} sent`);
    request.upload.onload = () => showProgress(null, "Waiting for the engine…");
    request.onerror = () => reject(new Refusal("The connection to the server broke; send the file again."));
    request.onabort = () => reject(new DOMException("", "AbortError"));
    request.onload = async () => {
      if (request.status < 400) return resolve({ body: request.response, header: (name) => request.getResponseHeader(name) });
      reject(refusal(request.status, await request.response.text()));
    };
    request.send(file);
  });
}

function showWork(title) {
  $("work").hidden = false;
  $("work-title").textContent = title;
  $("preview").hidden = true;
  hideFollow();
  showProgress(null, "");
}

function showProgress(fraction, text) {
  if (fraction === null) $("bar").removeAttribute("value");
  else $("bar").value = fraction;
  $("numbers").textContent = text;
}

const percent = (fraction) => `${Math.floor(fraction * 100)} %`;

function duration(seconds) {
  const whole = Math.round(seconds);
  const minutes = Math.floor(whole / 60);
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

// --- watching a job ---------------------------------------------------------------------------

async function watch(id, file) {
  const controller = new AbortController();
  watching = { id, controller, file };
  showWork(file ? file.name : `Job ${id.slice(0, 8)}`);
  follow(id, controller.signal);
  const job = await outcome(id, controller.signal);
  controller.abort(); // nothing is to be followed any more
  hideFollow();
  $("work").hidden = true;
  if (job.state === "done") await showVideo(job, file);
  if (job.state === "failed") say(job.error.message);
  await showJobs();
}

// The job once it has ended, however often the connection breaks meanwhile.
function outcome(id, signal) {
  const read = async (onNews) => {
    const answer = await call(`/jobs/${id}/events`, { signal });
    for await (const job of events(answer.body)) {
      onNews();
      showJob(job);
      if (isFinished(job)) return job;
    }
    throw new Error("the events ended before the job did");
  };
  return insist(signal, read, () => {
    $("numbers").textContent = "The connection to the server is lost; reconnecting…";
  });
}

const isFinished = ({ state }) => ["done", "failed", "cancelled"].includes(state);

// Server-sent events by fetch: EventSource cannot send a key.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const quiet = setTimeout(() => reader.cancel(), QUIET_MS); // the other end is gone, in silence
    const { done, value } = await reader.read().finally(() => clearTimeout(quiet));
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice(6));
    }
  }
}

function showJob(job) {
  const { frames, frames_total: total, fps, eta_seconds: eta } = job;
  const parts = [total ? `${frames} of ${total} frames` : `${frames} frames`];
  if (fps) parts.push(`${fps.toFixed(1)} fps`);
  if (eta !== null) parts.push(`${duration(eta)} left`);
  showProgress(total ? Math.min(1, frames / total) : null, job.state === "queued" ? "Waiting for a worker…" : parts.join(" · "));
  if (job.has_preview && job.state === "running") showPreview(job.id).catch(() => { /* another will come */ });
}

let previewAt = -Infinity;

async function showPreview(id) {
  if (performance.now() - previewAt < 1000) return;
  previewAt = performance.now();
  const answer = await fetch(`/jobs/${id}/preview`, { headers: headers() });
  if (!answer.ok || watching?.id !== id || !$("follow").hidden) return;
  const url = URL.createObjectURL(await answer.blob());
  const picture = $("preview");
  picture.onload = () => URL.revokeObjectURL(url);
  picture.src = url;
  picture.hidden = !$("follow").hidden; // the video may have begun meanwhile
}

async function stopWatching() {
  watching?.controller.abort();
  watching = null;
  hideFollow();
  for (const one of $("pair").querySelectorAll("video")) unload(one);
  for (const url of urls.splice(0)) URL.revokeObjectURL(url);
  $("pair").replaceChildren();
}

$("cancel").onclick = guarded(async () => {
  const { id } = watching ?? {};
  await stopWatching();
  $("work").hidden = true;
  if (id) await call(`/jobs/${id}/cancel`, { method: "POST" });
  await showJobs();
});

// --- playing a job while it is made -----------------------------------------------------------

const once = (target, name) => new Promise((resolve) => target.addEventListener(name, resolve, { once: true }));

function hideFollow() {
  const film = $("follow");
  film.hidden = true;
  if (!film.src) return;
  URL.revokeObjectURL(film.src);
  unload(film);
}

function unload(film) { // or it goes on asking for the rest
  film.removeAttribute("src");
  film.load();
}

// Without a way to feed it, or with a codec that it lacks, the browser shows the preview instead.
async function follow(id, signal) {
  const Source = window.ManagedMediaSource ?? window.MediaSource;
  if (!Source) return;
  const film = $("follow");
  let buffer = null;
  let shown = 0;
  try {
    for (;; await pause(FOLLOW_MS, signal)) {
      const { answer, body } = await load(`/jobs/${id}/playlist.m3u8`, signal);
      const list = new TextDecoder().decode(body);
      if (!buffer) {
        const type = answer.headers.get("X-SR-Codecs");
        if (!type) continue; // nothing is finished yet
        if (!Source.isTypeSupported(type)) return;
        const media = new Source();
        film.disableRemotePlayback = true; // ManagedMediaSource insists
        film.src = URL.createObjectURL(media);
        await once(media, "sourceopen");
        buffer = media.addSourceBuffer(type);
        await feed(buffer, `/jobs/${id}/stream/init.mp4`, film, signal);
      }
      const parts = list.split("\n").filter((line) => line && !line.startsWith("#"));
      for (; shown < parts.length; shown += 1) {
        const edge = bufferedEnd(film);
        await feed(buffer, `/jobs/${id}/${parts[shown]}`, film, signal);
        // On a busy machine the clock can run on after the last frame: go back to where it was.
        if (film.currentTime > bufferedEnd(film)) film.currentTime = edge;
        if (shown === 0) {
          film.hidden = false;
          $("preview").hidden = true;
          film.play().catch(() => { /* it has controls */ });
        }
      }
      if (list.includes("#EXT-X-ENDLIST")) return;
    }
  } catch (error) {
    if (error.name !== "AbortError") film.hidden = true; // the preview goes on
  }
}

const bufferedEnd = ({ buffered }) => (buffered.length ? buffered.end(buffered.length - 1) : 0);

const load = (path, signal) => insist(signal, async () => {
  const answer = await call(path, { signal });
  return { answer, body: await answer.arrayBuffer() };
});

async function feed(buffer, path, film, signal) {
  const { body } = await load(path, signal);
  for (;;) {
    try {
      buffer.appendBuffer(body);
      await once(buffer, "updateend");
      return;
    } catch (error) {
      if (error.name !== "QuotaExceededError") throw error;
    }
    const seen = film.currentTime - 1;
    if (seen > 0) {
      buffer.remove(0, seen);
      await once(buffer, "updateend");
    }
    await pause(FOLLOW_MS, signal);
  }
}

// --- the result -------------------------------------------------------------------------------

function keepUrl(blob) {
  const url = URL.createObjectURL(blob);
  urls.push(url);
  return url;
}

async function showPicture(file, { body, header }) {
  const [before, after] = [keepUrl(file), keepUrl(body)];
  const pictures = [before, after].map((url) => Object.assign(new Image(), { src: url }));
  await Promise.all(pictures.map((picture) => picture.decode()));
  pictures[0].alt = "before";
  pictures[1].alt = "after";
  const { naturalWidth: width, naturalHeight: height } = pictures[1];
  const type = header("Content-Type").split("/")[1];
  const stages = (header("Server-Timing") ?? "").split(", ").map((part) => part.split(";dur="));
  showResult(pictures, { width, height }, {
    title: `${width} × ${height}, made by ${header("X-SR-Backend")}`,
    url: after,
    name: `${stem(file.name)}_x4.${type}`,
    stages: Object.fromEntries(stages.map(([name, ms]) => [name, Number(ms)])),
  });
}

async function showVideo(job, file) {
  const link = await (await call(`/jobs/${job.id}/link`, { method: "POST" })).json();
  if (watching?.id !== job.id) return; // something else was begun meanwhile
  const { width, height } = job.manifest.output;
  showResult([...(file ? [before(file)] : []), film(link.url)], { width, height }, {
    title: `${width} × ${height}, ${job.frames} frames at ${job.manifest.fps.toFixed(1)} fps by ${job.manifest.backend.name}`,
    url: link.url,
    name: `${file ? stem(file.name) : job.id.slice(0, 8)}_x4.${job.manifest.output.container}`,
    stages: Object.fromEntries(Object.entries(job.manifest.stages).map(([name, times]) => [name, times.p50_ms])),
  });
  $("play").hidden = false;
  $("play").textContent = "Play";
  const made = $("pair").lastChild;
  made.onerror = () => {
    if (!made.isConnected || made.error.code === MediaError.MEDIA_ERR_NETWORK) return;
    $("play").hidden = true;
    say("This browser cannot play the result; download it.");
  };
}

function film(url) {
  return Object.assign(document.createElement("video"), { src: url, muted: true, loop: true, playsInline: true });
}

// The file as it was, until it turns out that the browser cannot show it, as with AVI.
function before(file) {
  const url = keepUrl(file);
  const isGif = file.type === "image/gif" || /\.gif$/i.test(file.name);
  const shown = isGif ? Object.assign(new Image(), { src: url, alt: "before" }) : film(url);
  shown.onerror = () => {
    shown.remove();
    compare();
  };
  return shown;
}

const stem = (name) => name.replace(/\.[^.]*$/, "");

function showResult(pair, size, { title, url, name, stages }) {
  $("work").hidden = true;
  $("result").hidden = false;
  $("play").hidden = true;
  $("result-title").textContent = title;
  Object.assign($("download"), { href: url, download: name });
  pair.at(-1).classList.add("after");
  $("pair").replaceChildren(...pair);
  $("pair").dataset.width = size.width;
  $("pair").dataset.height = size.height;
  compare();
  zoom();
  showStages(stages);
}

// Two of them, or there is nothing to compare.
function compare() {
  const single = $("pair").children.length < 2;
  $("compare").hidden = single;
  $("pair").classList.toggle("single", single);
}

function zoom() {
  const { width, height } = $("pair").dataset;
  const wanted = $("zoom").value;
  const fit = Math.min(1, $("viewport").clientWidth / width);
  const scale = wanted === "fit" ? fit : Number(wanted) / devicePixelRatio;
  $("pair").style.width = `${width * scale}px`;
  $("pair").style.height = `${height * scale}px`;
  $("pair").classList.toggle("zoomed", scale * devicePixelRatio >= 1);
  split();
}

// Of what is seen, not of the whole: at pixel zoom most of a picture is outside of a phone.
function split() {
  const { scrollLeft, clientWidth } = $("viewport");
  const whole = $("pair").offsetWidth;
  const place = scrollLeft + ($("slider").value / 100) * Math.min(clientWidth, whole);
  $("pair").style.setProperty("--split", `${Number(((100 * place) / whole).toFixed(3))}%`);
}

function showStages(stages) {
  const longest = Math.max(...Object.values(stages), 0.001);
  const names = new Set([...STAGES.filter((name) => name in stages), ...Object.keys(stages)]);
  $("stages").replaceChildren(...[...names].flatMap((name) => {
    const ms = stages[name];
    const bar = Object.assign(document.createElement("dd"), { className: "bar" });
    bar.style.setProperty("--share", `${(100 * ms) / longest}%`);
    return [text("dt", name), bar, text("dd", `${ms.toFixed(ms < 10 ? 1 : 0)} ms`)];
  }));
}

function text(tag, content, className = "") {
  return Object.assign(document.createElement(tag), { textContent: content, className });
}

$("slider").oninput = split;
$("viewport").onscroll = split;
$("zoom").onchange = zoom;
addEventListener("resize", () => $("result").hidden || zoom());
$("pair").onpointermove = ({ clientX, buttons }) => {
  if (!buttons) return;
  const [seen, whole] = [$("viewport"), $("pair")].map((part) => part.getBoundingClientRect());
  $("slider").value = (100 * (clientX - Math.max(seen.left, whole.left))) / Math.min(seen.width, whole.width);
  split();
};
$("play").onclick = () => {
  const films = [...$("pair").querySelectorAll("video")];
  const lead = films.at(-1); // the result: the other one may not be playable
  const resume = lead.paused;
  for (const one of films) {
    if (one !== lead) one.currentTime = lead.currentTime;
    if (resume) one.play().catch(() => { /* it was paused again, or cannot be played */ });
    else one.pause();
  }
  $("play").textContent = resume ? "Pause" : "Play";
};

// --- the list of jobs -------------------------------------------------------------------------

let jobsTimer = 0;
let jobsAsked = 0;

async function showJobs() {
  const asked = ++jobsAsked;
  const { jobs } = await (await call("/jobs?count=20")).json();
  if (asked !== jobsAsked) return; // a later answer is on its way
  $("no-jobs").hidden = jobs.length > 0;
  updateJobs(jobs);
  lookAgain(jobs.every(isFinished) ? IDLE_JOBS_MS : JOBS_MS);
}

// Others send and cancel jobs, too. While there is no server the engine's line says so.
function lookAgain(ms) {
  clearTimeout(jobsTimer);
  jobsTimer = setTimeout(async () => {
    if (document.hidden) return; // until it is seen
    lookAgain(JOBS_MS);
    if (!$("key-form").hidden) return;
    try {
      await showJobs();
      if ($("message").textContent === SILENT) say();
    } catch { /* see above */ }
  }, ms);
}

document.addEventListener("visibilitychange", () => document.hidden || lookAgain(0));

// An item that still holds is left alone: it may have the focus or be under a finger.
function updateJobs(jobs) {
  const list = $("jobs");
  const nameOf = ({ id, state }) => `${id} ${state}`;
  const names = new Set(jobs.map(nameOf));
  const focused = list.contains(document.activeElement) && document.activeElement.closest("li").dataset.job;
  for (const item of [...list.children]) if (!names.has(`${item.dataset.job} ${item.dataset.state}`)) item.remove();
  jobs.forEach((job, place) => {
    const kept = [...list.children].find(({ dataset }) => nameOf(job) === `${dataset.job} ${dataset.state}`);
    const item = kept ?? jobItem(job);
    item.querySelector(".frames").textContent = job.frames ? `, ${job.frames} frames` : "";
    if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null);
    if (!kept && job.id === focused) item.focus(); // its button is gone
  });
}

function jobItem(job) {
  const item = Object.assign(document.createElement("li"), { tabIndex: -1 });
  Object.assign(item.dataset, { job: job.id, state: job.state });
  const row = text("div", "", "row");
  const when = new Date(job.created_at * 1000).toLocaleString();
  const title = text("strong", when);
  title.append(text("span", "", "frames"), " · ", text("span", job.state, `state-${job.state}`));
  row.append(title);
  const act = (name, work) => {
    const button = Object.assign(text("button", name), { type: "button", onclick: guarded(work) });
    button.setAttribute("aria-label", `${name} job of ${when}`);
    row.append(button);
  };
  const finished = isFinished(job);
  if (job.kind === "job" && (job.state === "done" || !finished)) {
    act("Show", async () => {
      await stopWatching();
      await watch(job.id);
    });
  }
  act(finished ? "Delete" : "Cancel", async () => {
    if (finished) {
      if (watching?.id === job.id) {
        await stopWatching();
        $("result").hidden = true;
      }
      await call(`/jobs/${job.id}`, { method: "DELETE" });
    } else await call(`/jobs/${job.id}/cancel`, { method: "POST" });
    await showJobs();
  });
  item.append(row);
  if (job.error) item.append(text("p", job.error.message, "state-failed"));
  return item;
}

// --- the camera -------------------------------------------------------------------------------

const ANSWER_HEADER_BYTES = 32;
const MOST_BUFFERED_BYTES = 1 << 20; // of ours, not yet sent: more would only be latency
let camera = null; // {socket, stream, sent, times, answers, skipped, dropped}

$("live-start").onclick = async () => {
  if (camera) return stopCamera();
  say();
  if (!navigator.mediaDevices) return say("The browser gives a camera only to localhost and to https addresses.");
  $("live-start").disabled = true;
  try {
    await startCamera();
  } catch (error) {
    stopCamera();
    say(error.name === "NotAllowedError" ? "The camera was not allowed." : "There is no camera that works.");
  }
  $("live-start").disabled = false;
};

async function startCamera() {
  const [width, height] = $("live-size").value.split(" × ").map(Number);
  const format = $("live-format").value;
  const stream = await navigator.mediaDevices.getUserMedia({ video: { width, height }, audio: false });
  const query = new URLSearchParams({ width, height, format, answer: format, quality: 85, mode: "latest" });
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new WebSocket(`${scheme}://${location.host}/stream?${query}`, key ? ["sr-stream", key] : ["sr-stream"]);
  socket.binaryType = "arraybuffer";
  camera = { socket, stream, width, height, format, sent: new Map(), number: 0, times: [], answers: [], skipped: 0, dropped: 0 };
  const mine = camera;
  socket.onmessage = ({ data }) => {
    if (camera !== mine) return;
    if (typeof data === "string") hearStream(mine, JSON.parse(data));
    else takeAnswer(mine, data);
  };
  socket.onclose = ({ code }) => {
    if (camera !== mine) return;
    stopCamera();
    if (!$("message").textContent && code !== 1000) say("The live stream was closed.");
  };
  const film = $("live-before");
  film.srcObject = stream;
  await film.play();
  $("live-view").hidden = false;
  $("live-start").textContent = "Stop";
  $("live-start").setAttribute("aria-pressed", "true");
  $("live-numbers").textContent = "Waiting for the engine…";
}

function hearStream(mine, message) {
  if (message.type === "hello") {
    mine.engine = message.engine.name;
    sendFrames(mine);
  } else if (message.type === "error") {
    say(message.error.message);
  } else if (message.type === "stats") {
    mine.dropped = message.dropped;
    showStream(mine);
  }
}

async function sendFrames(mine) {
  const { width, height, socket, format } = mine;
  const grab = Object.assign(document.createElement("canvas"), { width, height });
  const context = grab.getContext("2d", { willReadFrequently: true });
  const film = $("live-before");
  while (camera === mine && socket.readyState === WebSocket.OPEN) {
    await new Promise((resolve) => film.requestVideoFrameCallback ? film.requestVideoFrameCallback(resolve) : requestAnimationFrame(resolve));
    if (socket.bufferedAmount > MOST_BUFFERED_BYTES) {
      mine.skipped += 1;
      continue;
    }
    context.drawImage(film, 0, 0, width, height);
    const body = format === "jpeg"
      ? await new Promise((resolve) => grab.toBlob(resolve, "image/jpeg", 0.9))
      : withoutAlpha(context.getImageData(0, 0, width, height).data);
    if (camera !== mine || socket.readyState !== WebSocket.OPEN) return;
    mine.sent.set(mine.number, performance.now());
    mine.number += 1;
    socket.send(body);
  }
}

function withoutAlpha(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    rgb[to++] = rgba[from];
    rgb[to++] = rgba[from + 1];
    rgb[to++] = rgba[from + 2];
  }
  return rgb;
}

function withAlpha(rgb) {
  const rgba = new Uint8ClampedArray((rgb.length / 3) * 4);
  for (let from = 0, to = 0; from < rgb.length; to += 1) {
    rgba[to++] = rgb[from++];
    rgba[to++] = rgb[from++];
    rgba[to++] = rgb[from++];
    rgba[to] = 255;
  }
  return rgba;
}

// One answer is drawn at a time; one that waits gives way to a newer one.
async function takeAnswer(mine, message) {
  mine.waiting = message;
  if (mine.drawing) return;
  mine.drawing = true;
  while (mine.waiting && camera === mine) {
    const next = mine.waiting;
    mine.waiting = null;
    await draw(mine, next);
  }
  mine.drawing = false;
}

async function draw(mine, message) {
  const head = new DataView(message, 0, ANSWER_HEADER_BYTES);
  const [frame, width, height] = [4, 8, 12].map((place) => head.getUint32(place, true));
  const pixels = new Uint8Array(message, ANSWER_HEADER_BYTES);
  const picture = mine.format === "jpeg"
    ? await createImageBitmap(new Blob([pixels], { type: "image/jpeg" }))
    : new ImageData(withAlpha(pixels), width, height);
  const canvas = $("live-after");
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  if (picture instanceof ImageData) context.putImageData(picture, 0, 0);
  else context.drawImage(picture, 0, 0);
  const now = performance.now();
  mine.times.push(now - mine.sent.get(frame));
  mine.answers.push(now);
  mine.dropped = head.getUint32(28, true);
  for (const number of mine.sent.keys()) if (number <= frame) mine.sent.delete(number);
  for (const list of [mine.times, mine.answers]) if (list.length > 120) list.shift();
  if (mine.answers.length % 5 === 0) showStream(mine);
}

function showStream({ times, answers, dropped, skipped, width, height, engine }) {
  if (answers.length < 2) return;
  const ranked = [...times].sort((a, b) => a - b);
  const rank = (share) => ranked[Math.min(ranked.length - 1, Math.floor(share * ranked.length))].toFixed(0);
  const fps = (1000 * (answers.length - 1)) / (answers.at(-1) - answers[0]);
  $("live-numbers").textContent = `${fps.toFixed(1)} fps · latency ${rank(0.5)} ms, p95 ${rank(0.95)} ms · ${dropped + skipped} dropped · ${width} × ${height} to ${width * 4} × ${height * 4} by ${engine}`;
}

function stopCamera() {
  const { socket, stream } = camera ?? {};
  camera = null;
  socket?.close(1000);
  for (const track of stream?.getTracks() ?? []) track.stop();
  $("live-before").srcObject = null;
  $("live-view").hidden = true;
  $("live-start").textContent = "Start";
  $("live-start").setAttribute("aria-pressed", "false");
}

// --- the API ----------------------------------------------------------------------------------

// Shown here and not by a link to /docs, because a link cannot send the key.
const showApi = guarded(async () => {
  const api = $("api");
  if (location.hash === "#api" && !api.hasChildNodes()) {
    const [docs, openapi] = await Promise.all(["/docs", "/openapi.json"].map(async (path) => (await call(path)).text()));
    const { body } = new DOMParser().parseFromString(docs, "text/html");
    const file = URL.createObjectURL(new Blob([openapi], { type: "application/json" }));
    Object.assign(body.querySelector("a[href='/openapi.json']"), { href: file, download: "openapi.json" });
    body.querySelector("a[href='/']").href = "#";
    api.replaceChildren(...body.querySelector("main").childNodes);
  }
  const wanted = location.hash === "#api"; // now, and not when it was asked for
  api.hidden = !wanted;
  $("page").hidden = $("docs").hidden = wanted;
  if (wanted) scrollTo(0, 0);
});
addEventListener("hashchange", showApi);

// --- start ------------------------------------------------------------------------------------

$("file").onchange = ({ target }) => {
  if (target.files[0]) start(target.files[0]);
  target.value = ""; // the same file can be chosen again
};
for (const button of document.querySelectorAll("[data-sample]")) {
  button.onclick = guarded(async () => {
    const { sample, type } = button.dataset;
    const body = await (await call(sample)).blob();
    await start(new File([body], sample.slice(1), { type }));
  });
}
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) start(event.dataTransfer.files[0]);
  });
}
$("key-form").onsubmit = (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  sessionStorage.setItem("key", key);
  $("key-form").hidden = true;
  say();
  guarded(showJobs)();
  showApi();
};
lookAgain(JOBS_MS);
guarded(showJobs)();
showApi();
showEngine();
setInterval(() => document.hidden || showEngine(), POLL_MS);
