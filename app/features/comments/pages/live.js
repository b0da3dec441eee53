"use strict";
const SHOWN = 100, RETRY_MILLISECONDS = 10_000;
const [state, choice, hint, list] =
  ["state", "post", "hint", "comments"].map((id) => document.getElementById(id));
let source = null, timer = 0;

function say(text, kind = "") {
  state.textContent = text;
  state.className = kind;
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text; // never as HTML
  return made;
}

function show(comment) {
  const item = document.createElement("li"), time = element("time", "");
  time.dateTime = comment.created_at;
  time.textContent = new Date(comment.created_at).toLocaleTimeString();
  item.dataset.id = comment.id;
  item.append(element("strong", comment.author.name), time, element("p", comment.body));
  list.prepend(item);
  if (list.childElementCount > SHOWN) list.lastElementChild.remove();
}

// `last` is the id of the last comment that the page has, or 0. A browser sends it itself when it
// reconnects. It gives up when the answer is an error, and then the page goes on from the same place.
function listen(post, last) {
  if (source) source.close();
  clearTimeout(timer);
  const own = source = new EventSource(`v1/posts/${post}/comments/stream?after=${last}`);
  say("Connecting …");
  own.onopen = () => say("Connected", "open");
  own.addEventListener("comment", (event) => {
    last = event.lastEventId;
    show(JSON.parse(event.data));
  });
  own.addEventListener("end", (event) => {
    if (JSON.parse(event.data).reason !== "deleted") return;
    own.close();
    say("The post was deleted", "closed");
  });
  own.onerror = () => {
    if (own.readyState !== EventSource.CLOSED) return say("Reconnecting …");
    say("Not available. Trying again in 10 s", "closed");
    timer = setTimeout(() => listen(post, last), RETRY_MILLISECONDS);
  };
}

function choose() {
  list.replaceChildren();
  hint.textContent = `All comments appear here, newest first. Write one: POST /v1/posts/${choice.value}/comments`;
  listen(choice.value, 0);
}

async function load() {
  const response = await fetch("v1/posts?limit=50");
  if (!response.ok) throw new Error();
  const posts = (await response.json()).items;
  for (const post of posts) {
    const option = element("option", `${post.id}: ${post.title}`);
    option.value = post.id;
    choice.append(option);
  }
  if (!posts.length) return say("There are no posts yet", "closed");
  choice.disabled = false;
  choice.onchange = choose;
  choose();
}

load().catch(() => say("The posts could not be loaded. Reload the page", "closed"));
