// What the page knows: takes by id, their order (newest first), which one is on screen, which are compared.
// Every change is told as an event: "take" (detail: id), "order", "screen", "compare", "link".

import { apply, halt, isEnded, newTake, renew } from "./take.js";

class Store extends EventTarget {
  takes = new Map();
  order = [];
  onScreen = null;
  compared = [];
  hasMore = false;
  isLinked = true;
  hasWorker = true;
  #last = null;

  on(names, callback) {
    for (const name of names.split(" ")) this.addEventListener(name, event => callback(event.detail));
  }

  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  get screened() {
    return this.takes.get(this.onScreen) ?? null;
  }

  get active() {
    return this.order.map(id => this.takes.get(id)).filter(take => !isEnded(take) && !take.isPending);
  }

  // The last id of the pages that were read: where the next one begins.
  get pageEnd() {
    return this.#last;
  }

  // One page of the list; `isFirst` for the newest, whose unknown takes go on top.
  page(list, { isFirst = false } = {}) {
    const fresh = list.data.filter(video => !this.takes.has(video.id));
    for (const video of list.data) {
      const take = this.takes.get(video.id);
      if (take) renew(take, video);
      else this.takes.set(video.id, newTake(video));
    }
    const ids = fresh.map(video => video.id);
    this.order = isFirst ? [...ids, ...this.order] : [...this.order, ...ids];
    if (!isFirst || this.#last === null) {
      this.#last = list.last_id ?? this.#last;
      this.hasMore = list.has_more;
    }
    this.tell("order");
    for (const video of list.data) this.tell("take", video.id);
  }

  add(take) {
    this.takes.set(take.id, take);
    this.order = [take.id, ...this.order];
    this.tell("order");
  }

  // A take that was shown before the service knew it has got its name.
  rename(take, video) {
    this.takes.delete(take.id);
    this.order = this.order.map(id => (id === take.id ? video.id : id)).filter((id, i, all) => all.indexOf(id) === i);
    const wasOnScreen = this.onScreen === take.id;
    const old = take.id;
    Object.assign(take, { id: video.id, video, isPending: false });
    this.takes.set(take.id, take);
    if (wasOnScreen) this.onScreen = take.id;
    this.tell("renamed", { old, id: take.id });
    this.tell("take", take.id);
  }

  renew(video) {
    const take = this.takes.get(video.id);
    if (!take) return;
    renew(take, video);
    this.tell("take", video.id);
  }

  apply(id, event) {
    const take = this.takes.get(id);
    if (!take) return;
    apply(take, event);
    this.tell("take", id);
    this.tell("event", { take, event });
  }

  remove(id) {
    const index = this.order.indexOf(id);
    this.takes.delete(id);
    this.order = this.order.filter(other => other !== id);
    this.compared = this.compared.filter(other => other !== id);
    this.tell("order");
    this.tell("compare");
    if (this.onScreen === id) this.show(this.order[Math.min(index, this.order.length - 1)] ?? null);
  }

  show(id) {
    if (this.onScreen === id) return;
    const before = this.onScreen;
    this.onScreen = id;
    this.tell("screen", { before });
  }

  // At most two: a third takes the place of the older.
  compare(id) {
    if (this.compared.includes(id)) this.compared = this.compared.filter(other => other !== id);
    else this.compared = [...this.compared, id].slice(-2);
    this.tell("compare");
  }

  link(isUp) {
    if (this.isLinked === isUp) return;
    this.isLinked = isUp;
    halt(!isUp);
    this.tell("link");
  }

  worker(isThere) {
    const isNew = this.hasWorker !== isThere;
    this.hasWorker = isThere;
    if (isNew) this.tell("link");
  }
}

export const store = new Store();
