"""Kills at random moments, from a seed: nothing acknowledged is lost, nothing is done twice.

`python -m tests.faults --seeds 200` runs a real node, a real Orthanc and four senders for each seed, with
`--engine triton` also a real Triton server that runs the model; kills of any of them, and a disk that fills
up, come as `plan` drew them; then all is left to finish, and `verdict` looks at spool, index and archive.
"""
