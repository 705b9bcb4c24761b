"""A trained model taken out for serving: a folder that needs jax and numpy, and none of ours.

function.py     lookup and model as one function of plain JAX, exported as StableHLO
transforms.py   columns to ids, as plain data
export.py       writes the folder
readme.py       what its README says
serve.py        goes into the folder as it is: loads it and predicts
"""

from __future__ import annotations
