"use strict";
// The interface's page: openapi.json as tables.

function make(tag, ...children) {
  const node = document.createElement(tag);
  node.append(...children);
  return node;
}

function table(titles, rows) {
  const body = rows.map((row) => make("tr", ...row.map((cell) => make("td", cell))));
  const scroll = make("div", make("table", make("thead", make("tr", ...titles.map((title) => make("th", title)))), make("tbody", ...body)));
  scroll.className = "scroll";
  return scroll;
}

function kindOf(schema, all) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map((each) => kindOf(each, all)).filter((each) => each !== "null").join(" or ");
  if (schema.type === "array") return `list of ${kindOf(schema.items, all)}`;
  const range = [schema.minimum, schema.maximum].some((each) => each !== undefined) ? `, ${schema.minimum ?? ""} to ${schema.maximum ?? ""}` : "";
  return `${schema.type ?? "any"}${range}`;
}

function operation(path, method, entry, all) {
  const section = make("section", make("h2", `${method.toUpperCase()} ${path}`), make("p", entry.summary ?? ""));
  const parameters = entry.parameters ?? [];
  if (parameters.length) {
    section.append(table(["parameter", "kind", "default", "meaning"], parameters.map((each) => [
      each.name, kindOf(each.schema, all), each.schema.default === undefined ? "" : JSON.stringify(each.schema.default), each.description ?? ""])));
  }
  const schema = entry.responses["200"]?.content?.["application/json"]?.schema;
  if (schema) section.append(make("p", `Answers with: ${kindOf(schema, all)}`));
  return section;
}

async function open() {
  document.getElementById("address").textContent = location.origin;
  const all = await (await fetch("/openapi.json")).json();
  const operations = Object.entries(all.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, entry]) => operation(path, method, entry, all)));
  const records = Object.entries(all.components.schemas).filter(([, schema]) => schema.properties).map(([name, schema]) => make("section", make("h2", name), make("p", schema.description ?? ""),
    table(["field", "kind"], Object.entries(schema.properties).map(([field, each]) => [field, kindOf(each, all)]))));
  document.getElementById("operations").append(...operations, ...records);
}

open();
