/* Text and warnings of the pack's nodes, shown on the node after a run. Pictures are ComfyUI's own previews. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const NODES = new Set(["EncodeIdentityW+", "ApplyIdentityAdapter", "StyleEdit"]);
const LINE_PX = 17;
const MOST_LINES = 8;
const MARGIN_PX = 24; // of the widget, above and below

function showReport(node, output) {
  const text = [output?.text].flat().filter((part) => typeof part === "string").join("\n");
  let widget = node.widgets?.find((entry) => entry.name === "pidiff_report");
  if (!text) {
    if (widget) widget.element.textContent = "";
    return;
  }
  if (!widget) {
    const element = document.createElement("div");
    element.className = "pidiff-report";
    element.setAttribute("role", "status");
    Object.assign(element.style, {
      font: `12px/${LINE_PX}px Inter, Arial, sans-serif`, color: "var(--descrip-text, #bbb)", overflow: "auto",
      whiteSpace: "pre-wrap", userSelect: "text", padding: "0 4px", boxSizing: "border-box",
    });
    widget = node.addDOMWidget("pidiff_report", "pidiff_report", element, {
      serialize: false, hideOnZoom: false,
      getMinHeight: () => widget.lines * LINE_PX + MARGIN_PX, getMaxHeight: () => widget.lines * LINE_PX + MARGIN_PX,
    });
    widget.serialize = false;
  }
  const warnings = new Set(output.pidiff_warnings ?? []);
  const parts = text.split("\n");
  const across = Math.max(20, Math.floor((node.size[0] - 30) / 6.2));
  const lines = parts.reduce((sum, part) => sum + Math.max(1, Math.ceil(part.length / across)), 0);
  widget.lines = Math.min(lines, MOST_LINES);
  widget.element.replaceChildren(...parts.map((part) => {
    const line = document.createElement("div");
    line.textContent = warnings.has(part) ? `⚠ ${part}` : part;
    if (warnings.has(part)) line.style.color = "#f0b040";
    return line;
  }));
  const [width, height] = node.computeSize();
  node.setSize?.([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "pidiff.report",
  setup() {
    // A run that has nothing to report sends nothing: what the last one reported goes when the node runs again.
    api.addEventListener("executing", ({ detail }) => {
      const node = detail == null ? null : app.graph.getNodeById(detail);
      if (node?.widgets?.some((entry) => entry.name === "pidiff_report")) showReport(node, {});
    });
  },
  nodeCreated(node) {
    if (!node.addDOMWidget || !(NODES.has(node.comfyClass) || node.comfyClass?.startsWith("PIDiff"))) return;
    const executed = node.onExecuted;
    node.onExecuted = function (output) {
      executed?.apply(this, arguments);
      showReport(node, output);
    };
  },
});
