"""What the models share below the level of a model.

`sparse` and `adam` are for a catalogue so large that most of a batch is zeros: the same arithmetic as in `mvae.model`,
in another order. `processes` is for several processes that train one model. Nothing here knows Lightning, or where
batches come from.
"""
