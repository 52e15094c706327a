"""PIDiff's method without its host: W+ codes, face crops, the identity adapter, editing and training.

Nothing here imports ComfyUI. Import the module that you need (`pidiff_core.wplus`, `pidiff_core.face.align` ...): this
package imports nothing by itself, so that one missing optional dependency never takes the rest down.
"""
