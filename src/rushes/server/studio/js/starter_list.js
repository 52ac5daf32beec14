// Starters: templates whose slots make several prompts. `{slot}` is what was typed; a slot with commas in it is
// a list, and a shot that names it is made once for each.

export const STARTERS = [
  {
    id: "ads", title: "Ad variants", about: "One product in several places: see which one sells it.",
    slots: [
      { name: "product", label: "Product", value: "a red apple" },
      { name: "places", label: "Places, with commas between them", value: "on a wooden table, in the snow, at the beach, in a city at night", isList: true },
      { name: "light", label: "Light", value: "soft morning light" },
    ],
    shots: ["{product} {places}, {light}"],
  },
  {
    id: "previs", title: "Pre-visualisation", about: "One scene through four lenses, with the same seed, before anyone rents a camera.",
    slots: [
      { name: "scene", label: "What happens", value: "a dog running in the park" },
      { name: "time", label: "Time of day", value: "at dusk" },
    ],
    shots: ["wide shot of {scene} {time}", "close-up of {scene} {time}", "{scene} {time}, seen from above", "{scene} {time}, the camera follows slowly"],
    hasOneSeed: true,
  },
  {
    id: "lesson", title: "A lesson's clips", about: "Short pictures for what a teacher says: a beginning, the thing itself, a comparison.",
    slots: [
      { name: "topic", label: "Subject", value: "a butterfly" },
      { name: "place", label: "Where it is at home", value: "a flower meadow" },
      { name: "other", label: "To compare it with", value: "a bee" },
    ],
    shots: ["{place}, seen slowly from left to right", "{topic} in {place}, close up", "{topic} flying across {place}", "{topic} and {other} side by side in {place}"],
  },
  {
    id: "presenter", title: "A presenter", about: "The same host in the moods that a programme needs.",
    slots: [
      { name: "host", label: "Host", value: "a friendly robot" },
      { name: "set", label: "Set", value: "a bright studio" },
      { name: "moods", label: "Moods, with commas between them", value: "waving hello, explaining, surprised, saying goodbye", isList: true },
    ],
    shots: ["{host} {moods} in {set}, facing the camera"],
    hasOneSeed: true,
  },
];

// The prompts that a starter makes of what was typed.
export function prompts(starter, values) {
  const lists = starter.slots.filter(slot => slot.isList);
  let drafts = [...starter.shots];
  for (const slot of starter.slots) {
    const typed = (values[slot.name] ?? slot.value).trim();
    const choices = lists.includes(slot) ? typed.split(",").map(text => text.trim()).filter(Boolean) : [typed];
    drafts = drafts.flatMap(draft =>
      (draft.includes(`{${slot.name}}`) ? choices.map(choice => draft.replaceAll(`{${slot.name}}`, choice)) : [draft]));
  }
  return [...new Set(drafts.map(draft => draft.replace(/\s+/g, " ").replace(/ ,/g, ",").trim()))].filter(Boolean);
}
