// What `/v1/models` says, in the shape that forms are made from.

// Fields that have a place of their own in the form; all others stand under "More".
export const FIRST_FIELDS = ["num_frames", "num_inference_steps", "seed"];
export const SIZE_FIELDS = ["width", "height"];

const byName = list => (Array.isArray(list) ? Object.fromEntries(list.map(item => [item.name ?? item.id, item])) : list ?? {});

const pair = size => {
  if (Array.isArray(size)) return size;
  return typeof size === "string" ? size.split("x").map(Number) : [size.width, size.height];
};

export function readModels(list) {
  return list.data.map(model => ({
    id: model.id,
    title: model.title ?? model.id,
    isServed: model.is_served !== false,
    fields: byName(model.fields),
    presets: byName(model.presets),
    sizes: (model.sizes ?? []).map(pair),
    defaults: model.defaults ?? {},
  }));
}

// Default of every field under a preset, by name; the first preset is the model's own.
export function defaultsOf(model, preset) {
  const first = Object.values(model.defaults)[0];
  const isByPreset = first !== null && typeof first === "object";
  if (isByPreset) return model.defaults[preset] ?? model.defaults[model.defaults.preset] ?? first;
  return { ...model.defaults, ...pick(model.presets[preset] ?? {}, Object.keys(model.fields)) };
}

const pick = (values, names) =>
  Object.fromEntries(names.filter(name => values[name] !== undefined && values[name] !== null).map(name => [name, values[name]]));
