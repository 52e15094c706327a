/* Hide a widget of the canvas, or show it again. Nodes 2.0 looks at `options.hidden` and `options.advanced` instead. */

export function setHidden(widget, hidden) {
  if (widget.hidden === hidden) return;
  widget.hidden = hidden;
  if (hidden) {
    widget.pidiffComputeSize = Object.hasOwn(widget, "computeSize") ? widget.computeSize : null;
    widget.computeSize = () => [0, -4]; // older front ends keep a hidden widget's space: its height and a gap of 4
  } else if (widget.pidiffComputeSize) {
    widget.computeSize = widget.pidiffComputeSize;
  } else {
    delete widget.computeSize;
  }
}
