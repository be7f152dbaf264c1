"""Empirical privacy: attacks on the real training path, whose success bounds epsilon from below.

bounds.py      guesses about canaries -> a lower bound of epsilon
canaries.py    gradient canaries: records of a shard with a chosen gradient
texts.py       text canaries: made-up reports
decoder.py     a random decoder, to be audited
stage.py       a shard with canaries, trained by the real loop; what an adversary sees of it
controls.py    the real loop, broken on purpose
battery.py     which audits there are
membership.py, retrieval.py, risk.py    attacks, and what epsilon says about any of them
outcome.py     tables and audit.json
"""
