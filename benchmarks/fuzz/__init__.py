"""Bad input by the hundred thousand: photos, answers, indexes, settings and requests that nobody meant well.

    python -m benchmarks.fuzz --inputs 100000 --seed 0

Belongs here: making inputs and judging what became of them. Does not belong here: one known bad input, which is a test.

Every input must end in a value, in a problem that is counted, or in an error of `nutridet_core.errors` (of the gateway:
a refusal of its documented form). Anything else is `broken`. Each target runs in a child process whose memory is
limited, and whose parent notices when it stands still. Input number i of a target depends on seed, target and i only,
so that a broken one can be made again; that of `openapi`, which Hypothesis draws, on seed and all before it.
"""
