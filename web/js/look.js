/* How the pack's nodes look in every front end: colours of its two wires, and advanced inputs that stay folded. */

import { app } from "../../../scripts/app.js";
import { setHidden } from "./hide_widget.js";

const WIRES = { PIDIFF_MODEL: "#d9a441", PIDIFF_WPLUS: "#e0709b" };
const NODES = new Set(["LoadPIDiff", "EncodeIdentityW+", "ApplyIdentityAdapter", "StyleEdit"]);
const TOGGLE = "pidiff_advanced";

/* Again with every node: a colour theme that is loaded later resets the colours of all types that it does not know. */
function colourWires() {
  const canvas = app.canvas;
  Object.assign(canvas.default_connection_color_byType ?? {}, WIRES);
  Object.assign(canvas.constructor.link_type_colors ?? {}, WIRES);
  for (const [type, colour] of Object.entries(WIRES)) {
    document.documentElement.style.setProperty(`--color-datatype-${type}`, colour); // Nodes 2.0
  }
}

/* Nodes 2.0 folds inputs with `options.advanced` under a button of its own. The canvas shows them (or, in some versions,
   keeps their space free), so here they are hidden, and a button brings them back. */
function foldAdvanced(node) {
  const advanced = (node.widgets ?? []).filter((widget) => widget.options?.advanced);
  if (!advanced.length) return;
  const show = () => {
    for (const widget of advanced) setHidden(widget, !node.showAdvanced || widget.options.hidden === true);
    const count = advanced.filter((widget) => !widget.options.hidden).length;
    toggle.label = node.showAdvanced ? "Hide advanced inputs" : `Show advanced inputs (${count})`;
  };
  const toggle = node.addWidget("button", TOGGLE, null, () => {
    const [, before] = node.computeSize();
    node.showAdvanced = !node.showAdvanced;
    show();
    const [width, after] = node.computeSize();
    node.setSize([Math.max(node.size[0], width), Math.max(node.size[1] + after - before, after)]);
    node.setDirtyCanvas?.(true, true);
  });
  toggle.serialize = false;
  toggle.options.serialize = false;
  toggle.options.canvasOnly = true;
  show();
  const configured = node.onConfigure;
  node.onConfigure = function (info) {
    configured?.apply(this, arguments);
    if (info?.showAdvanced !== undefined) node.showAdvanced = info.showAdvanced;
    show();
  };
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), height]);
}

app.registerExtension({
  name: "pidiff.look",
  afterConfigureGraph: colourWires,
  nodeCreated(node) {
    if (!NODES.has(node.comfyClass) && !node.comfyClass?.startsWith("PIDiff")) return;
    colourWires();
    foldAdvanced(node);
  },
});
