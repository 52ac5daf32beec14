// The page at /docs: the OpenAPI file as a list of calls, without another host's script.

const METHODS = ["get", "post", "put", "delete"];

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function table(title, rows) {
  if (!rows.length) return [];
  const made = element("table");
  const head = made.createTHead().insertRow();
  head.append(element("th", title), element("th", "type"), element("th", "meaning"));
  const body = made.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const text of row) line.append(element("td", text));
  }
  return [made];
}

function typeOf(schema = {}) {
  const kinds = schema.anyOf?.map(typeOf) ?? [schema.enum?.join(" | ") ?? schema.type ?? "any"];
  const bounds = [schema.minimum, schema.maximum].some((bound) => bound !== undefined)
    ? ` ${schema.minimum ?? "…"} to ${schema.maximum ?? "…"}`
    : "";
  return kinds.flat().join(" or ") + bounds;
}

function parameters(call) {
  return (call.parameters ?? []).map((each) => [
    `${each.name} (${each.in})`,
    typeOf(each.schema),
    each.description ?? each.schema?.description ?? "",
  ]);
}

function fields(call) {
  const schema = call.requestBody?.content?.["application/json"]?.schema;
  const required = new Set(schema?.required ?? []);
  return Object.entries(schema?.properties ?? {}).map(([name, each]) => [
    required.has(name) ? `${name} *` : name,
    typeOf(each),
    each.description ?? "",
  ]);
}

function answers(call) {
  return Object.entries(call.responses ?? {}).map(([status, each]) => [
    status,
    Object.keys(each.content ?? {}).join(", "),
    each.description,
  ]);
}

function entry(path, method, call) {
  const made = element("details");
  const line = element("summary");
  line.append(element("span", method.toUpperCase(), "method"), element("span", path, "path"));
  made.append(
    line,
    element("p", call.description ?? call.summary ?? ""),
    ...table("parameter", parameters(call)),
    ...table("field (* is required)", fields(call)),
    ...table("answer", answers(call)),
  );
  return made;
}

async function show() {
  const place = document.getElementById("calls");
  try {
    const schema = await (await fetch("/openapi.json")).json();
    const entries = Object.entries(schema.paths).flatMap(([path, calls]) =>
      METHODS.filter((method) => calls[method]).map((method) => entry(path, method, calls[method])),
    );
    place.replaceChildren(...entries);
  } catch (error) {
    place.replaceChildren(element("p", `The file cannot be read: ${error.message}`));
  }
}

show();
