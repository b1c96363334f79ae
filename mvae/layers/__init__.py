"""The first and the last layer of a Mult-VAE, for a catalogue so large that most of a batch is zeros.

The same arithmetic as in `mvae.model`, in another order: `sparse` computes on the items that were liked only, `adam`
updates a weight that is stored item by item. Nothing here knows Lightning, or where batches come from.
"""
