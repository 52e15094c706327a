"""PIDiff's method without its host: W+ codes, face crops, the identity adapter, editing and training.

Nothing here imports ComfyUI. Import the module you need (`pidiff_core.wplus.codes`, `pidiff_core.face.crop`): this
package imports nothing by itself, so that one missing optional dependency never takes the rest down.
"""
