"""Training, evaluation and export of the networks; run from the checkout, never imported by the node."""
