/* The panel of StyleEdit: connects it to the node's input `edits`, to the server's previews and to the workflow file. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { EditPanel } from "./edit_panel.js";
import { setHidden } from "./hide_widget.js";

const SLIDERS = "pidiff_sliders"; // properties of the node, saved in the workflow
const FAVOURITES = "pidiff_favourites";
const PANEL_HEIGHT = 430;
const RETRY_MS = 400;
const MOST_TRIES = 25;

async function post(path, content) {
  const send = () => api.fetchApi(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
  });
  let answer = await send();
  for (let tries = 0; answer.status === 429 && tries < MOST_TRIES; tries++) { // several of these nodes have just run
    await new Promise((done) => setTimeout(done, RETRY_MS));
    answer = await send();
  }
  if (answer.ok) return answer;
  let sentence = `The preview failed (${answer.status}).`;
  try {
    sentence = (await answer.json()).error ?? sentence;
  } catch {
    // not from this pack: a proxy, or a server that has stopped
  }
  throw new Error(sentence);
}

function addPanel(node) {
  const edits = node.widgets?.find((widget) => widget.name === "edits");
  if (!edits || !node.addDOMWidget) return; // an older server, or a front end without such widgets
  setHidden(edits, true);
  edits.options ??= {};
  edits.options.hidden = true; // Nodes 2.0

  const isOn = (name) => node.widgets.find((widget) => widget.name === name)?.value;
  const panel = new EditPanel({
    read: () => edits.value,
    write: (text) => {
      edits.value = text;
      edits.callback?.(text);
      node.graph?.setDirtyCanvas?.(true, false);
    },
    plainMix: () => Object.fromEntries(["coarse", "medium", "fine"].map((l) => [l, isOn(l) ? isOn("mix") : 0])),
    hasOther: () => node.inputs?.some((input) => input.name === "other" && input.link != null) ?? false,
    favourites: () => (node.properties[FAVOURITES] ??= {}),
    locale: () => app.ui?.settings?.getSettingValue?.("Comfy.Locale") ?? "en",
    draw: async (request) => (await post("/pidiff/edit/draw", request)).blob(),
  });
  const widget = node.addDOMWidget("panel", "pidiff_panel", panel.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => PANEL_HEIGHT,
  });
  widget.serialize = false;

  // A node that was just made takes nothing of another person until a slider says so; saved ones keep what they have.
  if (!edits.value) edits.value = JSON.stringify({ directions: {}, mix: { coarse: 0, medium: 0, fine: 0 } });
  const configured = node.onConfigure;
  node.onConfigure = function (info) {
    configured?.apply(this, arguments);
    const saved = node.widgets.filter((entry) => entry.serialize !== false).indexOf(edits);
    if (info?.widgets_values && info.widgets_values[saved] == null) edits.value = "";
    if (node.properties[SLIDERS]) panel.setSliders(node.properties[SLIDERS]);
    panel.load();
  };
  const executed = node.onExecuted;
  node.onExecuted = function (output) {
    executed?.apply(this, arguments);
    const key = output?.pidiff_edit?.[0]?.key;
    if (output?.pidiff_edit) open(key);
  };
  async function open(key) {
    if (!key) return panel.say("noGenerator");
    panel.setKey(key);
    await panel.draw();
    panel.say("measuring");
    try {
      for (let more = true; more; ) {
        const sliders = await (await post("/pidiff/edit/open", { key })).json();
        more = sliders.more && panel.key === key; // a later run has a key of its own
        node.properties[SLIDERS] = sliders;
        panel.setSliders(sliders);
      }
      panel.show("");
    } catch (error) {
      panel.show(error.message);
    }
  }
  const connected = node.onConnectionsChange;
  node.onConnectionsChange = function () {
    connected?.apply(this, arguments);
    panel.load();
  };
  const removed = node.onRemoved;
  node.onRemoved = function () {
    removed?.apply(this, arguments);
    panel.dispose();
  };
  node.setSize?.([Math.max(node.size[0], 380), Math.max(node.size[1], PANEL_HEIGHT + 110)]);
  panel.load();
}

app.registerExtension({
  name: "pidiff.style_edit",
  nodeCreated(node) {
    if (node.comfyClass === "StyleEdit") addPanel(node);
  },
});
