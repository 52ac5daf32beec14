// Starters: templates whose slots make several prompts. `{slot}` is what was typed; a slot with commas in it is
// a list, and a shot that names it is made once for each.

export const STARTERS = [
  {
    id: "ads", title: "Ad variants", about: "One product in several places: see which one sells it.",
    slots: [
      { name: "product", label: "Product", value: "a red apple" },
      { name: "places", label: "Places, with commas between them", value: "on the beach, in the snow, in the living room, in the city", isList: true },
      { name: "light", label: "Light or camera", value: "the camera zooms in" },
    ],
    shots: ["{product} {places}, {light}"],
  },
  {
    id: "previs", title: "Pre-visualisation", about: "One scene with four moves of the camera and the same seed, before anyone rents one.",
    slots: [
      { name: "scene", label: "What happens", value: "a dog running to the right" },
      { name: "time", label: "Time of day", value: "at sunset" },
    ],
    shots: ["{scene} {time}, the camera zooms out", "{scene} {time}, the camera zooms in", "{scene} {time}, the camera pans left", "{scene} {time}, the camera pans right"],
    hasOneSeed: true,
  },
  {
    id: "lesson", title: "A lesson's clips", about: "Short pictures for what a teacher says: a beginning, the thing itself, a comparison.",
    slots: [
      { name: "topic", label: "Subject", value: "a butterfly" },
      { name: "place", label: "Where it is at home", value: "a flowery meadow" },
      { name: "other", label: "To compare it with", value: "a bee" },
    ],
    shots: ["{place}, the camera pans right", "{topic} in {place}, the camera zooms in", "{topic} moving from left to right in {place}", "{topic} and {other} in {place}"],
  },
  {
    id: "presenter", title: "A presenter", about: "The same host in the moods that a programme needs.",
    slots: [
      { name: "host", label: "Host", value: "a friendly robot" },
      { name: "set", label: "Set", value: "a cosy room" },
      { name: "moods", label: "Moods, with commas between them", value: "jumping up and down, turning around, shaking, standing still", isList: true },
    ],
    shots: ["{host} {moods} in {set}"],
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
