// The API key: from `#key=...` in the address, which is then taken out of it, or as it was typed once.

const NAME = "rushes.key";
let key = null;

export const storage = {
  get(name) {
    try { return localStorage.getItem(name); } catch { return null; }
  },
  set(name, value) {
    try {
      if (value === null) localStorage.removeItem(name);
      else localStorage.setItem(name, value);
    } catch { /* forbidden or full: it lasts as long as the page */ }
  },
};

export function takeKey() {
  const found = new URLSearchParams(location.hash.slice(1)).get("key");
  if (found) {
    setKey(found);
    history.replaceState(null, "", location.pathname + location.search);
  } else key = storage.get(NAME);
}

export function setKey(value) {
  key = value || null;
  storage.set(NAME, key);
}

export const hasKey = () => key !== null;

export const authorization = () => (key === null ? {} : { Authorization: `Bearer ${key}` });
