// What `/v1/models` says, in the shape that forms are made from.

// Fields that have a place of their own in the form; all others stand under "More".
export const FIRST_FIELDS = ["num_frames", "num_inference_steps", "seed"];
export const SIZE_FIELDS = ["width", "height"];

export function readModels(list) {
  return list.data.map(model => ({
    id: model.id,
    title: model.title ?? model.id,
    isServed: model.is_served !== false,
    fields: Object.fromEntries(Object.entries(model.fields).map(([name, field]) => [name, { name, ...field }])),
    presets: model.presets,
    defaultPreset: model.default_preset,
    sizes: model.sizes,
    defaults: model.defaults,
    editStrength: model.edit?.strength ?? 0.8,
    modes: model.supports_causal ? ["full", "causal"] : [],
  }));
}

// Default of every field under a preset, by name.
export const defaultsOf = (model, preset) => model.presets[preset]?.defaults ?? model.defaults;

// The preset that a video was made with: a video has its settings, not its preset's name, and some presets bring
// weights of their own. The same weights first, then the most settings in common, then the order of the list.
export function presetOf(model, video) {
  const likeness = ({ defaults, lora }) => 100 * Number((lora ?? null) === (video.lora ?? null))
    + Object.entries(defaults).filter(([name, value]) => value !== null && video[name] === value).length;
  const names = Object.keys(model.presets);
  return names.reduce((best, name) => (likeness(model.presets[name]) > likeness(model.presets[best]) ? name : best), names[0]);
}
